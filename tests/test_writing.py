"""Writing a GGUF file: what counts as a tensor, and that no more than one lazily made tensor is in memory at a time."""

import gc
import os
import types
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch_like as torch
from entries import registered

import quantreg
from quantreg import LazyTensor, OutputError, QuantizedTensor, ShapeError, quantize, write

X = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
ARRAYS = {f"t{i}": X * (i + 1) for i in range(6)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("expected.gguf", {"a": 1}, ARRAYS)
    return tmp_path


class Made(np.ndarray):
    """An array that can be counted, because it can be referred to weakly."""


class Maker:
    """Makes arrays, and counts how many there are at a time and were made in all."""

    def __init__(self):
        self.alive, self.most, self.total = weakref.WeakSet(), 0, 0

    def make(self, name):
        gc.collect()
        array = ARRAYS[name].copy().view(Made)
        self.alive.add(_Key(array, self))
        self.total += 1
        self.most = max(self.most, len(self.alive))
        return array


class _Key:
    """Lives as long as the array; arrays themselves do not hash."""

    def __init__(self, array, maker):
        array.key = self


class OnAccess(Mapping):
    """A mapping that makes its values when they are asked for."""

    def __init__(self, maker):
        self.maker = maker

    def __getitem__(self, name):
        return self.maker.make(name)

    def __iter__(self):
        return iter(ARRAYS)

    def __len__(self):
        return len(ARRAYS)


WAYS = {
    "LazyTensor": (lambda m: {n: LazyTensor(X.shape, "float32", lambda n=n: m.make(n)) for n in ARRAYS}, 1),
    "pairs of LazyTensor": (lambda m: ((n, LazyTensor(X.shape, "F32", lambda n=n: m.make(n))) for n in ARRAYS), 1),
    "functions": (lambda m: {n: lambda n=n: m.make(n) for n in ARRAYS}, 2),
    "mapping": (OnAccess, 2),
    "generator": (lambda m: ((n, m.make(n)) for n in ARRAYS), 1),
    "generator of functions": (lambda m: ((n, lambda n=n: m.make(n)) for n in ARRAYS), 1),
}


@pytest.mark.parametrize("way", WAYS)
def test_tensors_that_are_made_lazily_are_never_all_in_memory(way):
    maker = Maker()
    tensors, times = WAYS[way]
    write("lazy.gguf", {"a": 1}, tensors(maker))
    assert Path("lazy.gguf").read_bytes() == Path("expected.gguf").read_bytes()
    assert maker.most <= 2  # the next may be made before the name of the last one is given away
    assert maker.total == times * len(ARRAYS)
    assert sorted(os.listdir()) == ["expected.gguf", "lazy.gguf"]


def test_a_lazy_tensor_may_have_a_quant_type():
    data = quantize(X, "Q4_0")
    tensor = QuantizedTensor("any", X.shape, "Q4_0", data)
    write("plain.gguf", {}, {"a": tensor, "b": tensor, "c": tensor})
    lazy = {
        "a": LazyTensor(X.shape, "Q4_0", lambda: data),
        "b": LazyTensor(X.shape, 2, lambda: tensor),
        "c": LazyTensor(X.shape, quantreg.types["Q4_0"], data.tobytes),
    }
    write("lazy.gguf", {}, lazy)
    assert Path("lazy.gguf").read_bytes() == Path("plain.gguf").read_bytes()
    assert repr(lazy["a"]) == "<LazyTensor Q4_0 (4, 64), 144 bytes>"


@pytest.mark.parametrize("dtype", ["float16", np.float16, np.dtype("float16"), torch.float16, "F16", 1], ids=repr)
def test_the_type_of_a_lazy_tensor_may_be_a_dtype(dtype):
    write("lazy.gguf", {}, {"a": LazyTensor((4, 64), dtype, lambda: X.astype(np.float16))})
    with quantreg.open("lazy.gguf") as model:
        assert model["a"].type_name == "F16"
        np.testing.assert_array_equal(model["a"], X.astype(np.float16))


@pytest.mark.parametrize(
    ("lazy", "error", "message"),
    [
        (lambda: LazyTensor((4, 64), "float32", lambda: X[:3]), ShapeError,
         r"a: make\(\) of its LazyTensor returned F32 of shape \(3, 64\), but it says F32 of shape \(4, 64\)"),
        (lambda: LazyTensor((4, 64), "float16", lambda: X), ShapeError, "returned F32 .* but it says F16"),
        (lambda: LazyTensor((4, 64), "Q4_0", lambda: X), ShapeError, "Q4_0 of shape .* takes 144 bytes of uint8, not"),
        (lambda: LazyTensor((4, 64), "float32", lambda: None), ShapeError, "a: cannot write a NoneType"),
        (lambda: LazyTensor((4, 64), "float32", X), ShapeError, "pass a function that returns the array"),
        (lambda: LazyTensor((4, 65), "Q4_0", lambda: X), ShapeError, "a row of 65 weights"),
        (lambda: LazyTensor((4, 64), np.uint8, lambda: X), ShapeError, "GGUF has no type for uint8: use one of"),
        (lambda: LazyTensor((4, 64), "Q99", lambda: X), quantreg.UnknownTypeError, "Q99"),
    ],
)  # fmt: skip
def test_a_lazy_tensor_that_is_wrong_leaves_no_file(lazy, error, message):
    with pytest.raises(error, match=message):
        write("lazy.gguf", {}, {"a": lazy()})
    assert os.listdir() == ["expected.gguf"]


def test_a_value_that_is_another_one_the_second_time_is_refused():
    shapes = iter([(4, 64), (4, 32)])
    with pytest.raises(
        ShapeError, match=r"a: was F32 of shape \(4, 64\) when the header was made, and is F32 of shape"
    ):
        write("lazy.gguf", {}, {"a": lambda: np.zeros(next(shapes), np.float32)})
    assert os.listdir() == ["expected.gguf"]


def test_a_generator_is_not_asked_before_the_output_may_be_written():
    asked = []
    with pytest.raises(OutputError, match="exists"):
        write("expected.gguf", {}, ((name, asked.append(name)) for name in ARRAYS))
    with pytest.raises(OutputError, match="cannot be kept in a temporary file beside it: No such file or directory"):
        write("missing/a.gguf", {}, ARRAYS.items())
    assert asked == []


def test_two_pairs_of_one_name_are_refused():
    with pytest.raises(quantreg.GGUFFormatError, match="tensor name 'a' occurs twice"):
        write("twice.gguf", {}, [("a", X), ("a", X)])


def test_an_open_file_is_copied_as_a_mapping_and_as_pairs():
    with quantreg.open("expected.gguf") as model:
        write("mapping.gguf", model.metadata, model)
        write("pairs.gguf", model.metadata, model.items())
    for name in ("mapping.gguf", "pairs.gguf"):
        assert Path(name).read_bytes() == Path("expected.gguf").read_bytes()


def test_parameters_of_a_type_go_beside_their_tensor_in_each_way():
    tensor = QuantizedTensor.from_array("a.weight", X, "NVFP4")
    assert tensor.parameters
    write("mapping.gguf", {}, {"a.weight": tensor, "b": X})
    write("pairs.gguf", {}, [("a.weight", tensor), ("b", X)])
    assert Path("pairs.gguf").read_bytes() == Path("mapping.gguf").read_bytes()
    with quantreg.open("mapping.gguf") as model:
        assert len(model) == 3
        assert list(model)[2] == "b"
        np.testing.assert_array_equal(model["a.weight"], tensor.dequantize())
        np.testing.assert_array_equal(model["a.weight"][1:3], tensor.dequantize()[1:3])
        np.testing.assert_array_equal(np.stack(list(model["a.weight"])), tensor.dequantize())
    with pytest.raises(ShapeError, match="pass a function that returns the QuantizedTensor instead"):
        write("lazy.gguf", {}, {"a.weight": LazyTensor(X.shape, "NVFP4", lambda: tensor)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32], ids=repr)
def test_torch_tensors_keep_their_dtype(dtype):
    x = torch.tensor(X * 8, dtype)
    write("torch.gguf", {}, {"x": x, "p": torch.Parameter(x.values, dtype), "l": LazyTensor(X.shape, dtype, lambda: x)})
    with quantreg.open("torch.gguf") as model:
        for tensor in model.values():
            np.testing.assert_array_equal(np.asarray(tensor), x.values)
            name = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int32": "I32"}[
                dtype.name
            ]
            assert tensor.type_name == name


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor(X, torch.uint8), "x: cannot write an array of uint8"),
        (torch.tensor(X, torch.float8), "x: cannot write an array of float8_e4m3fn"),
        (torch.tensor(X, device="cuda:1"), r"x is a torch tensor on the device cuda:1: pass x\.cpu\(\)"),
        ([1.0], "x: cannot write a list"),
    ],
)
def test_what_has_no_type_in_gguf_is_refused(tensor, message):
    with pytest.raises(ShapeError, match=message):
        write("torch.gguf", {}, {"x": tensor})


def test_numpy_scalars_are_tensors_without_dimensions():
    write("scalar.gguf", {}, {"x": np.float32(1.5)})
    with quantreg.open("scalar.gguf") as model:
        assert (model["x"].shape, model["x"].dequantize()) == ((), 1.5)


# --- parameters of a type, which a file keeps beside the tensor ---

NAME, SCALE = "blk.0.ffn_up.weight", "blk.0.ffn_up.scale"


def nvfp4(factor):
    return QuantizedTensor.from_array(NAME, X * np.float32(factor), "NVFP4")


def as_pairs(tensors):
    return iter(tensors.items())


@pytest.mark.parametrize("way", [dict, as_pairs])
def test_a_function_that_makes_a_tensor_brings_its_parameters(way):
    write("out.gguf", {}, way({NAME: lambda: nvfp4(5e-4)}))
    with quantreg.open("out.gguf") as model:
        assert list(model) == [NAME, SCALE]
        assert np.array_equal(model[NAME].dequantize(), nvfp4(5e-4).dequantize())


def test_parameters_that_are_others_the_second_time_are_refused():
    tensors = iter([nvfp4(5e-4), nvfp4(7e-4)])
    with pytest.raises(ShapeError, match="its parameters are not those"):
        write("out.gguf", {}, {NAME: lambda: next(tensors)})
    assert not os.path.exists("out.gguf")


@pytest.mark.parametrize("way", [dict, as_pairs])
def test_parameters_of_an_older_tensor_of_that_name_are_refused(way):
    write("old.gguf", {}, {NAME: nvfp4(5e-4)})
    with quantreg.open("old.gguf") as old:
        with pytest.raises(ShapeError, match=f"{NAME}: it was encoded with other parameters than the {SCALE}"):
            write("out.gguf", {}, way({**old, NAME: nvfp4(1)}))
        write("out.gguf", {}, way({**old, NAME: nvfp4(5e-4)}))
        write("out2.gguf", {}, way({NAME: old[NAME], SCALE: np.asarray(old[SCALE])}))
    assert Path("out.gguf").read_bytes() == Path("out2.gguf").read_bytes() == Path("old.gguf").read_bytes()


@pytest.mark.parametrize("way", [dict, as_pairs])
def test_parameters_of_a_model_are_written_once(way):
    def fit(samples, context):
        return {"mean": [max(np.abs(sample.rows).max() for sample in samples)]}

    qtype = quantreg.QuantType(
        "T_MEAN",
        type_id=1399,
        block_size=1,
        type_size=4,
        codec=lambda: quantreg.PythonCodec(
            qtype,
            lambda rows, *, parameters: (rows / parameters["mean"]).astype("<f4").view(np.uint8),
            lambda data, *, parameters: data.view("<f4") * parameters["mean"],
        ),
        parameters=quantreg.Parameters({"mean": (1,)}, fit, scope="model"),
    )
    plugin = types.ModuleType("t_mean")
    plugin.register_types = quantreg.hookimpl(specname="register_types")(lambda register: register(qtype))
    with registered(plugin):
        parameters = quantreg.fit(X, "T_MEAN")
        data = quantize(X, "T_MEAN", parameters=parameters)
        tensors = {f"blk.{i}.up.weight": QuantizedTensor(f"t{i}", X.shape, "T_MEAN", data, parameters) for i in (0, 1)}
        write("out.gguf", {}, way(tensors))
        with quantreg.open("out.gguf") as model:
            assert list(model) == ["blk.0.up.weight", "t_mean.mean", "blk.1.up.weight"]
            assert np.allclose(model["blk.1.up.weight"].dequantize(), X)
        other = QuantizedTensor.from_array("other", X * 2, "T_MEAN")
        with pytest.raises(ShapeError, match="fitted to the whole model, encode all its tensors with the same"):
            write("out2.gguf", {}, way({**tensors, "blk.2.up.weight": other}))


# --- what is not a mapping of names to tensors ---


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([X, X], "yields a ndarray, not a pair"),
        ([nvfp4(1)], "yields a QuantizedTensor, not a pair"),
        (["ab"], "yields a str, not a pair"),
        ("ab", "tensors is a str: pass a mapping"),
        (X, "tensors is a ndarray: pass a mapping"),
        (None, "tensors is a NoneType: pass a mapping"),
        ({1: X}, "the name of a tensor is 1, a int: use a str"),
        ([(b"a", X)], "the name of a tensor is b'a', a bytes: use a str"),
    ],
)
def test_what_is_not_a_mapping_of_names_to_tensors_is_refused(tensors, message):
    with pytest.raises(TypeError, match=message):
        write("out.gguf", {}, tensors)
    assert not os.path.exists("out.gguf")


@pytest.mark.parametrize("metadata", [None, {1: 2}, ["general.architecture"]])
def test_what_is_not_a_mapping_of_keys_to_values_is_refused(metadata):
    with pytest.raises(TypeError, match=r"metadata|key"):
        write("out.gguf", metadata, {"a": X})


@pytest.mark.parametrize("shape", [(-4, 64), (-4, -64), 64])
def test_a_shape_that_is_not_one_is_refused(shape):
    with pytest.raises(ShapeError, match="shape"):
        LazyTensor(shape, "F32", lambda: X)
    with pytest.raises(ShapeError, match="shape"):
        QuantizedTensor("a", shape, "F32", X.view(np.uint8))
