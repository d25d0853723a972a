"""What tests/test_codecs.py does not cover of Q4_0 .. Q8_1: rows as lanes, ties and signs of zero, Q8_1, strides."""

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import LEVELS, NATIVE, codec_at, cpu_level, decode, encode, floats_of_halves, oracle_encode, row_codec_at
from row_codec import Args, Rows
from weights import make_rows, rows

import quantreg
from quantreg import NonFiniteError, types

WEIGHTED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
ALL = (*WEIGHTED, "Q8_0", "Q8_1")

at_every_level = pytest.mark.parametrize("level", LEVELS)


def importance(cols, seed=0):
    return np.random.default_rng(seed).random(cols, np.float32) + np.float32(0.01)


# ---- rows ----


@at_every_level
@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 17])
def test_every_row_is_scored_by_its_own_mean_square(name, blocks, level):
    columns = importance(32 * blocks)
    for n_rows in (1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 50):
        x = make_rows("heavy", n_rows, 32 * blocks, 0.1, n_rows)
        x *= np.float32(10) ** np.random.default_rng(n_rows).integers(-4, 4, (n_rows, 1)).astype(np.float32)
        np.testing.assert_array_equal(encode(name, x, columns, level), oracle_encode(name, x, columns))


@at_every_level
@pytest.mark.parametrize("name", ALL)
def test_any_number_of_blocks_is_encoded_as_block_by_block(name, level):
    x = make_rows("heavy", 1, 32 * 70, 0.1, 1)
    expected = encode(name, x.reshape(-1, 32), None, level)
    for blocks in (1, 3, 4, 5, 15, 16, 17, 31, 33, 70):
        got = encode(name, x[:, : 32 * blocks], None, level)
        np.testing.assert_array_equal(got.reshape(blocks, -1), expected[:blocks])


@at_every_level
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("blocks", [1, 3, 20])
def test_the_first_row_that_overflows_is_named(name, blocks, level):
    for bad in (0, 1, 7, 16, 38, 39):
        x = make_rows("normal", 40, 32 * blocks, 1.0, 2)
        x[bad:, -1] = 1e8
        for columns in (None, importance(32 * blocks)):
            with pytest.raises(ValueError) as refused:
                encode(name, x, columns, level)
            assert refused.value.row == bad


# ---- ties and zeros ----


def awkward_blocks():
    """Blocks in which the first of equals, or the sign of a zero, decides a stored byte."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        x = rng.uniform(-1, 1, 32)
        x[rng.permutation(32)[:6]] = rng.choice([1.5, -1.5], 6)  # both signs of the peak
        yield x
        x = np.maximum(rng.standard_normal(32), 0)
        yield np.where(x == 0, rng.choice([0.0, -0.0], 32), x)  # both zeros as minimum
        yield -np.where(x == 0, rng.choice([0.0, -0.0], 32), x)
        yield rng.choice([0.0, -0.0], 32)
        yield rng.choice([1.0, -1.0, 0.0, -0.0], 32)
        yield np.full(32, rng.standard_normal())
        yield rng.standard_normal(32) * 2.0 ** rng.integers(-149, -110)  # scales near where their inverse is infinite
        yield rng.integers(-3, 4, 32) * 2.0**-149


@at_every_level
@pytest.mark.parametrize("name", [name for name in ALL if name != "Q8_1"])
def test_ties_zeros_and_denormals(name, level):
    x = np.array(list(awkward_blocks()), np.float32)
    np.testing.assert_array_equal(encode(name, x, None, level), oracle_encode(name, x))
    columns = importance(32)
    np.testing.assert_array_equal(encode(name, x, columns, level), oracle_encode(name, x, columns))


# ---- Q8_1 ----


def q8_1_model(x):
    """uint8 (rows, row_bytes) after the layout in _q8_1.pyx, in NumPy."""
    blocks = x.reshape(-1, 32)
    d = np.abs(blocks).max(axis=1) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        v = np.where(np.isinf(inverse)[:, None], np.float32(0), blocks * inverse[:, None]).astype(np.float64)
        q = np.copysign(np.floor(np.abs(v) + 0.5), v).astype(np.int8)
        s = q.sum(axis=1, dtype=np.int32).astype(np.float32) * d
        halves = np.stack([d, s], axis=1).astype("<f2")
    data = np.concatenate([halves.view(np.uint8), q.view(np.uint8)], axis=1)
    return data.reshape(len(x), -1), np.isfinite(halves).all(axis=1).reshape(len(x), -1).all(axis=1)


@given(x=rows(32), level=st.sampled_from(LEVELS))
def test_q8_1_equals_the_model(x, level):
    expected, finite = q8_1_model(x)
    if finite.all():
        np.testing.assert_array_equal(encode("Q8_1", x, None, level), expected)
        assert np.array_equal(encode("Q8_1", x, np.ones(x.shape[1], np.float32), level), expected)
    else:
        with pytest.raises(ValueError) as refused:
            encode("Q8_1", x, None, level)
        assert refused.value.row == np.argmin(finite)


@at_every_level
def test_q8_1_model_writes_the_golden_bytes_for_awkward_blocks_too(level):
    x = np.array(list(awkward_blocks()), np.float32)
    np.testing.assert_array_equal(encode("Q8_1", x, None, level), q8_1_model(x)[0])


@given(seed=st.integers(0, 2**32 - 1), level=st.sampled_from(LEVELS))
def test_q8_1_decodes_any_bytes_as_scale_times_integer(seed, level):
    data = np.random.default_rng(seed).integers(0, 256, (3, 36 * 5), np.uint8)
    blocks = data.reshape(-1, 36)
    d = floats_of_halves(blocks[:, :2].copy().view("<f2"))
    with np.errstate(invalid="ignore"):
        expected = (d * blocks[:, 4:].view(np.int8).astype(np.float32)).reshape(3, -1)
    np.testing.assert_array_equal(decode("Q8_1", data, level), expected)


def test_q8_1_refuses_a_sum_beyond_float16():
    x = np.ones((3, 64), np.float32)
    x[1, 32:] = 2100
    with pytest.raises(NonFiniteError, match="row 1 holds values too large for Q8_1"):
        quantreg.quantize(x, "Q8_1")


# ---- strides, which Python callers cannot pass ----


def call(codec, member, *fields):
    args = Args(ctypes.sizeof(Args), *fields)
    return Rows(getattr(codec, member))(ctypes.addressof(codec), ctypes.addressof(args))


@at_every_level
@pytest.mark.parametrize("name", ALL)
def test_rows_may_lie_apart(name, level):
    n_rows, cols = 21, 96
    size = types[name].row_bytes(cols)
    wide = make_rows("heavy", n_rows, cols + 5, 0.1, 3)
    x = np.ascontiguousarray(wide[:, :cols])
    weights = np.abs(make_rows("normal", n_rows, cols + 3, 1.0, 4)) + np.float32(0.01)
    codec = row_codec_at(name, level)
    for given_weights in (None, weights) if name in WEIGHTED else (None,):
        expected = encode(name, x, None if given_weights is None else given_weights[:, :cols].copy(), level)
        out = np.full((n_rows, size + 7), 0xAA, np.uint8)
        tail = (None, 0, 0) if given_weights is None else (weights.ctypes.data, 2, cols + 3)
        done = call(codec, "encode_rows", wide.ctypes.data, out.ctypes.data, n_rows, cols, cols + 5, size + 7, *tail)
        assert done == n_rows
        np.testing.assert_array_equal(out[:, :size], expected)
        assert (out[:, size:] == 0xAA).all()
    back = np.full((n_rows, cols + 2), np.nan, np.float32)
    assert call(codec, "decode_rows", out.ctypes.data, back.ctypes.data, n_rows, cols, size + 7, cols + 2) == n_rows
    np.testing.assert_array_equal(back[:, :cols], decode(name, np.ascontiguousarray(out[:, :size]), level))
    assert np.isnan(back[:, cols:]).all()
    if name in WEIGHTED:
        columns, scores = importance(cols), np.empty((n_rows, cols), np.float32)
        codec_at(name, level).score_rows(x, columns, scores)
        back[:] = np.nan
        fields = (wide.ctypes.data, back.ctypes.data, n_rows, cols, cols + 5, cols + 2, columns.ctypes.data)
        assert call(codec, "score_rows", *fields) == n_rows
        np.testing.assert_array_equal(back[:, :cols], scores)
        assert np.isnan(back[:, cols:]).all()


def test_unforced_codecs_are_the_best_level():
    with cpu_level(NATIVE[-1]):
        assert types["Q4_0"]._load_codec().level == NATIVE[-1]
