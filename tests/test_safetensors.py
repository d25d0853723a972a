"""Safetensors in and out."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import small_model
from safetensors_files import save, write_raw

import quantreg
from quantreg import NonFiniteError, OutputError, PlanError, SafetensorsError, cli
from quantreg.jobs.safetensors import SafetensorsSource

OVERRIDES = [(key, value) for key, value in small_model.metadata().items() if key != "general.file_type"]


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_model.write_model("small.gguf")
    save("model.safetensors", small_model.tensors(), {"format": "pt"})
    return tmp_path


def test_a_safetensors_model_gives_the_tensors_of_the_same_gguf_model(at):
    quantreg.quantize_file("small.gguf", "a.gguf", "Q4_K_M")
    quantreg.quantize_file("model.safetensors", "b.gguf", "Q4_K_M", override_kv=OVERRIDES)
    assert quantreg.hash_tensors("a.gguf") == quantreg.hash_tensors("b.gguf")
    with quantreg.open("a.gguf") as a, quantreg.open("b.gguf") as b:
        assert list(a) == list(b)
        assert dict(a.metadata) == dict(b.metadata)


def test_shards_with_an_index_and_a_map_of_names(at):
    theirs = {f"model.{i}.W": name for i, name in enumerate(small_model.tensors())}
    items = list(zip(theirs, small_model.tensors().values(), strict=True))
    save("m-00001-of-00002.safetensors", dict(items[20:]) | {"junk": np.ones(3, np.float32)})
    save("m-00002-of-00002.safetensors", dict(items[:20]))
    weight_map = {name: f"m-0000{1 if i >= 20 else 2}-of-00002.safetensors" for i, (name, _) in enumerate(items)}
    Path("m.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    Path("names.json").write_text(json.dumps(theirs | {"junk": None, "other": "x"}))
    options = [word for key, value in OVERRIDES for word in ("--override-kv", f"{key}={kind(value)}:{value}")]
    words = ["quantize", "--names", "names.json", *options, "m.safetensors.index.json", "out.gguf", "Q4_K_M"]
    assert cli.main(words) == 0
    quantreg.quantize_file("small.gguf", "a.gguf", "Q4_K_M")
    assert quantreg.hash_tensors("a.gguf") == quantreg.hash_tensors("out.gguf")
    (warning,) = SafetensorsSource("m.safetensors.index.json", "names.json").warnings
    assert "mention 1 tensor that the model lacks (other)" in warning


def kind(value):
    return {int: "int", float: "float", str: "str"}[type(value)]


def test_a_plan_of_a_safetensors_model_goes_through_a_file(at):
    assert cli.main(["plan", "model.safetensors", "Q8_0", "-o", "plan.json"]) == 0
    assert cli.main(["quantize", "--plan", "plan.json", "model.safetensors", "a.gguf"]) == 0
    quantreg.quantize_file("model.safetensors", "b.gguf", "Q8_0")
    assert Path("a.gguf").read_bytes() == Path("b.gguf").read_bytes()


@pytest.mark.parametrize("dtype", [None, "f16", "bf16", "f32"])
def test_export_writes_what_dequantize_gives(at, dtype):
    quantreg.quantize_file("small.gguf", "q.gguf", "Q4_K_M")
    assert quantreg.export("q.gguf", "out.safetensors", dtype=dtype).path == "out.safetensors"
    with quantreg.open("q.gguf") as model:
        found = {info.name: info for info in SafetensorsSource("out.safetensors").tensors}
        assert set(found) == set(model)
        raw = Path("out.safetensors").read_bytes()
        start = 8 + struct.unpack("<Q", raw[:8])[0]
        assert start % 8 == 0
        for name, tensor in model.items():
            expected = (dtype or ("f32" if tensor.type_name == "F32" else "f16")).upper()
            info = found[name]
            assert (info.type_name, info.shape) == (expected, tensor.shape)
            data = raw[start + info.offset : start + info.offset + info.nbytes]
            assert data == quantreg.quantize(tensor.dequantize(), expected).tobytes()


def test_the_library_reads_an_export_and_we_read_its_files(at):
    library = pytest.importorskip("safetensors.numpy")
    quantreg.export("small.gguf", "out.safetensors")
    loaded = library.load_file("out.safetensors")
    for name, x in small_model.tensors().items():
        np.testing.assert_array_equal(loaded[name], x)
    library.save_file(loaded, "theirs.safetensors")
    quantreg.quantize_file("theirs.safetensors", "b.gguf", "Q8_0", override_kv=OVERRIDES)
    quantreg.quantize_file("small.gguf", "a.gguf", "Q8_0")
    assert quantreg.hash_tensors("a.gguf") == quantreg.hash_tensors("b.gguf")


def test_exported_and_quantized_again_a_model_is_the_same(at):
    quantreg.export("small.gguf", "out.safetensors")
    quantreg.quantize_file("out.safetensors", "again.gguf", "F16", override_kv=OVERRIDES)
    assert quantreg.hash_tensors("again.gguf").items() == quantreg.hash_tensors("small.gguf").items()


def test_what_overflows_f16_is_refused_and_bf16_is_not(at):
    quantreg.write("big.gguf", {}, {"a": np.full((2, 32), 1e6, np.float32)})
    with pytest.raises(NonFiniteError):
        quantreg.export("big.gguf", "out.safetensors", dtype="f16")
    assert not Path("out.safetensors").exists()
    quantreg.export("big.gguf", "out.safetensors", dtype="bf16")
    with pytest.raises(OutputError, match="exists"):
        quantreg.export("big.gguf", "out.safetensors")
    with pytest.raises(SafetensorsError, match="dtype"):
        quantreg.export("big.gguf", "x.safetensors", dtype="int4")


TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "all zeros"), (b"[]", "not a JSON object"), (b"[" * 100_000, "not JSON"), (b"\xff\xfe", "not JSON"),
        *[
            (json.dumps({"a": entry}).encode(), message)
            for entry, message in [
                (7, "expected dtype"), ({}, "expected dtype"),
                (TENSOR | {"dtype": "F8_E8M0", "data_offsets": [0, 4]}, "GGUF has no type"),
                (TENSOR | {"shape": [2, -2]}, "expected dtype"), (TENSOR | {"shape": [2, 2.0]}, "expected dtype"),
                (TENSOR | {"shape": [3, 2]}, "cut off or damaged"), (TENSOR | {"shape": [2**40, 2**40]}, "cut off"),
                (TENSOR | {"data_offsets": [16, 32]}, "cut off"), (TENSOR | {"data_offsets": [-16, 0]}, "cut off"),
                (TENSOR | {"data_offsets": [8]}, "expected dtype"), (TENSOR | {"shape": [True, 4]}, "expected dtype"),
            ]
        ],
    ],
)  # fmt: skip
def test_damaged_files_are_refused_in_one_line(at, capsys, header, message):
    write_raw("bad.safetensors", header, bytes(16))
    assert cli.main(["quantize", "bad.safetensors", "out.gguf", "Q8_0"]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_dtype_without_a_gguf_type_can_be_left_out(at):
    header = {"a": TENSOR, "mask": {"dtype": "BOOL", "shape": [3], "data_offsets": [16, 19]}}
    write_raw("m.safetensors", json.dumps(header).encode(), bytes(19))
    with pytest.raises(SafetensorsError, match="'mask' is BOOL"):
        quantreg.plan("m.safetensors", "F16")
    assert [t.name for t in quantreg.plan("m.safetensors", "F16", names={"mask": None}).tensors] == ["a"]


@pytest.mark.parametrize("raw", [b"", b"1234567", b"\xff" * 8, struct.pack("<Q", 100) + b"{}"])
def test_files_that_are_too_short_are_refused(at, raw):
    Path("bad.safetensors").write_bytes(raw)
    with pytest.raises(SafetensorsError, match="not a safetensors file"):
        quantreg.plan("bad.safetensors", "Q8_0")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "is not an index"), ({"weight_map": {}}, "is not an index"),
        ({"weight_map": {"a": "../model.safetensors"}}, "is not the name of a safetensors file"),
        ({"weight_map": {"a": 7}}, "is not the name of a safetensors file"),
        ({"weight_map": {"a": "gone.safetensors"}}, "is missing"),
        ({"weight_map": {"a": "model.safetensors"}}, "but it is not: download both again"),
    ],
)  # fmt: skip
def test_a_wrong_index_is_refused(at, index, message):
    Path("m.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SafetensorsError, match=message):
        quantreg.plan("m.safetensors.index.json", "Q8_0")


def test_wrong_names_are_refused(at):
    for names in ({"output.weight": "token_embd.weight"}, {"output.weight": 7}):
        with pytest.raises(SafetensorsError):
            quantreg.plan("model.safetensors", "Q8_0", names=names)
    with pytest.raises(PlanError, match="names are for safetensors"):
        quantreg.plan("small.gguf", "Q8_0", names={})


def test_a_source_may_not_be_replaced_by_its_export(at):
    os.link("small.gguf", "same.safetensors")
    with pytest.raises(OutputError, match="is the input"):
        quantreg.export("small.gguf", "same.safetensors", force=True)
