"""Opening and writing models: quantreg.open, quantreg.write, QuantizedTensor."""

import os
import pickle
import re

import gguf_files as gf
import numpy as np
import pytest

import quantreg
from quantreg import GGUFFormatError, OutputError, QuantizedTensor, ShapeError, UnknownTypeError
from quantreg.gguf import Value, read_header, shard_path, split_values


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.gguf"
    path.write_bytes(gf.small_model())
    return path


def test_open_is_a_mapping_of_tensors(small):
    with quantreg.open(small) as model:
        assert list(model) == ["a.weight", "b.weight"]
        assert len(model) == 2
        assert "b.weight" in model
        assert "c" not in model
        assert model.metadata["general.architecture"] == "llama"
        assert model.warnings == []
        tensor = model["b.weight"]
    assert (tensor.name, tensor.shape, tensor.type_id, tensor.type_name) == ("b.weight", (32,), 8, "Q8_0")
    assert tensor.data.shape == (34,)
    assert repr(tensor) == "<QuantizedTensor 'b.weight' Q8_0 (32,), 34 bytes, 8.5 bits per weight>"


def test_file_and_metadata_behave_like_dicts(small):
    with quantreg.open(small) as model:
        for mapping, key in ((model, "b.weight"), (model.metadata, "llama.block_count")):
            names = list(mapping)
            assert key in names
            assert key in mapping
            assert "missing" not in mapping
            assert 5 not in mapping
            assert len(mapping) == len(names) == len(list(mapping.values()))
            assert [name for name, _ in mapping.items()] == names == list(mapping.keys())
            assert mapping.get("missing") is None
            assert mapping.get("missing", 7) == 7
            assert mapping.get(key) is not None
            with pytest.raises(KeyError) as error:
                mapping["missing"]
            assert error.value.args == ("missing",)
        assert model.get("b.weight").name == "b.weight"
        assert model.metadata.get("llama.block_count") == 1
        with pytest.raises(KeyError):
            model.metadata.value("missing")
        with pytest.raises(KeyError):
            model.headers[0].tensor("missing")
    assert len(model) == 0
    assert "b.weight" not in model


def test_a_notebook_shows_the_tensors_of_a_file(small, tmp_path):
    with quantreg.open(small) as model:
        html = model._repr_html_()
        assert f"<caption>{small}: 2 tensors, 58 bytes, 12.2105 bits per weight</caption>" in html
        assert re.findall(r"<th>(.*?)</th>", html) == ["tensor", "type", "shape", "bytes"]
        assert re.findall(r"<td.*?>(.*?)</td>", html) == [
            "a.weight",
            "F32",
            "2 x 3",
            "24",
            "b.weight",
            "Q8_0",
            "32",
            "34",
        ]
        html = model["b.weight"]._repr_html_()
        assert re.findall(r"<t[hd].*?>(.*?)</t[hd]>", html) == (
            ["type", "Q8_0", "shape", "32", "bytes", "34", "bits per weight", "8.5"]
        )
    quantreg.write(tmp_path / "odd.gguf", {}, {"<b>": np.zeros((0, 8), np.float32)})
    with quantreg.open(tmp_path / "odd.gguf") as model:
        assert "odd.gguf: 1 tensors, 0 bytes</caption>" in model._repr_html_()
        assert "&lt;b&gt;" in model._repr_html_()
        assert "bits" not in model["<b>"]._repr_html_()
    quantreg.write(tmp_path / "long.gguf", {}, {f"t{i:03}": np.zeros(1, np.float32) for i in range(100)})
    with quantreg.open(tmp_path / "long.gguf") as model:
        assert "t059" in model._repr_html_()
        assert "t060" not in model._repr_html_()
        assert "and 40 more" in model._repr_html_()


def test_bytes_are_mapped_read_only_and_outlive_the_file_object(small):
    with quantreg.open(small) as model:
        tensor = model["a.weight"]
        assert np.shares_memory(tensor.data, model["a.weight"].data)
    assert tensor.data.shape == (2, 12)
    assert tensor.data.view("<f4").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not tensor.data.flags.writeable
    with pytest.raises(KeyError):
        model["a.weight"]


def test_dequantize_calls_the_dispatcher(small, monkeypatch):
    seen = []

    def fake(data, qtype, dtype=np.float32, out=None, threads=None, parameters=None, tensor=None):
        seen.append((data.shape, qtype, dtype))
        return np.zeros((2, 3), dtype)

    monkeypatch.setattr("quantreg.tensor.dequantize", fake)
    with quantreg.open(small) as model:
        assert model["a.weight"].dequantize(np.float16).dtype == np.float16
    assert seen == [((2, 12), 0, np.float16)]


def test_unchanged_copy_is_byte_identical(small, tmp_path):
    with quantreg.open(small) as model:
        quantreg.write(tmp_path / "copy.gguf", model.metadata, model)
    assert (tmp_path / "copy.gguf").read_bytes() == small.read_bytes()


def test_unchanged_copy_with_unusual_alignment_and_unknown_types(tmp_path):
    source = tmp_path / "m.gguf"
    source.write_bytes(
        gf.gguf(
            [gf.u32("general.alignment", 64)],
            [gf.tensor("x", (7, 3), 99999), gf.tensor("y", (2,), 0, 128)],
            bytes(range(128)) + bytes(64),
            alignment=64,
        )
    )
    with quantreg.open(source) as model:
        assert model["x"].data.shape == (128,)
        quantreg.write(tmp_path / "copy.gguf", model.metadata, model)
        with pytest.raises(UnknownTypeError):
            model["x"].dequantize()
    assert (tmp_path / "copy.gguf").read_bytes() == source.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let a mapped file go: tests/test_windows.py")
def test_file_can_replace_itself(small):
    data = small.read_bytes()
    with quantreg.open(small) as model:
        quantreg.write(small, model.metadata, model, force=True)
    assert small.read_bytes() == data


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "i1", "i2", "i4", "i8", ">f4", ">i2"])
def test_arrays_keep_their_values(tmp_path, dtype):
    path = tmp_path / "m.gguf"
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    quantreg.write(path, {"general.architecture": "test"}, {"x": array, "sliced": array[:, ::2, 1:]})
    with quantreg.open(path) as model:
        assert model["x"].shape == (2, 3, 4)
        native = array.dtype.newbyteorder("<")
        assert (model["x"].data.view(native) == array).all()
        assert (np.ascontiguousarray(model["sliced"].data).view(native) == array[:, ::2, 1:]).all()
    assert read_header(path).tensor("x").dims == (4, 3, 2)


def test_bfloat16_arrays(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    quantreg.write(tmp_path / "m.gguf", {}, {"x": np.ones((2, 3), bfloat16)})
    assert read_header(tmp_path / "m.gguf").tensor("x").type_name == "BF16"


def test_scalars_and_empty_arrays(tmp_path):
    path = tmp_path / "m.gguf"
    quantreg.write(path, {}, {"scalar": np.array(1.5, np.float32), "empty": np.zeros((0, 8), np.float32)})
    with quantreg.open(path) as model:
        assert model["scalar"].shape == ()
        assert model["scalar"].data.view("<f4") == [1.5]
        assert model["empty"].data.shape == (0, 32)


def test_quantized_bytes_of_your_own(tmp_path):
    path = tmp_path / "m.gguf"
    tensor = QuantizedTensor("any", (2, 64), "Q4_0", bytes(range(72)))
    assert tensor.data.shape == (2, 36)
    quantreg.write(path, {"k": Value("u64", 5)}, {"x": tensor})
    with quantreg.open(path) as model:
        assert model["x"].data.tobytes() == bytes(range(72))
        assert model["x"].type_name == "Q4_0"
        assert model.metadata.value_type("k") == "u64"


def test_invalid_quantized_tensors():
    with pytest.raises(ShapeError, match="72 bytes"):
        QuantizedTensor("x", (2, 64), "Q4_0", bytes(71))
    with pytest.raises(ShapeError, match="packs 32 weights per block"):
        QuantizedTensor("x", (2, 65), 2, bytes(72))
    with pytest.raises(ShapeError, match="uint8"):
        QuantizedTensor("x", (2, 64), "Q4_0", np.zeros(72, np.int8))
    with pytest.raises(UnknownTypeError):
        QuantizedTensor("x", (2, 64), "Q77", bytes(72))


@pytest.mark.parametrize("tensor", [np.zeros(3, np.uint8), np.zeros(3, complex), [1.0], np.array(["a"])])
def test_arrays_that_gguf_has_no_type_for(tmp_path, tensor):
    with pytest.raises(ShapeError, match=r"x: cannot write .*: convert it to a NumPy array of .*, or quantize it"):
        quantreg.write(tmp_path / "m.gguf", {}, {"x": tensor})
    assert not list(tmp_path.iterdir())


def test_write_refuses_what_the_format_cannot_hold(small, tmp_path):
    with pytest.raises(GGUFFormatError, match="5 dimensions"):
        quantreg.write(tmp_path / "m.gguf", {}, {"x": np.zeros((1,) * 5, np.float32)})
    with pytest.raises(OutputError, match="choose another name, or replace it with force"):
        quantreg.write(small, {}, {})


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"k": None}, {}, "None has no metadata type of its own: leave the key out"),
        ({"k": []}, {}, r"\[\] has no metadata type of its own: give a typed Value"),
        ({"k": 1 << 64}, {}, "no integer type of GGUF holds 18446744073709551616: store smaller numbers, or text"),
        ({"k": [-1, 1 << 63]}, {}, "holds both -1 and 9223372036854775808: store smaller numbers"),
        ({"": 1}, {}, "a key is empty: give it at least one character"),
        ({"k\0": 1}, {}, "contains a NUL byte: remove it"),
        ({"k" * 65536: 1}, {}, "has 65536 bytes, but the limit is 65535: shorten it"),
        ({"tokenizer.ggml.scores": [1, 2]}, {}, r"but must have type array\[f32\]: store it with that type"),
        ({"general.alignment": 48}, {}, "general.alignment is 48 .* power of two .*: use 32, or leave the key out"),
        ({"general.alignment": "32"}, {}, "general.alignment is '32' .* power of two"),
        ({}, {"": np.zeros(1, np.float32)}, "a tensor name is empty: give it at least one character"),
        ({}, {"x": np.zeros((1,) * 5, np.float32)}, "has 5 dimensions, but the limit is 4: reshape the array"),
    ],
)
def test_an_error_of_write_says_what_to_do(tmp_path, metadata, tensors, message):
    with pytest.raises(GGUFFormatError, match=message):
        quantreg.write(tmp_path / "m.gguf", metadata, tensors)
    assert not list(tmp_path.iterdir())


def test_any_shard_opens_the_whole_model(tmp_path):
    for i in range(3):
        metadata = {"general.architecture": "llama"} if i == 0 else {}
        tensor = np.full((i + 1, 4), i, np.float32)
        quantreg.write(shard_path(tmp_path / "m", i, 3), {**metadata, **dict(split_values(i, 3, 3))}, {f"t{i}": tensor})
    with quantreg.open(shard_path(tmp_path / "m", 1, 3)) as model:
        assert {name: model[name].data.view("<f4")[0, 0] for name in model} == {"t0": 0, "t1": 1, "t2": 2}
        assert dict(model.metadata) == {"general.architecture": "llama"}
        quantreg.write(tmp_path / "joined.gguf", model.metadata, model)
    with quantreg.open(tmp_path / "joined.gguf") as model:
        assert list(model) == ["t0", "t1", "t2"]


def test_a_file_that_changed_after_its_header_was_read(small, monkeypatch):
    """Rule 18: the sizes are checked again when the data is mapped."""
    from quantreg import gguf

    def read_then_cut(path, **options):
        headers = gguf.splits.read_shards(path, **options)
        with open(path, "r+b") as file:
            file.truncate(headers[0].data_offset + 40)
        return headers

    monkeypatch.setattr("quantreg.files.gguf.read_shards", read_then_cut)
    with pytest.raises(GGUFFormatError, match="now has"):
        quantreg.open(small)


def test_gguf_py_reads_the_same(tmp_path):
    constants = pytest.importorskip("gguf")
    path = tmp_path / "m.gguf"
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 64)).astype(np.float32)
    quantreg.write(
        path,
        {"general.architecture": "test", "tokenizer.ggml.tokens": [f"w{i}" for i in range(100)]},
        {"a": weights, "b": weights.astype(np.float16), "c": QuantizedTensor("c", (4, 64), "Q8_0", bytes(272))},
    )
    other = constants.GGUFReader(path)
    with quantreg.open(path) as model:
        assert [tensor.name for tensor in other.tensors] == list(model)
        for tensor in other.tensors:
            assert tensor.tensor_type == model[tensor.name].type_id
            assert np.asarray(tensor.data).tobytes() == model[tensor.name].data.tobytes()
        tokens = other.get_field("tokenizer.ggml.tokens").contents()
        assert tokens == model.metadata["tokenizer.ggml.tokens"]


@pytest.mark.parametrize("shards", [False, True])
def test_a_tensor_that_outlives_its_file_keeps_its_parameters(shards, tmp_path):
    name = "blk.0.ffn_up.weight"
    made = QuantizedTensor.from_array(name, np.linspace(-5e-4, 5e-4, 256, dtype=np.float32).reshape(4, 64), "NVFP4")
    path = tmp_path / "m.gguf"
    quantreg.write(path, {"general.architecture": "llama"}, {name: made})
    if shards:
        quantreg.split(path, tmp_path / "m", split_max_tensors=1)
        path = tmp_path / "m-00001-of-00002.gguf"
    with quantreg.open(path) as model:
        tensor = model[name]
    assert np.array_equal(tensor.dequantize(), made.dequantize())
    assert np.array_equal(tensor[1], made[1])
    assert np.array_equal(pickle.loads(pickle.dumps(tensor)).dequantize(), made.dequantize())
    quantreg.write(tmp_path / "again.gguf", {}, {name: tensor})
    with quantreg.open(tmp_path / "again.gguf") as model:
        assert np.array_equal(model[name], made.dequantize())
