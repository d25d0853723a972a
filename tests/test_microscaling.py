"""MXFP4 and NVFP4 where the generic tests do not reach: scales at the edges of their range, ties, and huge weights."""

import numpy as np
import pytest
from oracles import LEVELS, bits, decode, encode, oracle_encode

FLOAT_MAX = np.finfo(np.float32).max
VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)

at_every_level = pytest.mark.parametrize("level", LEVELS)


def near(values, reach):
    """Every float within `reach` steps of the given positive ones."""
    patterns = np.asarray(values, np.float32).view(np.int32)[:, None].astype(np.int64) + np.arange(-reach, reach + 1)
    patterns = np.unique(patterns[(patterns >= 0) & (patterns < 0x7F800000)])
    return patterns.astype(np.uint32).view(np.float32)


def blocks_led_by(magnitudes, size, seed):
    """One block for each magnitude, its largest; the other weights are random below it."""
    rng = np.random.default_rng(seed)
    x = (rng.uniform(-1, 1, (len(magnitudes), size)) * magnitudes[:, None]).astype(np.float32)
    x[np.arange(len(x)), rng.integers(0, size, len(x))] = np.where(rng.random(len(x)) < 0.5, magnitudes, -magnitudes)
    return x


@at_every_level
def test_mxfp4_scale_near_every_power_of_two(level):
    """The reference takes the exponent from log2f, which rounds up to 88 floats below a power of two to the power."""
    with np.errstate(over="ignore"):
        magnitudes = near(np.append(np.exp2(np.arange(-149.0, 128)), FLOAT_MAX), 120)
    x = blocks_led_by(magnitudes, 32, 0)
    np.testing.assert_array_equal(encode("MXFP4", x, None, level), oracle_encode("MXFP4", x))


@at_every_level
def test_mxfp4_decodes_every_scale_and_code(level):
    blocks = np.zeros((256, 17), np.uint8)
    blocks[:, 0] = np.arange(256)
    blocks[:, 1:] = np.arange(16) * 17  # the same code in both nibbles
    with np.errstate(over="ignore"):
        # twice the value times half the scale: 2^(255 - 127) itself is not in range
        expected = 2 * VALUES * np.exp2(np.arange(256.0)[:, None] - 128).astype(np.float32)
    np.testing.assert_array_equal(bits(decode("MXFP4", blocks, level)), bits(np.hstack([expected, expected])))


@at_every_level
def test_nvfp4_scale_at_every_boundary(level):
    exponent, mantissa = np.divmod(np.arange(128), 8)
    scales = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    middles = (scales[1:] + scales[:-1]) / 2
    x = blocks_led_by(near(np.concatenate([scales[1:], middles]) * 6, 60), 16, 1)
    x = x[: len(x) // 4 * 4].reshape(-1, 64)
    np.testing.assert_array_equal(encode("NVFP4", x, None, level), oracle_encode("NVFP4", x))


@at_every_level
def test_nvfp4_decodes_every_scale_and_code(level):
    blocks = np.zeros((256, 36), np.uint8)
    blocks[:, :4] = np.arange(256)[:, None]
    blocks[:, 4:] = np.tile(np.arange(8) + 16 * np.arange(8, 16), 4)
    exponent, mantissa = np.divmod(np.arange(256) & 127, 8)
    scale = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    scale[127] = 0  # the format's NaN, though not with the sign bit set
    expected = (np.tile(VALUES, 4) * scale[:, None]).astype(np.float32)
    np.testing.assert_array_equal(bits(decode("NVFP4", blocks, level)), bits(expected))


@at_every_level
@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_ties_and_their_neighbours(name, level):
    size = 32 if name == "MXFP4" else 16
    middles = (VALUES[1:8] + VALUES[:7]) / 2
    for scale in np.float32([2.0**-126, 2.0**-9, 1, 256] if name == "MXFP4" else [2.0**-9, 0.8125, 1, 448]):
        x = near(middles * scale, 3)
        x = np.concatenate([x, -x])
        x = np.resize(x, (-(-len(x) // (size - 1)), size - 1))
        x = np.hstack([np.full((len(x), 1), 6 * scale, np.float32), x])  # sets the scale
        x = np.resize(x, (-(-len(x) // 4) * 4, size)).reshape(-1, 64)
        np.testing.assert_array_equal(encode(name, x, None, level), oracle_encode(name, x))


@at_every_level
def test_nvfp4_of_weights_beyond_its_range(level):
    """From 2^33 on the reference's distances to several values round to the same number, and it takes the smallest."""
    magnitudes = np.exp2(np.linspace(11, 127.9, 4000)).astype(np.float32)
    x = blocks_led_by(magnitudes, 16, 2).reshape(-1, 64)
    written = encode("NVFP4", x, None, level)
    np.testing.assert_array_equal(written, oracle_encode("NVFP4", x))
    assert np.isfinite(decode("NVFP4", written, level)).all()


@at_every_level
@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_importance_is_ignored(name, level):
    x = blocks_led_by(np.linspace(0.1, 1, 6, dtype=np.float32), 64, 3)
    columns = np.random.default_rng(2).random(64, np.float32)
    np.testing.assert_array_equal(encode(name, x, columns, level), encode(name, x, None, level))
