"""Rule 21: models that are split into several files."""

import struct

import gguf_files as gf
import pytest
from gguf_files import shard

from quantreg.errors import GGUFFormatError
from quantreg.gguf import read_shards, shard_path, split_values


@pytest.fixture
def model(tmp_path):
    """A function that writes three shards, some changed, and returns a function from i to the path of shard i."""

    def write(changed=()):
        files = {
            0: shard(0, keys=[gf.text("general.architecture", "llama")]),
            1: shard(1),
            2: shard(2),
            **dict(changed),
        }
        for number, data in files.items():
            if data is not None:
                (tmp_path / f"m-{number + 1:05d}-of-00003.gguf").write_bytes(data)
        return lambda i: tmp_path / f"m-{i + 1:05d}-of-00003.gguf"

    return write


def refused(path, code, text=""):
    with pytest.raises(GGUFFormatError) as caught:
        read_shards(path)
    assert caught.value.code == code
    assert text in str(caught.value)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_shard_opens_all(model, given):
    headers = read_shards(model()(given))
    assert [header.tensors[0].name for header in headers] == ["t0", "t1", "t2"]
    assert headers[0].metadata["general.architecture"] == "llama"


def test_one_file_is_a_set_of_one(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gf.small_model())
    assert len(read_shards(tmp_path / "m.gguf")) == 1
    (tmp_path / "one.gguf").write_bytes(shard(0, 1, 1))
    assert len(read_shards(str(tmp_path / "one.gguf"))) == 1


def test_a_file_that_only_its_name_calls_a_shard_is_read_with_a_warning(tmp_path):
    for name, told in (("m-00001-of-00002.gguf", True), ("m-00001-of-00001.gguf", False)):
        (tmp_path / name).write_bytes(gf.small_model())
        (header,) = read_shards(tmp_path / name)
        assert any("file 1 of 2" in warning for warning in header.warnings) == told


def test_file_names_and_keys_of_shards():
    assert shard_path("dir/m", 1, 12) == "dir/m-00002-of-00012.gguf"
    assert [(key, value.type, value.data) for key, value in split_values(1, 3, 30)] == [
        ("split.no", "u16", 1),
        ("split.count", "u16", 3),
        ("split.tensors.count", "i32", 30),
    ]


def test_21_missing_shard(model):
    refused(model({1: None})(0), "split-missing", "shard 2 of 3 is missing")


def test_21_several_missing_shards_are_named_together(model):
    path = model({1: None, 2: None})(0)
    refused(path, "split-missing", "shards 2 and 3 of 3 are missing: download them as well, and put m-00002")


@pytest.mark.parametrize("given", [0, 1, 2])
@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("damaged", [None, b"version https://git-lfs.github.com/spec/v1\n"])
def test_with_partial_a_shard_is_read_without_its_siblings(model, given, lost, damaged):
    path = model({lost: damaged})
    if given == lost:
        with pytest.raises(GGUFFormatError if damaged else FileNotFoundError):
            read_shards(path(given), partial=True)
        return
    (header,) = read_shards(path(given), partial=True)
    assert header.tensors[0].name == f"t{given}"
    (warning,) = header.warnings
    assert f"this is shard {given + 1} of 3, shown alone: " in warning
    assert f"shard {lost + 1} of 3 is missing" in warning or "Git LFS" in warning
    assert ("the metadata of the model is in shard 1" in warning) == (given > 0)


def test_with_partial_all_shards_are_read_if_they_are_there(model, tmp_path):
    path = model()
    assert [len(header.warnings) for header in read_shards(path(1), partial=True)] == [0, 0, 0]
    (header,) = read_shards(path(1).rename(tmp_path / "renamed.gguf"), partial=True)
    assert "unless it is named like NAME-00002-of-00003.gguf" in header.warnings[0]


def test_21_numbers_that_disagree_with_the_name(model):
    refused(model({0: shard(1)})(0), "split-numbers")
    refused(model({0: shard(0, 4)})(0), "split-numbers")
    refused(model({1: shard(2)})(0), "split-numbers")
    refused(model({1: shard(1, 2)})(0), "split-numbers")


def test_21_file_name_without_a_number(model, tmp_path):
    path = model()(0).rename(tmp_path / "renamed.gguf")
    refused(path, "split-numbers", "NAME-00001-of-00003.gguf")


def test_21_number_beyond_the_count(model):
    refused(model({0: shard(3)})(0), "split-numbers")
    refused(model({0: shard(1, 1)})(0), "split-numbers")


def test_21_split_keys_that_are_not_numbers(model):
    refused(model({0: gf.gguf([gf.text("split.count", "3")])})(0), "split-numbers")
    refused(model({0: gf.gguf([gf.key("split.count", gf.I32, struct.pack("<i", -3))])})(0), "split-numbers")


def test_21_file_without_split_keys_among_shards(model):
    refused(model({1: gf.small_model()})(0), "split-numbers")


def test_21_shard_of_another_model(model):
    refused(model({1: shard(1, total=9)})(0), "split-foreign")
    refused(model({1: shard(1, keys=[gf.text("general.architecture", "gemma")])})(0), "split-foreign")
    refused(model({1: shard(1, name="t0")})(0), "split-foreign", "two shards")


def test_21_tensors_that_do_not_add_up(model):
    refused(model({i: shard(i, total=4) for i in range(3)})(0), "split-foreign", "4")


def test_damaged_shard_is_named(model):
    refused(model({1: b"GGUF"})(0), "too-short", "m-00002-of-00003.gguf")
