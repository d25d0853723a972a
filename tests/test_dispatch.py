"""quantize and dequantize on whole arrays: shapes, dtypes, layouts, threads, importance, errors."""

import ml_dtypes
import numpy as np
import pytest
from entries import registered
from weights import make_rows

import quantreg
from quantreg import (
    CodecError,
    NonFiniteError,
    QuantType,
    ShapeError,
    UnknownTypeError,
    dispatch,
    hookimpl,
    quantize,
    types,
)
from quantreg.registry import registry

X = make_rows("normal", 6, 512, 0.1, 11)
COLUMNS = np.random.default_rng(2).random(512, np.float32) + np.float32(0.01)


def test_the_last_axis_becomes_bytes_and_comes_back():
    data = quantize(X, "Q4_K")
    assert data.shape == (6, 288)
    assert data.dtype == np.uint8
    back = quantreg.dequantize(data, "Q4_K")
    assert back.shape == X.shape
    assert back.dtype == np.float32
    assert np.sqrt(np.mean((back - X) ** 2)) < 0.1 * X.std()


@pytest.mark.parametrize("shape", [(3072,), (6, 512), (2, 3, 512), (1, 2, 3, 512), (0, 512), (2, 0, 512)])
def test_any_leading_shape(shape):
    x = X.reshape(-1)[: int(np.prod(shape))].reshape(shape)
    data = quantize(x, "Q4_K")
    assert data.shape == (*shape[:-1], shape[-1] // 256 * 144)
    np.testing.assert_array_equal(data.reshape(-1), quantize(x.reshape(-1, 256), "Q4_K").reshape(-1))
    assert quantreg.dequantize(data, "Q4_K").shape == shape


def test_a_type_may_be_given_by_name_by_id_or_as_an_object():
    expected = quantize(X, "Q4_K")
    for key in ("q4_k", 12, np.int64(12), types["Q4_K"]):
        np.testing.assert_array_equal(quantize(X, key), expected)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),  # read-only
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),  # misaligned
        lambda x: x.astype(">f4"),
        lambda x: x.tolist(),
    ],
    ids=["fortran", "rows", "columns", "reversed", "read-only", "misaligned", "big-endian", "list"],
)
def test_any_memory_layout(layout):
    np.testing.assert_array_equal(quantize(layout(X), "Q4_K"), quantize(X, "Q4_K"))


def test_half_double_and_integer_input():
    half = X.astype(np.float16)
    np.testing.assert_array_equal(quantize(half, "Q4_K"), quantize(half.astype(np.float32), "Q4_K"))
    np.testing.assert_array_equal(quantize(X.astype(np.float64), "Q4_K"), quantize(X, "Q4_K"))
    whole = np.arange(512).reshape(1, 512)
    np.testing.assert_array_equal(quantize(whole, "Q4_K"), quantize(whole.astype(np.float32), "Q4_K"))


def test_bfloat16_input():
    x = X.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(quantize(x, "Q4_K"), quantize(x.astype(np.float32), "Q4_K"))


def test_output_of_another_dtype_and_into_an_array():
    data = quantize(X, "Q4_K")
    expected = quantreg.dequantize(data, "Q4_K")
    np.testing.assert_array_equal(quantreg.dequantize(data, "Q4_K", dtype=np.float16), expected.astype(np.float16))
    for out in (np.empty_like(X), np.empty(X.shape, np.float64), np.empty(X.shape[::-1], np.float32).T):
        assert quantreg.dequantize(data, "Q4_K", out=out) is out
        np.testing.assert_array_equal(out, expected.astype(out.dtype))


def test_data_may_be_bytes_read_only_or_strided():
    data = quantize(X, "Q4_K")
    expected = quantreg.dequantize(data, "Q4_K")
    np.testing.assert_array_equal(quantreg.dequantize(data[0].tobytes(), "Q4_K"), expected[0])
    np.testing.assert_array_equal(quantreg.dequantize(np.repeat(data, 2, axis=0)[::2], "Q4_K"), expected)
    np.testing.assert_array_equal(quantreg.dequantize(data.view(np.int8), "Q4_K"), expected)


@pytest.mark.parametrize("name", ["Q4_K", "Q4_0", "Q8_0"])
def test_bytes_do_not_depend_on_threads_or_slabs(name, monkeypatch):
    x = make_rows("heavy", 37, 1024, 1.0, 3)
    columns = np.random.default_rng(4).random(1024, np.float32)
    expected = quantize(x, name, columns, threads=1)
    decoded = quantreg.dequantize(expected, name, threads=1)
    for slab in (1, 3000, 5000, 1 << 18):
        monkeypatch.setattr(dispatch, "SLAB_WEIGHTS", slab)
        monkeypatch.setattr(dispatch, "DECODE_SLAB_WEIGHTS", slab)
        for threads in (1, 2, 5):
            np.testing.assert_array_equal(quantize(x, name, columns, threads=threads), expected)
            np.testing.assert_array_equal(quantreg.dequantize(expected, name, threads=threads), decoded)


def test_experts_take_their_own_statistics():
    x = make_rows("normal", 6, 512, 1.0, 8).reshape(3, 2, 512)
    columns = np.random.default_rng(5).random((3, 512), np.float32)
    together = quantize(x, "Q4_K", columns)
    for expert in range(3):
        np.testing.assert_array_equal(together[expert], quantize(x[expert], "Q4_K", columns[expert]))
    np.testing.assert_array_equal(quantize(x, "Q4_K", columns[0])[1], quantize(x[1], "Q4_K", columns[0]))


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_weights_from_the_scorer_give_the_bytes_of_the_statistics(name):
    weights = types[name].score(X, COLUMNS)
    np.testing.assert_array_equal(quantize(X, name, weights), quantize(X, name, COLUMNS))
    assert not np.array_equal(quantize(X, name, COLUMNS), quantize(X, name))


def test_the_importance_hook_of_a_k_quant_is_its_encoders_scorer():
    weights = registry.hook.score_importance(qtype=types["Q4_K"], tensor="t", weights=X, columns=COLUMNS)
    np.testing.assert_array_equal(weights, types["Q4_K"].score(X, COLUMNS))
    assert registry.hook.score_importance(qtype=types["Q8_0"], tensor="t", weights=X, columns=COLUMNS) is None


@pytest.fixture
def scorer():
    """A plugin whose score_importance the test sets."""

    class Scorer:
        answer = staticmethod(lambda qtype, tensor, weights, columns: None)

        @hookimpl
        def score_importance(self, qtype, tensor, weights, columns):
            return self.answer(qtype, tensor, weights, columns)

    plugin = Scorer()
    with registered(plugin):
        yield plugin


def test_a_plugins_scorer_replaces_the_encoders(scorer):
    seen = []

    def answer(qtype, tensor, weights, columns):
        seen.append((qtype.name, tensor, weights.shape, columns is None))
        return np.abs(weights) + 1

    scorer.answer = answer
    expected = quantize(X, "Q4_K", np.abs(X) + 1)
    seen.clear()
    np.testing.assert_array_equal(quantize(X, "Q4_K", COLUMNS, threads=1, tensor="blk.0"), expected)
    assert seen == [("Q4_K", "blk.0", X.shape, False)]
    np.testing.assert_array_equal(quantize(X, "Q4_K"), expected)


def test_a_scorer_that_abstains_lets_the_encoder_use_its_own_scores(scorer, monkeypatch):
    expected = quantize(X, "Q4_K", COLUMNS)
    seen = []
    scorer.answer = lambda qtype, tensor, weights, columns: seen.append(qtype.name)
    monkeypatch.setattr(QuantType, "score", lambda *args: pytest.fail("the encoder computes the scores faster"))
    np.testing.assert_array_equal(quantize(X, "Q4_K", COLUMNS, threads=1), expected)
    assert seen == ["Q4_K"]


def test_a_scorer_may_return_statistics_or_abstain(scorer):
    plain, weighted = quantize(X, "Q4_K"), quantize(X, "Q4_K", COLUMNS)
    scorer.answer = lambda qtype, tensor, weights, columns: COLUMNS
    np.testing.assert_array_equal(quantize(X, "Q4_K"), weighted)
    scorer.answer = lambda qtype, tensor, weights, columns: None
    np.testing.assert_array_equal(quantize(X, "Q4_K"), plain)
    np.testing.assert_array_equal(quantize(X, "Q4_K", COLUMNS), weighted)


def test_a_scorer_of_the_wrong_shape_is_refused(scorer):
    scorer.answer = lambda qtype, tensor, weights, columns: np.ones(3)
    with pytest.raises(
        ShapeError, match=r"a tensor: score_importance of plugin Scorer of Scorer returned shape \(3,\)"
    ):
        quantize(X, "Q4_K")


def test_weights_given_by_the_caller_are_not_scored_again(scorer):
    given = np.abs(X) + 2
    expected = quantize(X, "Q4_K", given)
    scorer.answer = lambda qtype, tensor, weights, columns: np.ones_like(weights)
    np.testing.assert_array_equal(quantize(X, "Q4_K", given), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: quantize(X[:, :100], "Q4_K"), ShapeError, "a row of 100 weights does not divide"),
        (lambda: quantize(np.float32(3), "Q4_K"), ShapeError, "at least one dimension"),
        (lambda: quantize(X.astype(complex), "Q4_K"), ShapeError, "dtype complex128"),
        (lambda: quantize(X, "Q4_K", COLUMNS[:5]), ShapeError, r"importance has shape \(5,\), expected \(512,\)"),
        (lambda: quantize(X, "Q4_K", -COLUMNS), NonFiniteError, "negative"),
        (lambda: quantize(X, "Q4_K", COLUMNS * np.nan), NonFiniteError, "NaN"),
        (lambda: quantize(X, "Q4_KK"), UnknownTypeError, "did you mean Q4_K"),
        (lambda: quantreg.dequantize(np.zeros((2, 143), np.uint8), "Q4_K"), ShapeError, "row of 143 bytes"),
        (lambda: quantreg.dequantize(X, "Q4_K"), ShapeError, "must be uint8"),
        (lambda: quantreg.dequantize(quantize(X, "Q4_K"), "Q4_K", out=np.empty((6, 3))), ShapeError, "out has shape"),
        (lambda: quantize(X * np.float32(1e30), "Q8_0"), NonFiniteError, "row 0 holds values too large for Q8_0"),
        (lambda: quantize(np.float64([[1e300] * 256]), "Q4_K"), NonFiniteError, "row 0 holds NaN or infinity"),
    ],
)
def test_wrong_input_is_a_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_type_that_needs_importance_says_how_to_pass_it():
    needy = QuantType(
        "Needy", type_id=12, block_size=256, type_size=144, requires_importance=True, codec=lambda: types["Q4_K"].codec
    )
    with pytest.raises(CodecError, match=r"cannot be encoded without importance: pass importance="):
        quantize(make_rows("normal", 1, needy.block_size, 1.0, 1), needy)


def test_an_error_names_the_row_of_a_later_slab(monkeypatch):
    monkeypatch.setattr(dispatch, "SLAB_WEIGHTS", 1024)
    x = np.zeros((2, 10, 512), np.float32)
    x[1, 7, 300] = np.inf
    with pytest.raises(NonFiniteError, match="row 17 holds NaN or infinity at column 300"):
        quantize(x, "Q4_K", threads=2)


def test_arrays_at_odd_addresses_are_accepted():
    def odd(array):
        raw = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:]
        return raw.view(array.dtype).reshape(array.shape)

    for given in (None, COLUMNS, X**2):
        want = quantize(X, "Q4_K", given)
        np.testing.assert_array_equal(quantize(odd(X), "Q4_K", None if given is None else odd(given)), want)
    target = np.zeros(4 * X.size + 1, np.uint8)[1:].view(np.float32).reshape(X.shape)
    quantreg.dequantize(odd(want), "Q4_K", out=target)
    np.testing.assert_array_equal(target, quantreg.dequantize(want, "Q4_K"))
