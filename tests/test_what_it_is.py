"""What people hand over by mistake is called what it is, with what to do next."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf_files as gf
import numpy as np
import pytest
import small_model
from safetensors_files import save

import quantreg
from quantreg import GGUFFormatError, OutputError, QuantregError, SafetensorsError, cli


def zipped(*names):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name in names:
            archive.writestr(name, bytes(64))
    return raw.getvalue()


def protobuf_onnx():
    return b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:" + bytes(300)


FOREIGN = {
    "empty": (b"", "is empty"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer.*git lfs pull"),
    "html": (b"\n<!DOCTYPE html>\n<html>Sign in</html>", "web page.*download"),
    "html without doctype": (b"<HTML><body>404</body>", "web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML.*download"),
    "error text": (b"Entry not found", "text file that begins with 'Entry not found'"),
    "json": (b'{"error": "Repository not found"}', "JSON"),
    "index": (b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}', "index of a safetensors"),
    "torch index": (b'{"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}', "index of a PyTorch.*convert_hf"),
    "ggml": (struct.pack("<I", 0x67676D6C) + bytes(5000), "ggml format.*convert_llama_ggml_to_gguf"),
    "ggmf": (struct.pack("<II", 0x67676D66, 1) + bytes(5000), "ggmf format"),
    "ggjt": (struct.pack("<II", 0x67676A74, 3) + bytes(5000), "ggjt format"),
    "ggla": (struct.pack("<II", 0x67676C61, 1) + bytes(5000), "LoRA adapter in the ggla format.*convert_lora_to_gguf"),
    "torch zip": (zipped("archive/data.pkl", "archive/data/0"), "PyTorch.*convert_hf_to_gguf"),
    "torch pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(100), "pickle.*convert_hf_to_gguf"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}" + bytes(50), "pickle"),
    "zip": (zipped("model.gguf"), "zip archive.*unpack"),
    "npz": (zipped("a.npy"), "NumPy archive"),
    "npy": (b"\x93NUMPY\1\0" + bytes(100), "NumPy array"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(100), "gzip archive.*unpack"),
    "tar": (b"model.gguf".ljust(257, b"\0") + b"ustar\x0000" + bytes(400), "tar archive.*unpack"),
    "onnx": (protobuf_onnx(), "ONNX"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "tokenizer": (b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\2" + bytes(100), "SentencePiece"),
    "zeros": (bytes(500), "zeros.*incomplete"),
    "old imatrix": (struct.pack("<ii", 3, 19) + b"blk.0.attn_q.weight" + bytes(200), "importance matrix.*--imatrix"),
}


@pytest.mark.parametrize("name", ["m.gguf", "m.safetensors", "m"])
@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_of_another_kind_is_called_what_it_is(what, name, tmp_path, capsys):
    data, message = FOREIGN[what]
    path = tmp_path / name
    path.write_bytes(data)
    for action in (quantreg.open, lambda p: quantreg.plan(p, "Q8_0")):
        with pytest.raises((GGUFFormatError, SafetensorsError), match=f"(?s){message}") as refused:
            action(path)
        assert str(refused.value).startswith(f"{path}: ")
    for words in (["inspect", path], ["quantize", path, tmp_path / "out.gguf", "Q8_0"], ["compare", path, path]):
        assert cli.main(list(map(str, words))) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out.gguf").exists()


def test_a_file_that_nothing_is_known_about_keeps_the_plain_message(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(range(100, 256)))
    with pytest.raises(GGUFFormatError, match="magic is b'defg'"):
        quantreg.open(path)


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_content_of_a_file_decides_and_not_its_name(at):
    small_model.write_model("small.gguf")
    save("model.safetensors", small_model.tensors())
    os.link("small.gguf", "x.safetensors")
    for name in ("y.gguf", "0123abcd"):  # the Hugging Face cache names files by their digest
        os.link("model.safetensors", name)
        with quantreg.open(name) as model:
            assert set(model) == set(small_model.tensors())
        (warning,) = quantreg.plan(name, "Q8_0").warnings[:1]
        assert f"{name} is a safetensors file" in warning
    assert "x.safetensors is a GGUF file" in quantreg.plan("x.safetensors", "Q8_0").warnings[0]
    with quantreg.open("x.safetensors") as model:
        assert list(model.metadata) == list(small_model.metadata())


@pytest.mark.parametrize("command", [["validate"], ["hash"], ["metadata", "get"]])
def test_commands_for_gguf_say_how_to_make_one_of_safetensors(at, capsys, command):
    save("model.safetensors", small_model.tensors())
    assert cli.main([*command, "model.safetensors"]) == 1
    assert "a safetensors file: make a GGUF model of it with `quantreg quantize" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["m.gguf.part1of2", "m.gguf-split-a", "m.gguf.part", "m.gguf.incomplete"])
def test_a_piece_of_a_file_is_called_one(at, name):
    Path(name).write_bytes(gf.small_model()[:-50])
    with pytest.raises(GGUFFormatError, match=r"its name says that it is (a piece of m.gguf|an unfinished download)"):
        quantreg.open(name)
    Path(name).write_bytes(bytes(range(100, 256)))
    with pytest.raises(GGUFFormatError, match=r"its name says that it is (a piece of m.gguf|an unfinished download)"):
        quantreg.open(name)


# Not a file at all


def test_standard_input_and_output_are_refused_with_the_reason(at, capsys):
    small_model.write_model("small.gguf")
    with pytest.raises(GGUFFormatError, match=r"standard input.*write it to a file") as refused:
        quantreg.open("-")
    assert refused.value.code == "not-a-file"
    for words in (["quantize", "small.gguf", "-", "Q8_0"], ["merge", "small.gguf", "-"], ["export", "small.gguf", "-"]):
        assert cli.main(words) == 1
        assert "standard output is not supported, because" in capsys.readouterr().err
    with pytest.raises(OutputError, match="standard output"):
        quantreg.write("-", {}, {})
    assert not Path("-").exists()
    quantreg.merge("small.gguf", "./-")
    with quantreg.open("-"):
        pass


@pytest.mark.skipif(os.name == "nt" or not os.path.exists("/dev/stdout"), reason="no /dev/stdout")
def test_standard_output_by_its_path_is_refused_like_any_pipe(at):
    small_model.write_model("small.gguf")
    words = [sys.executable, "-P", "-m", "quantreg", "quantize", "small.gguf", "/dev/stdout", "Q8_0"]
    done = subprocess.run(words, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"is a pipe or device, not a regular file: give the name of a file" in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_and_a_device_are_refused_and_not_waited_for(at):
    os.mkfifo("pipe.gguf")
    os.mkfifo("pipe.safetensors")
    small_model.write_model("small.gguf")
    for name, what in (("pipe.gguf", "a pipe"), ("pipe.safetensors", "a pipe"), ("/dev/null", "a device")):
        for action in (quantreg.open, quantreg.validate, lambda p: quantreg.plan(p, "Q8_0")):
            with pytest.raises(GGUFFormatError, match=f"is {what}, not a regular file: .*write it to a file"):
                action(name)
        with pytest.raises(OutputError, match="not a regular file"):
            quantreg.merge("small.gguf", name, force=True)


def test_an_address_of_the_web_is_no_path(at, capsys):
    assert cli.main(["inspect", "https://huggingface.co/a/b/resolve/main/m.gguf"]) == 1
    assert "is a web address: download the model" in capsys.readouterr().err


def test_an_open_file_is_refused_and_bytes_are_a_path(at):
    small_model.write_model("small.gguf")
    for given in (io.BytesIO(b"GGUF"), io.StringIO(), bytearray(b"GGUF"), 5, None):
        with pytest.raises(TypeError, match=f"expected the path of a model, not a {type(given).__name__}"):
            quantreg.open(given)
    with quantreg.open(b"small.gguf") as model:
        assert model.paths == ("small.gguf",)
    quantreg.quantize_file(b"small.gguf", b"out.gguf", "Q8_0")
    quantreg.quantize_file("small.gguf", "same.gguf", "Q8_0")
    assert quantreg.hash_tensors(b"out.gguf") == quantreg.hash_tensors("same.gguf")
    assert quantreg.compare(b"out.gguf", b"same.gguf").same
    assert quantreg.validate(b"out.gguf").ok
    small_model.write_imatrix("im.gguf")
    assert quantreg.ImportanceMatrix.read(b"im.gguf").path == "im.gguf"
    assert quantreg.coverage(b"small.gguf", b"im.gguf") is not None
    quantreg.write_plan(quantreg.plan(b"small.gguf", "Q4_K", imatrix=b"im.gguf"), b"plan.json", source=b"small.gguf")
    assert quantreg.read_plan(b"plan.json", b"small.gguf").imatrix == "im.gguf"
    quantreg.write(b"again.gguf", {}, {"a": np.ones(4, np.float32)})
    assert Path("again.gguf").exists()


# Folders


def test_a_folder_with_one_model_stands_for_it(at, capsys):
    os.mkdir("gguf")
    small_model.write_model("gguf/small.gguf")
    quantreg.write("gguf/mmproj-small.gguf", {}, {"a": np.ones(4, np.float32)})
    os.mkdir("hf")
    save("hf/model.safetensors", small_model.tensors())
    Path("hf/config.json").write_text("{}")
    os.mkdir("shards")
    quantreg.split("gguf/small.gguf", "shards/small", split_max_tensors=9)
    for folder in ("gguf", "hf", "shards"):
        with quantreg.open(folder) as model:
            assert set(model) == set(small_model.tensors())
    assert cli.main(["quantize", "hf", "Q8_0"]) == 0
    assert cli.main(["quantize", "shards/", "Q8_0"]) == 0
    assert Path("hf/ggml-model-Q8_0.gguf").exists()
    assert Path("shards/ggml-model-Q8_0.gguf").exists()
    capsys.readouterr()
    assert cli.main(["inspect", "shards"]) == 1  # now there are two
    assert "is a folder with 2 models (ggml-model-Q8_0.gguf, small-00001-of-00005.gguf)" in capsys.readouterr().err


FOLDERS = {
    "empty": ([], "empty folder"),
    "notes": (["notes.txt"], "a folder without a model"),
    "no weights": (["config.json", "tokenizer.json"], "Hugging Face folder without weights: download its safetensors"),
    "torch": (["config.json", "pytorch_model.bin"], "PyTorch checkpoint: .*convert_hf_to_gguf"),
    "adapter": (["adapter_config.json", "adapter_model.safetensors"], "folder with an adapter"),
    "diffusers": (["model_index.json", "transformer/x"], "diffusers pipeline: give the folder transformer in it"),
    "cache": (["refs/main", "snapshots/abc/model.gguf"], "Hugging Face cache: give the folder of one revision"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_without_a_model_is_called_what_it_is(at, what, capsys):
    names, message = FOLDERS[what]
    os.mkdir("in")
    for name in names:
        path = Path("in", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for words in (["inspect", "in"], ["quantize", "in", "out.gguf", "Q8_0"], ["validate", "in"]):
        assert cli.main(words) == 1
        err = capsys.readouterr().err
        assert "[not-a-file]" in err
        assert re.search(message, err)


def test_a_folder_of_shards_with_their_index_is_one_model(at):
    os.mkdir("hf")
    items = list(small_model.tensors().items())
    save("hf/model-00001-of-00002.safetensors", dict(items[:9]))
    save("hf/model-00002-of-00002.safetensors", dict(items[9:]))
    weight_map = {name: f"model-0000{1 + (i >= 9)}-of-00002.safetensors" for i, (name, _) in enumerate(items)}
    Path("hf/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with quantreg.open("hf") as model:
        assert set(model) == {name for name, _ in items}
    os.remove("hf/model-00002-of-00002.safetensors")
    with pytest.raises(QuantregError, match=r"model-00002-of-00002.safetensors is missing"):
        quantreg.open("hf")


def test_a_model_given_as_another_input_is_refused_in_a_line(at, capsys):
    small_model.write_model("m.gguf")
    save("m.safetensors", {"a.weight": np.zeros((2, 32), np.float32)})
    assert cli.main(["quantize", "--plan", "m.gguf", "m.gguf", "o.gguf"]) == 1
    assert "m.gguf: is not a plan: make one with `quantreg plan" in capsys.readouterr().err
    assert cli.main(["quantize", "--names", "m.gguf", "m.safetensors", "o.gguf", "Q8_0"]) == 1
    assert "m.gguf is not JSON: it is a GGUF file" in capsys.readouterr().err
    assert cli.main(["quantize", "--tensor-type-file", "m.gguf", "m.gguf", "o.gguf", "Q8_0"]) == 1
    err = capsys.readouterr().err
    assert "expected PATTERN=TYPE" in err
    assert len(err) < 300


@pytest.mark.parametrize(
    ("metadata", "tensor", "says"),
    [
        ({"general.type": "imatrix"}, "blk.0.attn_q.weight.in_sum2", "an importance matrix: give the model that it"),
        ({}, "blk.0.attn_q.weight.in_sum2", "an importance matrix: give the model that it"),
        ({"general.type": "adapter", "general.architecture": "llama"}, "blk.0.attn_q.weight.lora_a", "a LoRA adapter"),
        ({"general.architecture": "controlvector"}, "direction.1", "a control vector"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["perplexity", "-m", "it.gguf", "-f", "text.txt"],
        ["generate", "-m", "it.gguf", "-p", "one"],
        ["imatrix", "-m", "it.gguf", "-f", "text.txt", "-o", "o.gguf"],
        ["quantize", "--calibration", "text.txt", "it.gguf", "o.gguf", "Q4_0"],
        ["evaluate", "Q4_0", "--on", "it.gguf", "-f", "text.txt"],
    ],
)
def test_a_gguf_file_that_is_no_model_is_not_run_but_called_what_it_is(at, capsys, command, metadata, tensor, says):
    quantreg.write("it.gguf", metadata, {tensor: np.ones((2, 32), np.float32)})
    Path("text.txt").write_text("one two three " * 100)
    assert cli.main(command) == 1
    err = capsys.readouterr().err
    assert says in err
    assert "--imatrix" not in err or command[0] == "quantize"
    assert not Path("o.gguf").exists()


def test_a_plan_in_utf_16_is_read(at):  # as a shell's redirection writes it on Windows
    small_model.write_model("m.gguf")
    quantreg.write_plan(quantreg.plan("m.gguf", "Q8_0"), "plan.json")
    text = Path("plan.json").read_text(encoding="utf-8")
    Path("plan.json").write_text(text, encoding="utf-16")
    assert quantreg.read_plan("plan.json", "m.gguf").file_type.name == "Q8_0"
