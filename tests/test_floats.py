"""F32, F16, BF16, F64 and I8 .. I64 against NumPy and ml_dtypes, at every CPU level."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import LEVELS, NATIVE, bits, codec_at, decode, encode, floats_of_halves

import quantreg
from quantreg import NonFiniteError, types

DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
INTEGERS = [name for name in DTYPES if name[0] == "I"]

at_every_level = pytest.mark.parametrize("level", LEVELS)


def model(name, x):
    """(bytes, which rows fit): what encoding float32 means, in NumPy."""
    dtype = DTYPES[name]
    with np.errstate(over="ignore", under="ignore"):
        if name in INTEGERS:
            limit = 2.0 ** (8 * dtype.itemsize - 1)
            nearest = np.rint(x.astype(np.float64))
            fits = (nearest >= -limit) & (nearest < limit)
            values = np.where(fits, nearest, 0).astype(dtype)
        else:
            values = x.astype(dtype)
            fits = np.isfinite(values.astype(np.float64))
    return values.view(np.uint8).reshape(len(x), -1), fits.all(axis=1)


@st.composite
def numbers(draw, name):
    """float32 (rows, cols) around everything that matters to a type: its limits, ties, subnormals."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 70)))
    if name in INTEGERS:
        limit = 2.0 ** (8 * DTYPES[name].itemsize - 1)
        x = rng.uniform(-1, 1, shape) * limit * draw(st.sampled_from([0.9, 1.0, 1.01]))
        x = np.where(rng.random(shape) < 0.5, rng.integers(-100, 100, shape) + 0.5, x)
        x = np.where(rng.random(shape) < 0.1, rng.uniform(2**22, 2**24, shape), x) if limit > 2**24 else x
    else:
        top = 4.8 if name == "F16" else 38.4
        x = rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(-46, draw(st.sampled_from([0, 4, top])), shape)
        steps = rng.integers(0, 2**16, shape, np.uint32) << 16  # ties of BF16; half of them of F16
        exact = (steps + np.where(rng.random(shape) < 0.5, 0x8000, 0x1000).astype(np.uint32)).view(np.float32)
        x = np.where((rng.random(shape) < 0.3) & (np.abs(exact) < 6e4), exact, x)
    return np.clip(x, -np.finfo(np.float32).max, np.finfo(np.float32).max).astype(np.float32)


@pytest.mark.parametrize("name", DTYPES)
@given(data=st.data())
def test_encode_equals_numpy_or_names_the_first_row_that_does_not_fit(name, data):
    x = data.draw(numbers(name))
    level = data.draw(st.sampled_from(LEVELS))
    expected, fits = model(name, x)
    if fits.all():
        np.testing.assert_array_equal(encode(name, x, None, level), expected)
    else:
        with pytest.raises(ValueError) as refused:
            encode(name, x, None, level)
        assert refused.value.row == np.argmin(fits)


@pytest.mark.parametrize("name", DTYPES)
@given(data=st.data())
def test_decode_of_any_bytes_at_any_alignment_equals_numpy(name, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 70)) * DTYPES[name].itemsize)
    offset = data.draw(st.integers(0, 7))
    buffer = rng.integers(0, 256, shape[0] * shape[1] + offset, np.uint8)
    got = decode(name, buffer[offset:].reshape(shape), data.draw(st.sampled_from(LEVELS)))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = buffer[offset:].copy().view(DTYPES[name]).astype(np.float32).reshape(got.shape)
    np.testing.assert_array_equal(bits(got), bits(expected))


@at_every_level
@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_half_decodes_and_every_finite_half_comes_back(name, level):
    halves = np.arange(1 << 16, dtype="<u2")
    values = decode(name, halves.view(np.uint8).reshape(1, -1), level)
    expected = floats_of_halves(halves.view(DTYPES[name]))
    np.testing.assert_array_equal(bits(values[0]), bits(expected))
    assert np.isnan(values).any()
    assert np.isinf(values).any()
    finite = np.isfinite(expected)
    back = encode(name, values[:, finite], None, level)
    np.testing.assert_array_equal(back.view("<u2")[0], halves[finite])


@at_every_level
@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("F16", np.nextafter(np.float32(65520), np.float32(0))),
        ("BF16", np.uint32(0x7F7F7FFF).view(np.float32)),
        ("F32", np.finfo(np.float32).max),
        ("F64", np.finfo(np.float32).max),
        ("I8", np.nextafter(np.float32(127.5), np.float32(0))),
        ("I16", np.nextafter(np.float32(32767.5), np.float32(0))),
        ("I32", np.nextafter(np.float32(2**31), np.float32(0))),
        ("I64", np.nextafter(np.float32(2**63), np.float32(0))),
    ],
)
def test_the_largest_value_that_fits_and_the_next(name, largest, level):
    x = np.zeros((3, 37), np.float32)
    x[1, 36] = largest
    expected, fits = model(name, x)
    assert fits.all()
    np.testing.assert_array_equal(encode(name, x, None, level), expected)
    if name not in ("F32", "F64"):
        x[1, 36] = np.nextafter(largest, np.float32(np.inf))
        with pytest.raises(ValueError) as refused:
            encode(name, x, None, level)
        assert refused.value.row == 1


@at_every_level
@pytest.mark.parametrize("name", INTEGERS)
def test_the_most_negative_integer_fits_and_the_next_does_not(name, level):
    lowest = np.float32(-(2.0 ** (8 * DTYPES[name].itemsize - 1)))
    ties = np.float32(0.5) if name in ("I8", "I16") else np.float32(0)  # -128.5 rounds to -128
    x = np.full((2, 5), lowest - ties, np.float32)
    np.testing.assert_array_equal(decode(name, encode(name, x, None, level), level), np.full_like(x, lowest))
    x[1, 4] = np.nextafter(x[1, 4], np.float32(-np.inf))
    with pytest.raises(ValueError) as refused:
        encode(name, x, None, level)
    assert refused.value.row == 1


def test_f64_decodes_beyond_float32_to_infinity():
    data = np.array([[1e300, -1e300, np.nan, 1e-300, 0.1]], "<f8").view(np.uint8)
    expected = np.array([[np.inf, -np.inf, np.nan, 0, np.float32(0.1)]], np.float32)
    np.testing.assert_array_equal(quantreg.dequantize(data, "F64"), expected)


def test_overflow_names_the_row_and_the_type():
    x = np.ones((4, 20), np.float32)
    x[2, 3] = 65520
    with pytest.raises(NonFiniteError, match="row 2 holds values too large for F16"):
        quantreg.quantize(x, "F16")


@pytest.mark.parametrize("name", DTYPES)
def test_plain_numbers_have_no_fallback_and_read_no_importance(name):
    assert types[name].block_size == 1
    assert types[name].type_size == DTYPES[name].itemsize
    assert types[name].fallback is None
    assert not codec_at(name, NATIVE[-1]).has_scorer
