"""PythonCodec: a format in plain NumPy works wherever a compiled codec does."""

import numpy as np
import pytest
import toy
from entries import registered
from weights import make_rows

import quantreg
from quantreg import CodecError, NonFiniteError, PythonCodec, ShapeError, dispatch

X = make_rows("normal", 6, 256, 0.1, 11)
COLUMNS = np.random.default_rng(2).random(256, np.float32) + np.float32(0.01)


@pytest.fixture(params=[toy.make, toy.make_with_header], ids=["blocks", "row-header"])
def q3(request):
    qtype = request.param()
    with registered(toy.Plugin(qtype)):
        yield qtype


def test_rows_are_encoded_and_decoded(q3):
    data = quantreg.quantize(X, q3)
    assert data.shape == (6, q3.row_header_size + 256 // 32 * 14)
    assert data.dtype == np.uint8
    error = np.sqrt(np.mean((quantreg.dequantize(data, q3) - X) ** 2)) / X.std()
    assert 0.1 < error < 0.2


def test_bytes_do_not_depend_on_slabs_or_threads(q3, monkeypatch):
    expected = quantreg.quantize(X, q3, COLUMNS, threads=1)
    monkeypatch.setattr(dispatch, "SLAB_WEIGHTS", 300)
    np.testing.assert_array_equal(quantreg.quantize(X, q3, COLUMNS, threads=3), expected)


def test_column_statistics_are_the_error_weights_of_every_row(q3):
    weights = np.broadcast_to(COLUMNS, X.shape)
    np.testing.assert_array_equal(quantreg.quantize(X, q3, COLUMNS), quantreg.quantize(X, q3, weights))
    np.testing.assert_array_equal(q3.score(X, COLUMNS), weights)
    assert not np.array_equal(quantreg.quantize(X, q3, COLUMNS), quantreg.quantize(X, q3))


def test_a_score_function_computes_the_error_weights():
    qtype = toy.make(score=lambda rows, columns: columns * np.sqrt(1 + rows**2))
    weights = qtype.score(X, COLUMNS)
    np.testing.assert_allclose(weights, COLUMNS * np.sqrt(1 + X**2), rtol=1e-6)
    np.testing.assert_array_equal(quantreg.quantize(X, qtype, COLUMNS), quantreg.quantize(X, qtype, weights))


def test_an_encode_function_of_one_argument_does_not_read_importance():
    qtype = toy.make(encode=lambda rows: toy.encode(rows, None))
    assert not qtype.codec.has_scorer
    assert qtype.score(X, COLUMNS) is None
    np.testing.assert_array_equal(quantreg.quantize(X, qtype, COLUMNS), quantreg.quantize(X, qtype))


def test_decoded_rows_may_have_any_address():
    """For example a row of float32 that follows a single byte."""

    def encode(rows):
        return np.concatenate([np.zeros((len(rows), 1), np.uint8), rows.view(np.uint8)], axis=1)

    qtype = quantreg.QuantType(
        "ROWS", type_id=4204, block_size=256, type_size=1025,
        codec=lambda: PythonCodec(qtype, encode, lambda data: data[:, 1:].view(np.float32)),
    )  # fmt: skip
    np.testing.assert_array_equal(quantreg.dequantize(quantreg.quantize(X[0], qtype), qtype), X[0])


def test_a_model_is_quantized_and_read_back(q3, tmp_path):
    x = {"blk.0.attn_q.weight": X.astype(np.float16), "output_norm.weight": np.ones(256, np.float32)}
    quantreg.write(tmp_path / "in.gguf", {"general.architecture": "llama"}, x)
    quantreg.quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", q3.name, threads=2)
    with quantreg.open(tmp_path / "out.gguf") as model:
        tensor = model["blk.0.attn_q.weight"]
        assert tensor.type_name == q3.name
        np.testing.assert_array_equal(tensor.data, quantreg.quantize(x["blk.0.attn_q.weight"], q3))
        assert tensor.dequantize().shape == X.shape


def test_a_row_with_nan_or_an_overflowing_scale_is_refused_by_its_number(q3, monkeypatch):
    monkeypatch.setattr(dispatch, "SLAB_WEIGHTS", 512)
    x = X.copy()
    x[4, 100] = np.nan
    with pytest.raises(NonFiniteError, match="row 4 holds NaN or infinity at column 100"):
        quantreg.quantize(x, q3)
    qtype = toy.make()
    x[4] = X[4] * np.float32(1e9)
    with pytest.raises(NonFiniteError, match="row 4 holds values too large for TOY3"):
        quantreg.quantize(x, qtype)


def test_an_exception_in_the_function_names_the_row():
    def fails(rows, importance):
        if (rows > 5).any():
            raise IndexError("no level for this")
        return toy.encode(rows, importance)

    x = X.copy()
    x[3, 7] = 6
    with pytest.raises(CodecError, match="encode of TOY3 failed at row 3: IndexError: no level for this"):
        quantreg.quantize(x, toy.make(encode=fails))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"encode": lambda rows, importance: toy.encode(rows, importance)[:, 1:]}, r"returned uint8 \(6, 111\), exp"),
        ({"encode": lambda rows, importance: toy.encode(rows, importance).astype(int)}, r"returned int64"),
        ({"decode": lambda blocks: toy.decode(blocks).astype(float)}, r"decode of TOY3 returned float64"),
    ],
)
def test_a_wrong_shape_or_dtype_is_reported(parts, message):
    with pytest.raises(CodecError, match=message):
        quantreg.quantize(X, toy.make(**parts))


def test_the_functions_cannot_change_their_input():
    def greedy(rows, importance):
        rows[0, 0] = 1

    with pytest.raises(CodecError, match="read-only"):
        quantreg.quantize(X, toy.make(encode=greedy))


def test_sizes_are_checked():
    codec = toy.make().codec
    out = np.empty((6, 112), np.uint8)
    for x, target, importance in [(X, out[:, 1:].copy(), None), (X, out, COLUMNS[1:]), (X[:, ::2], out, None)]:
        with pytest.raises(ValueError):
            codec.encode_rows(x, target, importance)
    with pytest.raises(ValueError):
        codec.decode_rows(out, X[:, 1:].copy())
    with pytest.raises(ShapeError):
        codec.row_bytes(33)
    codec.encode_rows(X[:0], out[:0])


def apart(array, fill):
    """A view with the values of `array` whose rows lie apart, between items that hold `fill`."""
    rows, cols = array.shape
    room = np.full((2 * rows, cols + 7), fill, array.dtype)
    room[::2, 3 : 3 + cols] = array
    return room[::2, 3 : 3 + cols]


def test_rows_may_lie_apart_in_memory(q3):
    """The functions still get contiguous arrays, so they may reinterpret them with .view()."""
    codec, weights = q3.codec, np.abs(X) + np.float32(0.1)
    expected = np.empty((6, codec.row_bytes(256)), np.uint8)
    codec.encode_rows(X, expected, weights)
    target = apart(np.zeros_like(expected), 7)
    codec.encode_rows(apart(X, np.nan), target, apart(weights, np.nan))
    np.testing.assert_array_equal(target, expected)
    back, target = np.empty_like(X), apart(np.zeros_like(X), 7)
    codec.decode_rows(expected, back)
    codec.decode_rows(apart(expected, 7), target)
    np.testing.assert_array_equal(target, back)
    codec.score_rows(X, COLUMNS, back)
    codec.score_rows(apart(X, np.nan), COLUMNS, target)
    np.testing.assert_array_equal(target, back)


def test_columns_must_be_contiguous_and_rows_that_are_written_must_not_overlap():
    codec = toy.make().codec
    data, floats = np.empty((6, 112), np.uint8), np.empty((6, 256), np.float32)
    wide = np.ones((6, 512), np.float32)[:, ::2]
    calls = {
        "x": lambda: codec.encode_rows(wide, data),
        "importance": lambda: codec.encode_rows(X, data, wide),
        "data": lambda: codec.decode_rows(np.ones((6, 224), np.uint8)[:, ::2], floats),
        "out": lambda: codec.score_rows(X, COLUMNS, wide),
        "columns": lambda: codec.score_rows(X, wide[0], floats),
    }
    for name, call in calls.items():
        with pytest.raises(
            ValueError, match=rf"{name} is a non-contiguous .*: pass a contiguous (float32|uint8) array"
        ):
            call()
    overlapping = np.lib.stride_tricks.as_strided(np.zeros(672, np.uint8), (6, 112), (111, 1))
    with pytest.raises(ValueError, match="rows of out overlap: they lie 111 bytes apart and have 112 bytes each"):
        codec.encode_rows(X, overlapping)


def test_a_codec_that_only_decodes():
    qtype = toy.make(encode=None)
    assert isinstance(qtype.codec, PythonCodec)
    assert not qtype.codec.can_encode
    with pytest.raises(CodecError, match="TOY3 can only be decoded"):
        quantreg.quantize(X, qtype)
