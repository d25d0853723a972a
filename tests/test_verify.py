"""validate, compare, hash and metadata: what they find, what they leave alone."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import GGUFFormatError, MetadataError, OutputError, QuantizedTensor
from quantreg.gguf import Value, read_header


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify")
    small_model.write_model(path / "small.gguf")
    quantreg.quantize_file(path / "small.gguf", path / "q4.gguf", "Q4_K_M")
    quantreg.split(path / "q4.gguf", path / "s", split_max_tensors=10)
    return path


@pytest.fixture
def at(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


# ---- validate ----


def test_sound_files_validate(run, at):
    for file, files in (("small.gguf", "1 file"), ("q4.gguf", "1 file"), ("s-00002-of-00004.gguf", "4 files")):
        assert run("validate", file) == (0, f"{file}: 39 tensors in {files}: no problems found\n", "")


@pytest.mark.parametrize("type_name", ["Q4_K", "Q6_K", "Q8_0", "Q4_0", "F16", "BF16", "F32", "IQ4_NL"])
def test_a_scale_that_is_not_finite_is_found_with_its_place(run, tmp_path, type_name):
    x = small_model.noise(1, (6, 512))
    data = quantreg.quantize(x, type_name)
    block, size = quantreg.types[type_name].block_size, quantreg.types[type_name].type_size
    blocks = data.reshape(-1, size)
    scale = {"Q6_K": slice(208, 210), "F32": slice(0, 4)}.get(type_name, slice(0, 2))
    infinity = {"F32": b"\x00\x00\x80\x7f", "BF16": b"\x80\x7f"}.get(type_name, b"\x00\x7c")
    blocks[5, scale] = np.frombuffer(infinity, np.uint8)
    tensors = {"a": QuantizedTensor("a", (6, 512), type_name, data), "b": np.ones(3, np.float32)}
    quantreg.write(tmp_path / "bad.gguf", {}, tensors)
    code, out, _ = run("validate", tmp_path / "bad.gguf")
    assert code == 1
    assert out.count("\n") == 1
    assert "a: holds NaN or infinity at index" in out
    assert 5 * block <= int(out.split()[-1]) < 6 * block


def test_every_bad_tensor_is_named(run, tmp_path):
    bad = np.ones((2, 64), np.float32)
    bad[1, 3] = np.nan
    quantreg.write(tmp_path / "bad.gguf", {}, {"a": bad, "b": np.ones(3, np.float32), "c": bad})
    found = quantreg.validate(tmp_path / "bad.gguf").problems
    assert [text.split(":")[0] for text in found] == ["a", "c"]
    assert all(text.endswith("index 67") for text in found)
    code, out, _ = run("validate", "--json", tmp_path / "bad.gguf")
    expected = {"file": str(tmp_path / "bad.gguf"), "tensors": 3, "files": 1, "problems": list(found)}
    assert (code, json.loads(out)) == (1, expected)


def test_types_that_nobody_reads_are_said_to_be_unchecked(tmp_path):
    quantreg.write(tmp_path / "x.gguf", {}, {"a.weight": np.ones((4, 256), np.float16)})
    raw = bytearray((tmp_path / "x.gguf").read_bytes())
    at = raw.index(b"a.weight") + len("a.weight") + 4 + 16
    raw[at : at + 4] = (4242).to_bytes(4, "little")
    (tmp_path / "x.gguf").write_bytes(raw)
    assert quantreg.validate(tmp_path / "x.gguf").problems == (
        "a.weight was not checked: no installed plugin reads type 4242",
    )


# ---- hash ----


def test_digests_do_not_depend_on_order_alignment_and_shards(at, tmp_path):
    digests = quantreg.hash_tensors("q4.gguf")
    assert digests == quantreg.hash_tensors("s-00003-of-00004.gguf")
    with quantreg.open("q4.gguf") as model:
        metadata = dict(model.metadata) | {"general.alignment": Value("u32", 256)}
        quantreg.write(tmp_path / "other.gguf", metadata, dict(reversed(list(model.items()))))
    other = quantreg.hash_tensors(tmp_path / "other.gguf")
    assert other == digests
    assert list(other) != list(digests)


def test_digests_are_sha256_of_the_tensors_bytes(run, at):
    import hashlib

    with quantreg.open("q4.gguf") as model:
        expected = {name: hashlib.sha256(tensor.data.tobytes()).hexdigest() for name, tensor in model.items()}
    assert json.loads(run("hash", "--json", "q4.gguf")[1]) == expected
    assert run("hash", "q4.gguf")[1] == "".join(f"{expected[name]}  {name}\n" for name in sorted(expected))


# ---- compare ----


def test_a_file_is_the_same_as_itself_and_as_its_shards(run, at):
    same = "the models have the same metadata and the same 39 tensors\n"
    assert run("compare", "q4.gguf", "q4.gguf") == (0, same, "")
    assert run("compare", "q4.gguf", "s-00001-of-00004.gguf") == (0, same, "")


def test_another_type_is_a_difference_with_its_numeric_error(run, at):
    code, out, _ = run("compare", "--json", "small.gguf", "q4.gguf")
    assert code == 1
    found = json.loads(out)
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert {row["key"] for row in found["metadata"]} == {"general.file_type", "general.quantization_version"}
    assert "output_norm.weight" not in by_name
    row = by_name["blk.1.attn_q.weight"]
    with quantreg.open("small.gguf") as a, quantreg.open("q4.gguf") as b:
        x, y = (m["blk.1.attn_q.weight"].dequantize().astype(np.float64) for m in (a, b))
    assert (row["what"], row["a"], row["b"]) == ("type", "F16", "Q4_K")
    np.testing.assert_allclose(row["rmse"], np.sqrt(((x - y) ** 2).sum() / (x**2).sum()), rtol=1e-12)
    np.testing.assert_allclose(row["largest"], np.abs(x - y).max(), rtol=1e-12)
    assert 0.02 < row["rmse"] < 0.2


def test_missing_tensors_shapes_bytes_and_keys_are_told_apart(run, tmp_path):
    x = np.arange(64, dtype=np.float32).reshape(2, 32)
    y = x.copy()
    y[1, 31] += 1
    quantreg.write(tmp_path / "a.gguf", {"k": 1, "same": 2, "gone": "x"}, {"one": x, "two": x, "three": x, "four": x})
    metadata = {"same": 2, "k": Value("u64", 1)}
    quantreg.write(tmp_path / "b.gguf", metadata, {"four": x, "two": y, "three": x[:1], "five": x})
    found = quantreg.compare(tmp_path / "a.gguf", tmp_path / "b.gguf")
    assert [(key, a and a.data, b and b.data) for key, a, b in found.metadata] == [("k", 1, 1), ("gone", "x", None)]
    assert [(t.name, t.what) for t in found.tensors] == [
        ("one", "only in A"), ("two", "bytes"), ("three", "shape"), ("five", "only in B"),
    ]  # fmt: skip
    assert found.tensors[1].largest == 1.0
    code, out, _ = run("compare", tmp_path / "a.gguf", tmp_path / "b.gguf")
    assert code == 1
    assert out.endswith("the models differ in 2 keys and in 4 of 5 tensors\n")


# ---- metadata ----


def test_get_prints_one_value_plainly_and_more_as_json(run, at):
    assert run("metadata", "get", "small.gguf", "general.name") == (0, "small\n", "")
    assert run("metadata", "get", "small.gguf", "llama.block_count") == (0, "4\n", "")
    _, out, _ = run("metadata", "get", "small.gguf")
    merged = {key: value for line in out.splitlines() for key, value in json.loads(line).items()}
    assert merged == {key: pytest.approx(value) for key, value in small_model.metadata().items()}
    code, _, err = run("metadata", "get", "small.gguf", "general.nam")
    assert (code, err.count("\n")) == (1, 1)


def test_set_keeps_the_place_of_a_key_and_appends_new_ones(run, at, tmp_path):
    out = tmp_path / "out.gguf"
    values = ["general.name=string:a=b:c", "x.list=array[i16]:[1,-2]", "x.flag=bool:true", "llama.vocab_size=u64:7"]
    assert run("metadata", "set", "small.gguf", out, *values) == (0, "", "")
    header = read_header(out)
    assert list(header.metadata) == [*small_model.metadata(), "x.list", "x.flag"]
    assert header.metadata["general.name"] == "a=b:c"
    assert (header.metadata["x.list"], header.metadata.value_type("x.list")) == ([1, -2], "array[i16]")
    assert header.metadata.value_type("llama.vocab_size") == "u64"
    assert quantreg.hash_tensors(out) == quantreg.hash_tensors("small.gguf")


def test_remove_and_rename(run, at, tmp_path):
    out = tmp_path / "out.gguf"
    assert run("metadata", "remove", "small.gguf", out, "general.name", "general.file_type")[0] == 0
    assert run("metadata", "rename", out, tmp_path / "two.gguf", "llama.block_count=mine.block_count")[0] == 0
    keys = [key for key in small_model.metadata() if key not in ("general.name", "general.file_type")]
    assert list(read_header(out).metadata) == keys
    keys[keys.index("llama.block_count")] = "mine.block_count"
    assert list(read_header(tmp_path / "two.gguf").metadata) == keys


def test_another_alignment_moves_the_tensors(at, tmp_path):
    quantreg.edit_metadata("small.gguf", tmp_path / "out.gguf", set={"general.alignment": 512})
    assert read_header(tmp_path / "out.gguf").alignment == 512
    assert quantreg.hash_tensors(tmp_path / "out.gguf") == quantreg.hash_tensors("small.gguf")


def test_shards_become_one_file_with_the_new_metadata(at, tmp_path):
    quantreg.edit_metadata("s-00001-of-00004.gguf", tmp_path / "out.gguf", set={"general.name": "other"})
    quantreg.edit_metadata("q4.gguf", tmp_path / "expected.gguf", set={"general.name": "other"})
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("set", "IN", "OUT", "a=u8:300"), 1, "u8 holds 0 to 255"),
        (("set", "IN", "OUT", "a=i64:9223372036854775808"), 1, "i64 holds -9223372036854775808 to 9223372036854775807"),
        (("set", "IN", "OUT", "a=int:4294967296"), 1, "u32 holds 0 to 4294967295"),
        (("set", "IN", "OUT", "a=int:-2147483649"), 1, "i32 holds -2147483648 to 2147483647"),
        (("set", "IN", "OUT", "a=f32:1e39"), 1, "f32 holds numbers up to 3.402823e+38"),
        (("set", "IN", "OUT", "a=f64:1e400"), 2, "1e400 is too large: f64 holds numbers up to 1.8e308"),
        (("set", "IN", "OUT", "a=u8:1.5"), 2, "'1.5' is not a u8: expected a whole number"),
        (("set", "IN", "OUT", "a=u32:1_000"), 2, "expected a whole number"),
        (("set", "IN", "OUT", "a=array[u8]:[1,256]"), 1, "u8 holds 0 to 255"),
        (("set", "IN", "OUT", "a=array[i8]:[-129]"), 1, "i8 holds -128 to 127"),
        (("set", "IN", "OUT", "a=array[u8]:[1.5]"), 1, "u8 holds whole numbers from 0 to 255"),
        (("set", "IN", "OUT", "a=array[f32]:[1e39]"), 1, "float32 holds numbers up to 3.402823e+38"),
        (("set", "IN", "OUT", "a=array[array[u8]]:[]"), 2, "is not a type"),
        (("set", "IN", "OUT", "a=u8:x"), 2, "'x' is not a u8: expected a whole number"),
        (("set", "IN", "OUT", "a=bool:True"), 2, "'True' is not a bool: expected true or false"),
        (("set", "IN", "OUT", "a=array[u8]:[1,"), 2, "is not an array[u8]: expected a JSON list such as [1,2]"),
        (
            ("set", "IN", "OUT", "a=u9:1"),
            2,
            "'u9' is not a type: expected int, float, bool, str, or one of GGUF's u8 to u64",
        ),
        (("set", "IN", "OUT", "a"), 2, "KEY=TYPE:VALUE"),
        (("set", "IN", "OUT", "general.alignment=u32:7"), 1, "general.alignment"),
        (("remove", "IN", "OUT", "general.nam"), 1, "did you mean general.name?"),
        (("rename", "IN", "OUT", "general.name"), 2, "OLD=NEW"),
        (("rename", "IN", "OUT", "general.name=general.file_type"), 1, "the key general.file_type exists"),
        (("set", "IN", "IN", "a=u8:3", "--force"), 1, "is the input"),
        (("set", "IN", "no/such/out.gguf", "a=u8:3"), 1, "no/such"),
    ],
)
def test_wrong_changes_are_told_clearly_and_write_nothing(run, at, tmp_path, words, code, message):
    files = {"IN": "small.gguf", "OUT": tmp_path / "out.gguf"}
    found, _, err = run("metadata", *(files.get(word, word) for word in words))
    assert found == code
    assert message in err
    assert os.listdir(tmp_path) == []


def test_errors_of_the_functions(at, tmp_path):
    with pytest.raises(MetadataError, match="no key"):
        quantreg.edit_metadata("small.gguf", tmp_path / "o", remove=["zzz"])
    with pytest.raises(OutputError, match="exists"):
        quantreg.edit_metadata("small.gguf", at / "q4.gguf", set={"a": 1})
    Path(tmp_path / "bad.gguf").write_bytes(b"GGUF")
    for function in (quantreg.validate, quantreg.hash_tensors):
        with pytest.raises(GGUFFormatError):
            function(tmp_path / "bad.gguf")


def test_half_a_model_is_not_valid(run, tmp_path):
    layers = {f"blk.{i}.{role}.weight": np.ones((2, 32), np.float32) for i in range(4) for role in ("attn_q", "ffn_up")}
    whole = {"general.architecture": "llama", "llama.block_count": 4}
    quantreg.write(tmp_path / "whole.gguf", whole, layers)
    assert quantreg.validate(tmp_path / "whole.gguf").problems == ()
    del layers["blk.2.ffn_up.weight"]
    quantreg.write(tmp_path / "lacks.gguf", whole, layers)
    (problem,) = quantreg.validate(tmp_path / "lacks.gguf").problems
    assert problem.startswith("blk.2 lacks ffn_up.weight, which 3 other layers have")
    quantreg.write(tmp_path / "half.gguf", whole | {"llama.block_count": 8}, dict(list(layers.items())[:2]))
    code, out, _ = run("validate", tmp_path / "half.gguf")
    assert code == 1
    assert "the model lacks 7 of its 8 layers (blk.1 to blk.7), although llama.block_count is 8" in out
