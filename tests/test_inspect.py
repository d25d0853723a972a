"""`quantreg inspect` and `quantreg metadata get` show headers of files that nothing else can use."""

import json
import struct

import gguf_files as gf
import pytest
from gguf_files import shard

import quantreg
from quantreg import GGUFFormatError, cli
from quantreg.ggml import REMOVED_LAYOUTS, REMOVED_TYPES, TYPES


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_shard_of_a_split_model_is_shown_alone(at, capsys):
    path = at / "m-00002-of-00003.gguf"
    path.write_bytes(shard(1))
    assert cli.main(["inspect", path.name]) == 0
    out, err = capsys.readouterr()
    assert "t1" in out
    assert f"{path.name}: this is shard 2 of 3, shown alone: shards 1 and 3 of 3 are missing" in err
    assert cli.main(["inspect", "--json", path.name]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [t["name"] for t in found["tensors"]] == ["t1"]
    assert "shard 2 of 3" in found["warnings"][0]


def test_metadata_of_one_shard_is_printed_and_a_missing_key_is_explained(at, capsys):
    name = "m-00001-of-00003.gguf"
    (at / name).write_bytes(shard(0, keys=[gf.text("general.architecture", "llama")]))
    assert cli.main(["metadata", "get", name, "general.architecture"]) == 0
    out, err = capsys.readouterr()
    assert out == "llama\n"
    assert "shards 2 and 3 of 3 are missing" in err
    (at / "m-00002-of-00003.gguf").write_bytes(shard(1))
    assert cli.main(["metadata", "get", "m-00002-of-00003.gguf", "general.architecture"]) == 1
    assert "the metadata of the model is in shard 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["validate"], ["hash"], ["quantize", "--dry-run"], ["merge"]])
def test_other_commands_want_all_shards(at, capsys, command):
    (at / "m-00001-of-00003.gguf").write_bytes(shard(0))
    more = {"quantize": ["Q8_0"], "merge": ["out.gguf"]}.get(command[0], [])
    assert cli.main([*command, "m-00001-of-00003.gguf", *more]) == 1
    assert "shards 2 and 3 of 3 are missing: download them" in capsys.readouterr().err


@pytest.mark.parametrize("type_id", REMOVED_TYPES)
def test_a_removed_type_is_shown_by_name_and_refused_elsewhere(at, capsys, type_id):
    layout = REMOVED_LAYOUTS[type_id]
    nbytes = layout.row_bytes(64) * 4
    raw = gf.gguf([gf.text("general.name", "old")], [gf.tensor("a.weight", (64, 4), type_id)], bytes(nbytes))
    (at / "old.gguf").write_bytes(raw)
    assert cli.main(["inspect", "old.gguf"]) == 0
    out, err = capsys.readouterr()
    assert REMOVED_TYPES[type_id] in out
    assert f"1 tensor has type {REMOVED_TYPES[type_id]}, which ggml has removed" in err
    assert cli.main(["metadata", "get", "old.gguf", "general.name"]) == 0
    assert capsys.readouterr().out == "old\n"
    assert quantreg.compare("old.gguf", "old.gguf").same
    for words in (["validate", "old.gguf"], ["quantize", "--dry-run", "old.gguf", "Q8_0"]):
        assert cli.main(words) == 1
        assert "which ggml has removed: quantize the original model again" in capsys.readouterr().err


def test_rows_of_removed_types_are_as_long_as_those_of_their_successors():
    for type_id, name in REMOVED_TYPES.items():
        if name.startswith(("Q4_0_", "IQ4_NL_")):
            base = next(t for t in TYPES.values() if t.name == name.rsplit("_", 2)[0])
            assert REMOVED_LAYOUTS[type_id].row_bytes(256) == base.row_bytes(256)


@pytest.mark.parametrize("type_id", [-1, -(1 << 31)])
def test_a_negative_type_is_refused(at, capsys, type_id):
    raw = gf.gguf([], [gf.tensor("a", (32,), type_id & 0xFFFFFFFF)], bytes(128))
    (at / "m.gguf").write_bytes(raw)
    with pytest.raises(GGUFFormatError, match=f"has type {type_id}, but a type is a number from 0") as refused:
        quantreg.validate("m.gguf")
    assert refused.value.code == "bad-type"
    assert cli.main(["validate", "m.gguf"]) == 1
    (at / "largest.gguf").write_bytes(raw.replace(struct.pack("<i", type_id), struct.pack("<i", 2**31 - 1)))
    assert cli.main(["inspect", "largest.gguf"]) == 0
