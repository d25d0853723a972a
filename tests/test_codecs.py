"""Every type against the reference's bytes, at every CPU level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import GOLDEN, LEVELS, NO_ORACLE, bits, codec_at, decode, encode, golden, oracle_decode, oracle_encode
from weights import importance as importances
from weights import make_rows, rows

import quantreg
from quantreg import NonFiniteError, types

WITH_GOLDEN = [name for name in types if (GOLDEN / "codec" / f"{name}.npz").exists()]
BLOCKED = [name for name in WITH_GOLDEN if types[name].block_size > 1]
LIVE = [name for name in BLOCKED if name not in NO_ORACLE]
SCORED = [name for name in BLOCKED if types[name].codec.has_scorer]

at_every_level = pytest.mark.parametrize("level", LEVELS)


def finite_rows(name, data):
    return np.isfinite(oracle_decode(name, data)).all(axis=1)


@at_every_level
@pytest.mark.parametrize("name", WITH_GOLDEN)
def test_encode_writes_the_golden_bytes(name, level):
    x, columns = golden("inputs")["x"], golden("inputs")["importance"]
    expected = golden(name)
    assert "plain" in expected or "weighted" in expected
    if "plain" in expected:
        np.testing.assert_array_equal(encode(name, x, None, level), expected["plain"])
    if "weighted" in expected:
        np.testing.assert_array_equal(encode(name, x, columns, level), expected["weighted"])


@at_every_level
@pytest.mark.parametrize("name", WITH_GOLDEN)
def test_decode_gives_the_golden_floats(name, level):
    expected = golden(name)
    np.testing.assert_array_equal(bits(decode(name, expected["weighted"], level)), bits(expected["decoded"]))


@pytest.mark.parametrize("name", LIVE)
@given(data=st.data())
def test_encode_equals_the_live_oracle(name, data):
    x = data.draw(rows(types[name].block_size))
    columns = (
        data.draw(importances(x.shape[1])) if types[name].requires_importance or data.draw(st.booleans()) else None
    )
    level = data.draw(st.sampled_from(LEVELS))
    expected = oracle_encode(name, x, columns)
    finite = finite_rows(name, expected)
    if finite.all():
        np.testing.assert_array_equal(encode(name, x, columns, level), expected)
    else:
        with pytest.raises(ValueError) as refused:
            encode(name, x, columns, level)
        assert refused.value.row == np.argmin(finite)


@pytest.mark.parametrize("name", LIVE)
@given(data=st.data())
def test_decode_of_any_bytes_equals_the_live_oracle(name, data):
    qtype = types[name]
    shape = (data.draw(st.integers(1, 4)), qtype.type_size * data.draw(st.integers(1, 5)))
    blocks = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(0, 256, shape, np.uint8)
    level = data.draw(st.sampled_from(LEVELS))
    np.testing.assert_array_equal(bits(decode(name, blocks, level)), bits(oracle_decode(name, blocks)))


@pytest.mark.parametrize("name", SCORED)
@given(data=st.data())
def test_column_statistics_equal_the_scorers_weights(name, data):
    x = data.draw(rows(types[name].block_size))
    columns = data.draw(importances(x.shape[1]))
    level = data.draw(st.sampled_from(LEVELS))
    weights = np.full_like(x, np.nan)
    codec_at(name, level).score_rows(x, columns, weights)
    try:
        expected = encode(name, x, columns, level)
    except ValueError as refused:
        with pytest.raises(type(refused)):
            encode(name, x, weights, level)
    else:
        np.testing.assert_array_equal(encode(name, x, weights, level), expected)


@pytest.mark.parametrize("name", BLOCKED)
def test_all_levels_agree_on_many_blocks_and_odd_row_counts(name):
    size = types[name].block_size
    x = make_rows("heavy", 7, 3 * size, 0.1, 5)
    columns = np.random.default_rng(1).random(x.shape[1], np.float32) + np.float32(0.01)
    for weights in (None, columns):
        if weights is None and types[name].requires_importance:
            continue
        expected = encode(name, x, weights, LEVELS[0])
        for level in LEVELS[1:]:
            np.testing.assert_array_equal(encode(name, x, weights, level), expected)
        one_by_one = np.concatenate([encode(name, x[i : i + 1], weights) for i in range(len(x))])
        np.testing.assert_array_equal(one_by_one, expected)


@pytest.mark.parametrize("name", BLOCKED)
def test_a_row_with_nan_or_infinity_is_refused_by_row_and_column(name):
    size = types[name].block_size
    columns = np.ones(2 * size, np.float32) if types[name].requires_importance else None
    for bad in (np.nan, np.inf, -np.inf):
        x = make_rows("normal", 4, 2 * size, 1.0, 3)
        x[2, size + 1] = bad
        with pytest.raises(NonFiniteError, match=rf"row 2 holds NaN or infinity at column {size + 1}"):
            quantreg.quantize(x, name, columns, threads=1)


@pytest.mark.filterwarnings("ignore::quantreg.errors.LossWarning")  # NVFP4 saturates, as the oracle does
@pytest.mark.parametrize("name", [n for n in LIVE if n not in ("BF16", "MXFP4")])
def test_huge_values_are_encoded_as_the_oracle_does_or_refused_by_row(name):
    size = types[name].block_size
    x = make_rows("normal", 5, 2 * size, 1.0, 4)
    x[3] *= np.float32(1e10)
    columns = np.ones(2 * size, np.float32) if types[name].requires_importance else None
    expected = oracle_encode(name, x, columns)
    finite = finite_rows(name, expected)
    if finite.all():
        np.testing.assert_array_equal(quantreg.quantize(x, name, columns), expected)
    else:
        with pytest.raises(NonFiniteError, match=f"row {np.argmin(finite)} holds values too large for {name}"):
            quantreg.quantize(x, name, columns)
