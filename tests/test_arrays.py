"""Arrays as people bring them, and tensors as arrays: NumPy's protocol, torch, lists, dtypes by name, pickling."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch_like as torch

import quantreg
from quantreg import QuantizedTensor, ShapeError, UnknownTypeError, dequantize, quantize
from quantreg.arrays import as_dtype

X = np.random.default_rng(0).standard_normal((3, 4, 64)).astype(np.float32)
TENSOR = QuantizedTensor("blk.0.x", X.shape, "Q8_0", quantize(X, "Q8_0"))
VALUES = TENSOR.dequantize()

# --- tensors as arrays ---

MASK = np.array([True, False, True])
INDICES = [
    0, -1, np.int64(2), slice(1, 3), (0, 1), (0, 1, 5), (..., 3), (slice(None), 2), (1, ..., slice(0, 5)), [0, 2],
    np.array([1, 1]), MASK, VALUES > 0, (slice(None), [0, 1]), ([0, 1], [2, 3]), None, (None, 0), (), ..., (0, 1, ...),
    (slice(None, None, -1), slice(None, None, 2), slice(3, 40, 7)), slice(0, 0), True, np.ones((3, 4), bool), [],
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_an_index_gives_what_it_gives_for_the_decoded_array(index):
    found, expected = TENSOR[index], VALUES[index]
    assert type(found) is type(expected)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("index", [3, -4, (0, 4), (0, 0, 64), (0, 0, 0, 0), "x", 1.5, [5]])
def test_an_index_that_does_not_fit_is_refused_as_numpy_does(index):
    for array in (TENSOR, VALUES):
        with pytest.raises(IndexError):
            array[index]


@pytest.mark.parametrize(("index", "rows"), [(0, 4), ((1, 2), 1), (slice(0, 2), 8), ((2, ..., 5), 4), ([0], 4)])
def test_only_the_rows_that_are_asked_for_are_decoded(index, rows, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "quantreg.tensor.dequantize",
        lambda data, *args, **keywords: (seen.append(data.size // 68), dequantize(data, *args, **keywords))[1],
    )
    TENSOR[index]
    assert seen == [rows]


def test_a_tensor_describes_itself_as_an_array_does():
    assert (len(TENSOR), TENSOR.ndim, TENSOR.size, TENSOR.dtype) == (3, 3, 768, np.float32)
    assert [row.shape for row in TENSOR] == [(4, 64)] * 3
    np.testing.assert_array_equal(np.asarray(TENSOR), VALUES, strict=True)
    np.testing.assert_array_equal(np.asarray(TENSOR, np.float16), VALUES.astype(np.float16), strict=True)
    assert np.mean(TENSOR) == VALUES.mean()
    assert np.allclose(TENSOR, X, atol=0.02)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(TENSOR, copy=False)


def test_a_tensor_is_true_whatever_its_length():
    assert QuantizedTensor("x", (0, 32), "Q8_0", b"")
    scalar = QuantizedTensor("x", (), "F32", np.float32(2).tobytes())
    assert scalar
    assert (float(np.asarray(scalar)), scalar[()], scalar.size, scalar.ndim) == (2, 2, 1, 0)
    with pytest.raises(TypeError, match="without dimensions has no length"):
        len(scalar)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "float64"])
def test_values_that_float32_cannot_hold_keep_their_dtype(dtype, tmp_path):
    exact = np.arange(6).reshape(2, 3).astype(dtype) * (0.1 if dtype == "float64" else 1)
    if dtype in ("int32", "int64"):
        exact += 2**24
    exact = exact.astype(dtype)
    quantreg.write(tmp_path / "a.gguf", {}, {"x": exact})
    with quantreg.open(tmp_path / "a.gguf") as model:
        np.testing.assert_array_equal(np.asarray(model["x"]), exact, strict=True)
        np.testing.assert_array_equal(model["x"][1], exact[1], strict=True)
        assert model["x"].dtype == exact.dtype


def test_a_tensor_of_an_unknown_type_cannot_be_indexed(monkeypatch):
    tensor = pickle.loads(pickle.dumps(TENSOR))
    tensor.type_id, tensor.type_name, tensor.data = 99999, "type 99999", tensor.data.reshape(-1)
    for use in (np.asarray, lambda t: t[0], lambda t: list(t)):
        with pytest.raises(UnknownTypeError, match="99999"):
            use(tensor)
    assert len(tensor) == 3


def test_a_tensor_pickles_with_its_bytes(tmp_path):
    quantreg.write(tmp_path / "a.gguf", {}, {"x": TENSOR})
    with quantreg.open(tmp_path / "a.gguf") as model:
        again = pickle.loads(pickle.dumps(model["x"]))
        copied = copy.deepcopy(model["x"])
    for tensor in (again, copied):
        assert (tensor.name, tensor.shape, tensor.type_name) == ("x", TENSOR.shape, "Q8_0")
        np.testing.assert_array_equal(tensor.data, TENSOR.data)
    with pytest.raises(TypeError, match=r"an open File does not pickle: pass its path, .*a\.gguf"):
        pickle.dumps(model)


# --- what quantize takes ---


def test_quantize_takes_a_quantized_tensor():
    np.testing.assert_array_equal(quantize(TENSOR, "Q4_0"), quantize(VALUES, "Q4_0"))
    bad = QuantizedTensor("blk.7.y", (1, 32), "F32", np.full((1, 128), 255, np.uint8))
    with pytest.raises(quantreg.NonFiniteError, match=r"^blk\.7\.y: row 0"):
        quantize(bad, "Q8_0")


def test_quantize_takes_lists():
    np.testing.assert_array_equal(quantize(X.tolist(), "Q8_0"), TENSOR.data)
    np.testing.assert_array_equal(quantize(X[0, 0].tolist(), "Q8_0", [1.0] * 64), TENSOR.data[0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=repr)
@pytest.mark.parametrize("kind", ["tensor", "parameter"])
def test_quantize_takes_torch_tensors(dtype, kind):
    x = torch.tensor(X, dtype)
    if kind == "parameter":
        x = torch.Parameter(x.values, dtype)
    np.testing.assert_array_equal(quantize(x, "Q8_0"), quantize(x.values, "Q8_0"))
    columns = np.ones(64, np.float32)
    np.testing.assert_array_equal(
        quantize(x, "Q4_0", torch.tensor(columns, dtype)), quantize(x.values, "Q4_0", columns)
    )


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.float32(1), r"at least one dimension, the weights of a row: pass x\.reshape\(1\)"),
        (np.array(1.0), "at least one dimension"),
        (5, "at least one dimension"),
        (None, "x is a NoneType, which NumPy cannot read as numbers"),
        ({"a": 1}, "x is a dict, which NumPy cannot"),
        ([[1.0, 2.0], [3.0]], "x is a list from which NumPy cannot make an array: .*inhomogeneous"),
        ([torch.tensor(X, torch.bfloat16)], "x is a list .*unsupported ScalarType bfloat16: pass one array or tensor"),
        (np.ma.masked_greater(X, 1), r"values are masked: replace them, as in x\.filled\(0\)"),
        (["a", "b"], "x has dtype <U1: convert it to a float"),
        (torch.tensor(X, device="cuda:0"), r"x is a torch tensor on the device cuda:0: pass x\.cpu\(\)"),
        (torch.tensor(X, device="meta"), "on the device meta: load its weights first"),
        (
            torch.tensor(X, torch.quint8),
            r"torch tensor of torch\.quint8 that has no NumPy array: Got .* with to_dense\(\)",
        ),
    ],
)
def test_what_is_not_an_array_of_numbers_is_refused_with_a_way_out(x, message):
    with pytest.raises(ShapeError, match=message):
        quantize(x, "Q8_0")


def test_a_tensor_on_another_device_is_taken_after_cpu():
    np.testing.assert_array_equal(quantize(torch.tensor(X, device="cuda:0").cpu(), "Q8_0"), TENSOR.data)


# --- dtypes by name ---


def test_bfloat16_is_a_dtype_without_importing_ml_dtypes_first():
    pytest.importorskip("ml_dtypes")
    code = (
        "import sys, numpy as np, quantreg\n"
        "assert 'ml_dtypes' not in sys.modules\n"
        "data = quantreg.quantize(np.ones((2, 32), 'f4'), 'Q8_0')\n"
        "print(quantreg.dequantize(data, 'Q8_0', dtype='bfloat16').dtype)\n"
        "print(quantreg.QuantizedTensor('x', (2, 32), 'Q8_0', data).dequantize('bfloat16').dtype)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["bfloat16", "bfloat16"], done.stderr


def test_dtypes_in_any_form():
    for given in ("float16", np.float16, torch.float16, "f2", np.dtype("float16")):
        assert dequantize(TENSOR.data, "Q8_0", dtype=given).dtype == np.float16
    assert as_dtype(torch.float32) == np.float32


def test_a_dtype_that_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    monkeypatch.setattr("numpy.dtype", _without_ml_dtypes(np.dtype))
    with pytest.raises(ShapeError, match=r"NumPy has no dtype 'bfloat16' of its own: install ml_dtypes \(pip install"):
        as_dtype("bfloat16")
    with pytest.raises(ShapeError, match="is not a dtype of NumPy"):
        as_dtype(object())


def _without_ml_dtypes(dtype):
    def find(name):
        if name == "bfloat16":
            raise TypeError("data type 'bfloat16' not understood")
        return dtype(name)

    return find


def test_a_dtype_that_nobody_has_is_refused():
    pytest.importorskip("ml_dtypes")
    with pytest.raises(ShapeError, match="neither NumPy nor ml_dtypes has a dtype 'float17'"):
        dequantize(TENSOR.data, "Q8_0", dtype="float17")


# --- paths and matrices ---

NAME = "blk.0.ffn_up.weight"


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quantreg.write(b"a.gguf", {"general.architecture": "llama"}, {NAME: X.reshape(3, 256)})
    return tmp_path


def test_paths_may_be_bytes(at):
    header = np.array([1, len(NAME)], "<i4").tobytes() + NAME.encode() + np.array([1, 256], "<i4").tobytes()
    Path("i.dat").write_bytes(header + np.ones(256, "<f4").tobytes())
    assert len(quantreg.ImportanceMatrix.read(b"i.dat")) == 1
    quantreg.coverage(b"a.gguf", b"i.dat")
    result = quantreg.quantize_file(b"a.gguf", b"b.gguf", "Q4_K", imatrix=b"i.dat")
    assert result.paths == ("b.gguf",)
    quantreg.write_plan(quantreg.plan(b"a.gguf", "Q4_K", imatrix=b"i.dat"), b"plan.json", source=b"a.gguf")
    quantreg.read_plan(b"plan.json", b"a.gguf")
    quantreg.quantize_file(b"a.gguf", b"r.gguf", "Q4_K", resumable=True)
    quantreg.edit_metadata(b"a.gguf", b"c.gguf", set={"general.name": "x"})
    parts = quantreg.split(b"a.gguf", b"part", split_max_tensors=1)
    quantreg.merge(os.fsencode(parts.path), b"merged.gguf")
    quantreg.export(b"a.gguf", b"a.safetensors")
    assert quantreg.validate(b"b.gguf").problems == ()
    assert quantreg.compare(b"a.gguf", b"merged.gguf").same
    assert quantreg.hash_tensors(b"a.gguf")
    Path("names.json").write_text(json.dumps({NAME: NAME}))
    kv = {"general.architecture": "llama"}
    quantreg.quantize_file(b"a.safetensors", b"d.gguf", "Q8_0", names=b"names.json", override_kv=kv)
    with quantreg.open(b"d.gguf") as model:
        assert model[NAME].type_name == "Q8_0"


def test_an_imatrix_may_be_a_mapping_of_arrays(at):
    columns = np.linspace(0, 1, 256)
    expected = quantize(X.reshape(3, 256), "Q4_K", columns)
    quantreg.quantize_file("a.gguf", "b.gguf", "Q4_K", imatrix={NAME: columns})
    with quantreg.open("b.gguf") as model:
        np.testing.assert_array_equal(model[NAME].data, expected)
    plan = quantreg.plan("a.gguf", "Q4_K", imatrix={NAME: torch.tensor(columns, torch.bfloat16)})
    assert plan[NAME].importance == NAME
    with pytest.raises(quantreg.ImportanceError, match=f"entry {NAME}: value 0 is -1"):
        quantreg.plan("a.gguf", "Q4_K", imatrix={NAME: -np.ones(256)})
    with pytest.raises(quantreg.ImportanceError, match="has 5 values"):
        quantreg.plan("a.gguf", "Q4_K", imatrix={NAME: np.ones(5)})


# --- values that pass through float32 ---

LARGE = {
    "I32": np.array([[2**24 + 1, -(2**31)]], np.int32),
    "I64": np.array([[2**62 + 1, -(2**63)]], np.int64),
    "F64": np.array([[0.1, 1e300]]),
}


@pytest.mark.parametrize("kind", LARGE)
def test_integers_and_float64_are_stored_and_read_exactly(kind):
    x = LARGE[kind]
    assert np.array_equal(quantize(x, kind), x.view(np.uint8))
    assert np.array_equal(dequantize(quantize(x, kind), kind, x.dtype), x)
    assert np.array_equal(dequantize(quantize(x, kind), kind, out=np.empty((2, 2), x.dtype)[::2]), x)
    tensor = QuantizedTensor.from_array("ids", x, kind)
    assert np.array_equal(tensor, x)
    assert np.array_equal(tensor.dequantize(x.dtype), x)
    assert np.array_equal(quantize(tensor, kind), x.view(np.uint8))
    assert tensor.dequantize().dtype == np.float32


def test_integers_of_another_width_must_fit():
    assert np.array_equal(quantize(np.array([[-5, 7]]), "I8"), np.array([[-5, 7]], np.int8).view(np.uint8))
    assert np.array_equal(quantize(np.array([1], ">u8"), "I16").view("<i2"), [1])
    with pytest.raises(ShapeError, match="x holds 5 to 300, but int8 holds -128 to 127"):
        quantize(np.array([5, 300]), "I8")


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, bool, str, object, "datetime64[s]"])
def test_a_dtype_that_cannot_hold_weights_is_refused(dtype):
    data = quantize(X, "Q8_0")
    with pytest.raises(ShapeError, match="cannot hold the values of Q8_0: decode to float32"):
        dequantize(data, "Q8_0", dtype)
    with pytest.raises(ShapeError, match="cannot hold the values of Q8_0: decode to float32"):
        dequantize(data, "Q8_0", out=np.empty(X.shape, dtype))
    with pytest.raises(ShapeError, match="cannot hold the values of Q8_0"):
        TENSOR.dequantize(dtype)


def test_the_dtype_none_is_the_usual_one():
    assert TENSOR.dequantize(None).dtype == np.float32


def test_quantize_takes_float8():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        x = X.astype(dtype)
        assert np.array_equal(quantize(x, "Q8_0"), quantize(x.astype(np.float32), "Q8_0"))
        assert np.array_equal(quantize(X, "Q4_0", np.abs(x)), quantize(X, "Q4_0", np.abs(x.astype(np.float32))))


@pytest.mark.parametrize("what", [X * 1j, ["a"], [b"a"], np.zeros(4, "M8[s]")])
def test_fit_takes_only_numbers(what):
    with pytest.raises(ShapeError, match=r"x has dtype .*: convert it to a float or integer type"):
        quantreg.fit(what, "NVFP4")


@pytest.mark.parametrize("shape", [(0,), (0, 64), (3, 0), (2, 0, 64), (0, 4, 64), (0, 0)])
@pytest.mark.parametrize("kind", ["NVFP4", "Q4_0", "F64"])
def test_empty_arrays_have_tensors(shape, kind, tmp_path):
    tensor = QuantizedTensor.from_array("a.weight", np.zeros(shape, np.float32), kind)
    assert tensor.dequantize().shape == tensor[...].shape == np.asarray(tensor).shape == shape
    quantreg.write(tmp_path / "out.gguf", {}, {"a.weight": tensor})
    with quantreg.open(tmp_path / "out.gguf") as model:
        assert model["a.weight"].dequantize().shape == shape


def test_a_wrong_importance_names_each_shape_once():
    with pytest.raises(ShapeError, match=r"shape \(1, 64\), expected \(64,\) for column statistics, or \(4, 64\) for"):
        quantize(X[0], "Q4_0", np.ones((1, 64)))
    with pytest.raises(ShapeError, match=r"shape \(4, 64\), expected \(64,\) or \(3, 64\) for column"):
        quantize(X, "Q4_0", np.ones((4, 64)))


def test_a_file_type_given_as_a_type_is_called_what_it_is():
    with pytest.raises(UnknownTypeError, match=r"'q4_k_m': that is a file type.*: did you mean Q4_K\?"):
        quantize(X, "q4_k_m")


@pytest.mark.parametrize("value", [["a"], [[1], [1, 2]], None, [1j]])
def test_parameters_that_are_not_numbers_are_refused(value):
    with pytest.raises(ShapeError, match=r"a\.weight, parameters of NVFP4: scale"):
        QuantizedTensor("a.weight", X.shape, "NVFP4", quantize(X, "NVFP4"), {"scale": value})


# --- operators ---


def test_operators_and_ufuncs_decode():
    results = {
        "plus": (TENSOR + 1, VALUES + 1),
        "from": (1 - TENSOR, 1 - VALUES),
        "both": (TENSOR * TENSOR, VALUES * VALUES),
        "array": (X - TENSOR, X - VALUES),
        "negative": (-TENSOR, -VALUES),
        "magnitude": (abs(TENSOR), abs(VALUES)),
        "matmul": (X[0] @ TENSOR[0].T, X[0] @ VALUES[0].T),
        "left": (np.ones((2, 4), np.float32) @ TENSOR, np.ones((2, 4), np.float32) @ VALUES),
        "mask": (TENSOR > 0, VALUES > 0),
        "equal": (TENSOR == VALUES, np.ones(X.shape, bool)),
        "zero": (TENSOR == 0, VALUES == 0),
        "reduce": (np.add.reduce(TENSOR), np.add.reduce(VALUES)),
        "mean": (np.mean(TENSOR), VALUES.mean()),
        "stack": (np.stack([TENSOR, TENSOR]), np.stack([VALUES, VALUES])),
    }
    for name, (found, expected) in results.items():
        assert type(found) is type(expected), name
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert VALUES[0, 0, 0] in TENSOR
    assert 1e9 not in TENSOR


def test_an_array_is_changed_in_place_by_a_tensor_but_not_the_tensor():
    x = X.copy()
    x -= TENSOR
    np.testing.assert_array_equal(x, X - VALUES)
    tensor = copy.copy(TENSOR)
    with pytest.raises(TypeError, match="cannot be changed in place: decode it first"):
        tensor += 1
    with pytest.raises(TypeError, match="cannot be changed in place: decode it first"):
        tensor[0] = 1
    with pytest.raises(TypeError, match="cannot be changed in place: decode it first"):
        np.add(X, 1, out=tensor)


def test_a_tensor_is_a_key_by_its_identity():
    other = copy.copy(TENSOR)
    assert {TENSOR: 1, other: 2}[TENSOR] == 1


@pytest.mark.parametrize("name", ["mean", "max", "astype", "reshape", "tolist"])
def test_what_only_arrays_have_says_how_to_get_it(name):
    with pytest.raises(AttributeError, match=rf"decode it first, as in tensor\.dequantize\(\)\.{name}"):
        getattr(TENSOR, name)
    assert not hasattr(TENSOR, "nonsense")
