"""What tests/test_codecs.py does not cover of the K-quants: Q8_K, hostile ranges, overflowing rows, wrapped scales."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import LEVELS, bits, codec_at, decode, encode, oracle_decode, oracle_encode
from weights import KINDS, make_rows, rows

from quantreg import types

SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")

at_every_level = pytest.mark.parametrize("level", LEVELS)


def importance(cols, seed=0):
    return np.random.default_rng(seed).random(cols, np.float32) + np.float32(0.01)


def assert_as_the_oracle(name, x, columns, level):
    """The same bytes up to the first row with a scale that is not finite, and that row refused."""
    expected = oracle_encode(name, x, columns)
    finite = np.isfinite(scales(name, expected)).all(axis=1)
    n = len(x) if finite.all() else int(np.argmin(finite))
    out = np.full_like(expected, 0xAA)
    if n < len(x):
        with pytest.raises(ValueError) as refused:
            codec_at(name, level).encode_rows(x, out, columns)
        assert refused.value.row == n
    else:
        codec_at(name, level).encode_rows(x, out, columns)
    np.testing.assert_array_equal(out[:n], expected[:n])


def scales(name, data):
    """The float16 scales of each block."""
    at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[name]
    blocks = data.reshape(len(data), -1, types[name].type_size)
    return np.concatenate([np.ascontiguousarray(blocks[..., i : i + 2]).view("<f2")[..., 0] for i in at], axis=1)


# ---- searches ----


def hostile_rows(kind, seed):
    """Rows whose sums lose precision, so that scales come out negative, huge or as rounding noise."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 20)), 256 * int(rng.integers(1, 4)))
    sign = rng.choice([-1.0, 1.0], shape)
    return {
        "log-normal": lambda: np.exp(rng.uniform(0.5, 6) * rng.standard_normal(shape)) * sign,
        "wide": lambda: 10.0 ** rng.uniform(-12, 3, shape) * sign,
        "two values": lambda: rng.choice(rng.standard_normal(2), shape),
        "offset": lambda: rng.standard_normal(shape) * 10.0 ** rng.uniform(-8, 0) + rng.choice([-1.0, 1.0]),
        "clusters": lambda: rng.choice(rng.standard_normal(6), shape) * (1 + 1e-6 * rng.standard_normal(shape)),
        "signed zeros": lambda: rng.choice([0.0, -0.0, 1.0, -1.0], shape),
    }[kind]()


HOSTILE = ("log-normal", "wide", "two values", "offset", "clusters", "signed zeros")


@pytest.mark.parametrize("name", SEARCHED)
@given(data=st.data())
def test_hostile_ranges_equal_the_live_oracle(name, data):
    x = hostile_rows(data.draw(st.sampled_from(HOSTILE)), data.draw(st.integers(0, 2**32 - 1)))
    x = np.clip(x * 10.0 ** data.draw(st.floats(-30, 4)), -1e4, 1e4).astype(np.float32)
    kind = data.draw(st.sampled_from(("none", "typical", "mostly zero", "all zero", "wide")))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    columns = {
        "none": lambda: None,
        "typical": lambda: importance(x.shape[1]),
        "mostly zero": lambda: (rng.random(x.shape[1]) < 0.05).astype(np.float32),
        "all zero": lambda: np.zeros(x.shape[1], np.float32),
        "wide": lambda: (10.0 ** rng.uniform(-12, 6, x.shape[1])).astype(np.float32),
    }[kind]()
    assert_as_the_oracle(name, x, columns, data.draw(st.sampled_from(LEVELS)))


@pytest.mark.parametrize("name", SEARCHED)
@given(data=st.data())
def test_any_finite_magnitude_equals_the_live_oracle_or_is_refused(name, data):
    """Where sums overflow the reference may still write finite scales, of zero for instance, and so must we."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    x = make_rows(data.draw(st.sampled_from(KINDS)), 6, 512, 1.0, seed).astype(np.float64)
    exponent = np.random.default_rng(seed).uniform(0, 38, (6, 2)).repeat(256, axis=1)
    x = np.clip(x * 10.0**exponent, -3.4e38, 3.4e38).astype(np.float32)
    columns = data.draw(st.sampled_from((None, importance(512), importance(512) * np.float32(1e-30))))
    assert_as_the_oracle(name, x, columns, data.draw(st.sampled_from(LEVELS)))


@at_every_level
@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("bad", [0, 1, 7, 16, 38])
def test_rows_before_one_that_overflows_are_complete(name, bad, level):
    x = make_rows("normal", 40, 512, 1.0, 2)
    x[bad:, 300] = 1e10
    for columns in (None, importance(512)):
        assert not np.isfinite(scales(name, oracle_encode(name, x, columns))[bad]).all()
        assert_as_the_oracle(name, x, columns, level)


@at_every_level
@pytest.mark.parametrize("name", SEARCHED)
def test_any_number_of_super_blocks_is_encoded_as_one_by_one(name, level):
    x = make_rows("heavy", 1, 256 * 37, 0.1, 1)
    columns = importance(256)
    for weights in (None, columns):
        expected = encode(name, x.reshape(-1, 256), weights, level)
        for n in (1, 3, 4, 5, 15, 16, 17, 37):
            row_weights = None if weights is None else np.tile(columns, n)
            got = encode(name, x[:, : 256 * n], row_weights, level)
            np.testing.assert_array_equal(got.reshape(n, -1), expected[:n])


@at_every_level
@pytest.mark.parametrize("name", SEARCHED)
def test_every_half_precision_scale_is_decoded(name, level):
    """Subnormal, infinite and NaN scales too."""
    size = types[name].type_size
    half = {"Q2_K": 80, "Q3_K": 108, "Q4_K": 0, "Q5_K": 0, "Q6_K": 208}[name]
    data = np.random.default_rng(1).integers(0, 256, (1 << 12, size), np.uint8)
    data[:, half : half + 2] = np.arange(0, 1 << 16, 16, dtype="<u2").view(np.uint8).reshape(-1, 2)
    np.testing.assert_array_equal(bits(decode(name, data, level)), bits(oracle_decode(name, data)))


def test_the_scores_of_q6_k_are_the_columns():
    x, columns = make_rows("normal", 3, 512, 1.0, 1), importance(512)
    for level in LEVELS:
        out = np.empty_like(x)
        codec_at("Q6_K", level).score_rows(x, columns, out)
        np.testing.assert_array_equal(out, np.broadcast_to(columns, x.shape))


# ---- Q8_K, which libgguf lacks ----


def nearest(v):
    """ggml's rounding by the bits of v + 1.5 * 2^23."""
    with np.errstate(invalid="ignore"):
        return ((v + np.float32(12582912)).view(np.int32) & 0x007FFFFF) - 0x00400000


def q8_k_model(x):
    """uint8 (rows, row_bytes) after the layout in _q8_k.pyx, in NumPy."""
    blocks = x.reshape(-1, 256)
    peak = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(axis=1)][:, None]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.float32(-127) / peak
        q = np.minimum(nearest(inverse * blocks), 127).astype(np.int8)
        d = np.float32(1) / inverse
    q[peak[:, 0] == 0] = 0
    d[peak == 0] = 0
    sums = q.reshape(-1, 16, 16).sum(axis=2, dtype=np.int16)
    data = [part.view(np.uint8).reshape(len(blocks), -1) for part in (d.astype("<f4"), q, sums.astype("<i2"))]
    return np.concatenate(data, axis=1).reshape(len(x), -1)


def awkward_blocks():
    rng = np.random.default_rng(5)
    for _ in range(20):
        x = rng.uniform(-1, 1, 256)
        x[rng.permutation(256)[:9]] = rng.choice([1.5, -1.5], 9)  # both signs of the peak
        yield x
        yield rng.choice([0.0, -0.0], 256)
        yield rng.integers(-127, 128, 256) / 127 * (1 + 1e-7 * rng.standard_normal(256))
        yield (rng.integers(-127, 127, 256) + 0.5) / 127  # ties
        yield rng.standard_normal(256) * 2.0 ** rng.integers(-149, -115)  # the inverse scale is infinite, or nearly
        yield rng.integers(-3, 4, 256) * 2.0**-149
        yield rng.standard_normal(256) * 7e37


@given(x=rows(256, scales=(-45, 4)), level=st.sampled_from(LEVELS))
def test_q8_k_equals_the_model(x, level):
    expected = q8_k_model(x)
    np.testing.assert_array_equal(encode("Q8_K", x, None, level), expected)
    np.testing.assert_array_equal(encode("Q8_K", x, importance(x.shape[1]), level), expected)


@at_every_level
def test_q8_k_equals_the_model_for_awkward_blocks(level):
    x = np.array(list(awkward_blocks()), np.float32)
    np.testing.assert_array_equal(encode("Q8_K", x, None, level), q8_k_model(x))


@given(seed=st.integers(0, 2**32 - 1), level=st.sampled_from(LEVELS))
def test_q8_k_decodes_any_bytes_as_scale_times_integer(seed, level):
    data = np.random.default_rng(seed).integers(0, 256, (3, 292 * 5), np.uint8)
    blocks = data.reshape(-1, 292)
    d = blocks[:, :4].copy().view("<f4")
    with np.errstate(invalid="ignore", over="ignore"):
        expected = d * blocks[:, 4:260].view(np.int8).astype(np.float32)
    np.testing.assert_array_equal(bits(decode("Q8_K", data, level)), bits(expected.reshape(3, -1)))
