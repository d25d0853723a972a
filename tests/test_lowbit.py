"""Q1_0, Q2_0, TQ1_0 and TQ2_0 against models of them in NumPy: the only live oracle of Q2_0, which libgguf lacks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import LEVELS, bits, decode, encode
from weights import make_rows, rows

from quantreg import types

NAMES = ("Q1_0", "Q2_0", "TQ1_0", "TQ2_0")

at_every_level = pytest.mark.parametrize("level", LEVELS)
of_every_type = pytest.mark.parametrize("name", NAMES)


def halves(d):
    """The two bytes of each float16, and which are finite."""
    with np.errstate(over="ignore"):
        h = d.astype(np.float16)
    return h[:, None].view(np.uint8), np.isfinite(h)


def q1_0(x):
    with np.errstate(over="ignore"):
        total = np.cumsum(np.abs(x), axis=1, dtype=np.float32)[:, -1]  # in order, each sum rounded
    d, finite = halves(total / np.float32(128))
    return np.hstack([d, np.packbits(x >= 0, axis=1, bitorder="little")]), finite


def scaled(x):
    """Weights over the largest magnitude of their block, rounded (halves away from zero), plus 1; the magnitudes; and
    which blocks have one so small that its inverse is infinite: all weights count as zero there."""
    amax = np.abs(x).max(axis=1)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / amax
    lost = np.isinf(inverse)
    v = x * np.where(lost, np.float32(0), inverse)[:, None]
    return 1 + (np.abs(v) >= 0.5) * np.sign(v).astype(int), amax, lost & (amax > 0)


def q2_0(x):
    q, amax, lost = scaled(x)
    q[lost] = 0
    d, finite = halves(amax)
    return np.hstack([d, (q.reshape(-1, 16, 4) << (0, 2, 4, 6)).sum(axis=2).astype(np.uint8)]), finite


def tq2_0(x):
    q, amax, _ = scaled(x)
    d, finite = halves(amax)
    q = (q.reshape(-1, 2, 4, 32) << np.reshape((0, 2, 4, 6), (4, 1))).sum(axis=2)
    return np.hstack([q.reshape(-1, 64).astype(np.uint8), d]), finite


def tq1_0(x):
    q, amax, _ = scaled(x)
    d, finite = halves(amax)
    parts = []
    for start, digits, width in ((0, 5, 32), (160, 5, 16), (240, 4, 4)):
        part = q[:, start : start + digits * width].reshape(-1, digits, width)
        parts.append((part * 3 ** np.arange(4, 4 - digits, -1).reshape(-1, 1)).sum(axis=1))
    return np.hstack([-(-np.hstack(parts) * 256 // 243), d], dtype=np.uint8, casting="unsafe"), finite


MODELS = {"Q1_0": q1_0, "Q2_0": q2_0, "TQ1_0": tq1_0, "TQ2_0": tq2_0}


@of_every_type
@given(data=st.data())
def test_encode_equals_the_model(name, data):
    qtype = types[name]
    x = data.draw(rows(qtype.block_size, scales=(-46, 8)))
    level = data.draw(st.sampled_from(LEVELS))
    expected, finite = MODELS[name](x.reshape(-1, qtype.block_size))
    finite = finite.reshape(len(x), -1).all(axis=1)
    if finite.all():
        np.testing.assert_array_equal(encode(name, x, None, level), expected.reshape(len(x), -1))
    else:
        with pytest.raises(ValueError) as refused:
            encode(name, x, None, level)
        assert refused.value.row == np.argmin(finite)


def digits_of(name, blocks):
    """What each weight is a multiple of d by, from the bytes."""
    if name == "Q1_0":
        return 2.0 * np.unpackbits(blocks[:, 2:], axis=1, bitorder="little") - 1
    if name == "Q2_0":
        return ((blocks[:, 2:, None] >> (0, 2, 4, 6)) & 3).reshape(-1, 64) - 1.0
    if name == "TQ2_0":
        return ((blocks[:, :64].reshape(-1, 2, 1, 32) >> np.reshape((0, 2, 4, 6), (4, 1))) & 3).reshape(-1, 256) - 1.0
    parts = []
    for start, end, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        fractions = blocks[:, None, start:end] * 3 ** np.arange(digits).reshape(-1, 1) % 256
        parts.append((fractions * 3 // 256).reshape(len(blocks), -1))
    return np.hstack(parts) - 1.0


@at_every_level
@of_every_type
def test_decode_equals_the_model_for_every_byte(name, level):
    qtype = types[name]
    n = qtype.type_size - 2
    blocks = (np.arange(256)[:, None] + np.arange(qtype.type_size) * 7).astype(np.uint8)
    at = 0 if name in ("Q1_0", "Q2_0") else n
    d = np.resize(np.array([1, -3.5, 0, 6e-8, 65504], np.float16), 256)
    blocks[:, at : at + 2] = d[:, None].view(np.uint8)
    expected = digits_of(name, blocks).astype(np.float32) * d[:, None].astype(np.float32)
    np.testing.assert_array_equal(bits(decode(name, blocks, level)), bits(expected))


@at_every_level
@of_every_type
def test_importance_is_ignored(name, level):
    x = make_rows("normal", 3, 512, 0.1, 8)
    columns = np.random.default_rng(2).random(512, np.float32)
    np.testing.assert_array_equal(encode(name, x, columns, level), encode(name, x, None, level))


@at_every_level
@pytest.mark.parametrize("name", ["Q2_0", "TQ1_0", "TQ2_0"])
def test_halves_are_rounded_away_from_zero(name, level):
    size = types[name].block_size
    x = np.zeros((1, size), np.float32)
    below = np.nextafter(np.float32(0.5), np.float32(0))
    x[0, :6] = 1, 0.5, below, -0.5, -below, -1
    expected = np.zeros((1, size), np.float32)
    expected[0, :6] = 1, 1, 0, -1, 0, -1
    np.testing.assert_array_equal(decode(name, encode(name, x, None, level), level), expected)


@at_every_level
def test_both_zeros_have_the_positive_sign_in_q1_0(level):
    x = np.resize(np.array([0.0, -0.0, -1e-45], np.float32), (1, 128))
    np.testing.assert_array_equal(encode("Q1_0", x, None, level)[:, 2:], np.packbits(x >= 0, bitorder="little")[None])


@at_every_level
def test_blocks_whose_inverse_scale_overflows(level):
    """The reference casts infinity to an int in Q2_0, negative on x86, and to a long in TQ*, whose low half is 0."""
    x = np.full((1, 256), 2.0**-128, np.float32)
    assert (encode("Q2_0", x, None, level) == 0).all()
    assert (encode("TQ2_0", x, None, level)[:, :64] == 0b01010101).all()
    assert (encode("TQ1_0", x, None, level)[:, :48] == -(-121 * 256 // 243)).all()
