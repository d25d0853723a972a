"""Folders as they are found on disks: other files beside the weights, missing ones, links; and commands on them."""

import json
import os
import shutil

import pytest
from links import needs_links
from published import write_llama

import quantreg
from quantreg import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("published") / "Small-Llama")


@pytest.fixture(scope="module")
def copied(folder, tmp_path_factory):
    """The same model in GGUF, with the types that the folder has."""
    out = tmp_path_factory.mktemp("copied") / "m.gguf"
    quantreg.quantize_file(folder, out, "COPY")
    return out


def error_of(capsys, *arguments):
    """The one line that a command fails with."""
    assert cli.main([str(argument) for argument in arguments]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_an_index_that_was_left_behind_does_not_hide_the_whole_file(folder, tmp_path):
    copy = write_llama(tmp_path / "m", shards=1)
    stale = {"weight_map": {"model.norm.weight": "model-00001-of-00009.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(stale))
    assert quantreg.plan(copy, "Q4_K_M").to_dict() == quantreg.plan(folder, "Q4_K_M").to_dict()


def test_files_of_other_formats_beside_the_shards_do_no_harm(folder, tmp_path):
    copy = write_llama(tmp_path / "Small-Llama")
    shutil.copy(copy / "model-00001-of-00002.safetensors", copy / "consolidated.safetensors")
    (copy / "consolidated.safetensors.index.json").write_text('{"weight_map": {"a": "consolidated.safetensors"}}')
    (copy / "pytorch_model.bin").write_bytes(b"PK\3\4")
    (copy / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
    (copy / "model.q4.gguf").write_bytes(b"GGUF")
    (copy / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (copy / "original").mkdir()
    (copy / "original" / "params.json").write_text("{}")
    for source, out in ((folder, "a"), (copy, "b")):
        quantreg.quantize_file(source, tmp_path / out, "Q4_K_M")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@needs_links
def test_links_as_the_cache_of_the_hub_has_them_are_followed(folder, tmp_path):
    copy = write_llama(tmp_path / "Small-Llama")
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(copy.iterdir())):
        blob = tmp_path / "blobs" / f"{number:040x}"
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, copy))
    for source, out in ((folder, "a"), (copy, "b")):
        quantreg.quantize_file(source, tmp_path / out, "Q4_K_M")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_folder_without_its_config_json_says_so(tmp_path, capsys):
    copy = write_llama(tmp_path / "m")
    (copy / "config.json").unlink()
    assert "with its config.json" in error_of(capsys, "quantize", copy, tmp_path / "o.gguf", "Q4_K_M")
    copy = write_llama(tmp_path / "nameless", architectures=..., model_type="wonder")
    assert 'names its class ("architectures")' in error_of(capsys, "quantize", copy, tmp_path / "o.gguf", "Q4_K_M")


def test_the_folder_above_names_the_folder_that_holds_the_model(tmp_path, capsys):
    write_llama(tmp_path / "repository" / "bf16")
    message = error_of(capsys, "quantize", tmp_path / "repository", tmp_path / "o.gguf", "Q4_K_M")
    assert "give the folder bf16 in it" in message


def test_one_missing_file_is_counted_in_the_singular(tmp_path):
    copy = write_llama(tmp_path / "m", shards=1)
    index = {"weight_map": {"model.norm.weight": "weights.safetensors"}}
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(quantreg.SafetensorsError, match=r"has 1 file: weights\.safetensors is missing"):
        quantreg.plan(copy, "Q4_K_M")


def test_digests_of_a_folder_are_those_of_its_file(folder, copied):
    assert quantreg.hash_tensors(folder) == quantreg.hash_tensors(copied)


def test_a_folder_is_validated_as_its_file(folder, copied):
    found, other = quantreg.validate(folder), quantreg.validate(copied)
    assert found.ok
    assert (found.n_tensors, found.warnings) == (other.n_tensors, other.warnings)
    assert len(found.paths) == 2


def test_coverage_takes_a_folder(folder, copied):
    entries = {"blk.0.attn_q.weight": [1.0] * 256}
    assert quantreg.coverage(folder, entries) == quantreg.coverage(copied, entries)


@pytest.mark.parametrize(
    "arguments",
    [
        ("split", "IN", "OUT"),
        ("merge", "IN", "OUT"),
        ("metadata", "set", "IN", "OUT", "general.name=str:x"),
    ],
)
def test_commands_that_need_a_gguf_file_say_how_to_make_one(folder, tmp_path, capsys, arguments):
    named = {"IN": folder, "OUT": tmp_path / "out.gguf"}
    message = error_of(capsys, *(named.get(argument, argument) for argument in arguments))
    assert "quantreg convert FOLDER OUT.gguf" in message


def test_keep_split_leaves_a_tensor_that_is_reordered_in_the_shard_that_it_is_in(folder, tmp_path):
    found = quantreg.quantize_file(folder, tmp_path / "o", "Q8_0", keep_split=True)
    names = [{t.name for t in quantreg.gguf.read_header(path).tensors} for path in found.paths]
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for number, here in enumerate(names, 1):
        for layer in (0, 1):
            is_there = index[f"model.layers.{layer}.self_attn.q_proj.weight"].startswith(f"model-0000{number}-")
            assert (f"blk.{layer}.attn_q.weight" in here) == is_there
