"""What tests/test_codecs.py does not cover of the i-quants: ties, zeros, flips and overflows inside their searches."""

import numpy as np
import pytest
from oracles import LEVELS, codec_at, decode, encode, oracle_decode, oracle_encode
from weights import make_rows

IQ3 = ("IQ3_XXS", "IQ3_S")
IQ4 = ("IQ4_NL", "IQ4_XS")

at_every_level = pytest.mark.parametrize("level", LEVELS)


def importance(cols, seed=0):
    return np.random.default_rng(seed).random(cols, np.float32) + np.float32(0.01)


def assert_as_the_oracle(name, x, columns, level):
    np.testing.assert_array_equal(encode(name, x, columns, level), oracle_encode(name, x, columns))


# ---- IQ3: four weights are a point of a codebook ----


@at_every_level
@pytest.mark.parametrize("name", IQ3)
@pytest.mark.parametrize("steps", [2, 7, 14, 15, 16, 30, 60])
def test_weights_halfway_between_levels_are_rounded_as_by_the_oracle(name, steps, level):
    rng = np.random.default_rng(steps)
    x = (rng.integers(-steps, steps + 1, (20, 512)) / np.float32(15)).astype(np.float32)
    x[:, ::32] = steps / np.float32(15)
    for columns in (None, np.ones(512, np.float32), importance(512)):
        assert_as_the_oracle(name, x, columns, level)


@at_every_level
@pytest.mark.parametrize("name", IQ3)
def test_equal_weights_choose_the_first_of_equally_near_points(name, level):
    rng = np.random.default_rng(3)
    x = rng.choice(np.float32([0.5, 1, 3]), (20, 512)) * rng.choice(np.float32([-1, 1]), (20, 512))
    x[10:] = np.repeat(x[10:, ::4], 4, axis=1)
    for columns in (None, np.ones(512, np.float32)):
        assert_as_the_oracle(name, x, columns, level)


@at_every_level
@pytest.mark.parametrize("name", IQ3)
def test_sub_blocks_of_zeros_lie_where_the_oracle_puts_them(name, level):
    x = make_rows("normal", 40, 512, 0.05, 4)
    empty = np.random.default_rng(5).random((40, 16)) < 0.4
    x[np.repeat(empty, 32, axis=1)] = 0
    x[0, ::2] = -0.0
    for columns in (None, importance(512)):
        assert_as_the_oracle(name, x, columns, level)


@at_every_level
def test_a_flipped_weight_that_outweighs_the_others_turns_the_scale_of_iq3_xxs(level):
    x = np.random.default_rng(6).uniform(1, 1.5, (20, 256)).astype(np.float32)
    x[:, ::8] = -1e-3  # one sign in eight is negative, which cannot be stored: the weight of least w * x^2 flips
    columns = np.ones(256, np.float32)
    columns[::8] = 5e5
    flipped = encode("IQ3_XXS", x, columns, level)
    np.testing.assert_array_equal(flipped, oracle_encode("IQ3_XXS", x, columns))
    assert (np.sign(decode("IQ3_XXS", flipped, level)) != np.sign(x)).mean() > 0.5


@at_every_level
@pytest.mark.parametrize("name", IQ3)
def test_weights_that_nothing_weighs_are_encoded_as_by_the_oracle(name, level):
    x = make_rows("heavy", 20, 512, 0.1, 7)
    columns = importance(512)
    columns[np.repeat(np.arange(16) % 3 == 0, 32)] = 0
    assert_as_the_oracle(name, x, columns, level)
    assert_as_the_oracle(name, x, np.zeros(512, np.float32), level)


@at_every_level
@pytest.mark.parametrize("name", IQ3)
def test_error_weights_that_overflow_are_refused_by_row(name, level):
    x = make_rows("normal", 40, 256, 1.0, 8)
    expected = encode(name, x, None, level)
    for row in (0, 5, 17, 39):
        weights = np.square(x)
        weights[row, 100] = np.inf
        with pytest.raises(ValueError) as refused:
            encode(name, x, weights, level)
        assert refused.value.row == row
    np.testing.assert_array_equal(encode(name, x, np.square(x), level), expected)


# ---- IQ4: uneven levels ----


@at_every_level
@pytest.mark.parametrize("name", IQ4)
def test_weights_on_a_boundary_between_levels_take_the_upper(name, level):
    values = np.float32([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
    boundaries = (values[1:] + values[:-1]) / 2
    rng = np.random.default_rng(9)
    for scale in (1, 0.25, 127 / 128, 1 / 3):
        x = rng.choice(np.concatenate([values, boundaries]), (20, 512)).astype(np.float32) * np.float32(scale)
        x[:, ::32] = np.float32(-127 * scale)
        for columns in (None, np.ones(512, np.float32), importance(512)):
            assert_as_the_oracle(name, x, columns, level)


@at_every_level
@pytest.mark.parametrize("name", IQ4)
def test_one_sided_blocks_meet_at_most_one_boundary_along_the_scales(name, level):
    ramp = np.linspace(-1.1, 1.1, 128 * 512, dtype=np.float32).reshape(128, 512)
    for sign in (1, -1):
        x = ramp.copy()
        x[:, ::32] = sign
        assert_as_the_oracle(name, x, None, level)


@at_every_level
@pytest.mark.parametrize("name", [*IQ3, *IQ4])
def test_rows_before_one_that_overflows_are_stored(name, level):
    x = make_rows("normal", 40, 256, 1.0, 10)
    expected = encode(name, x, None, level)
    for bad in (1, 7, 16, 38):
        y = x.copy()
        y[bad] *= np.float32(1e12)
        out = np.zeros_like(expected)
        with pytest.raises(ValueError) as refused:
            codec_at(name, level).encode_rows(y, out, None)
        assert refused.value.row == bad
        np.testing.assert_array_equal(out[:bad], expected[:bad])


@at_every_level
@pytest.mark.parametrize("name", [*IQ3, *IQ4])
def test_every_code_decodes_as_the_oracle_does(name, level):
    size = {"IQ3_XXS": 98, "IQ3_S": 110, "IQ4_NL": 18, "IQ4_XS": 136}[name]
    blocks = np.repeat(np.arange(256, dtype=np.uint8), size).reshape(256, size)
    blocks[:, :2] = np.float16(0.5).reshape(1, 1).view(np.uint8)
    np.testing.assert_array_equal(decode(name, blocks, level), oracle_decode(name, blocks))
