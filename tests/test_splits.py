"""Shards out: the reference's bytes for --keep-split and gguf-split, limits obeyed, nothing half-renamed."""

import hashlib
import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import GGUFFormatError, OutputError, PlanError, cli
from quantreg.gguf import Value
from quantreg.sizes import parse_size

GOLDEN = json.loads((Path(__file__).parent / "golden" / "splits.json").read_text())


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """small.gguf, small-imatrix.gguf, and in-0000?-of-00006.gguf, the same model in shards of seven tensors."""
    path = tmp_path_factory.mktemp("splits")
    small_model.write_model(path / "small.gguf")
    small_model.write_imatrix(path / "small-imatrix.gguf")
    (path / "types.txt").write_text("attn_v=q8_0 FFN_.*=q5_0\nattn_k=q6_k\n")
    quantreg.split(path / "small.gguf", path / "in", split_max_tensors=7)
    return path


@pytest.fixture
def at(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def digests(folder, prefix):
    return {name.removeprefix(prefix): sha256(folder / name) for name in sorted(os.listdir(folder)) if prefix in name}


@pytest.mark.parametrize("run", GOLDEN["split"], ids=lambda run: " ".join(run["args"]))
def test_split_writes_the_shards_of_gguf_split_byte_for_byte(run, at, tmp_path):
    assert cli.main(["split", *run["args"], "small.gguf", str(tmp_path / "s")]) == 0
    assert digests(tmp_path, "s-") == run["sha256"]


@pytest.mark.parametrize(
    "run", GOLDEN["quantize"], ids=lambda run: shlex.join([*run["args"], run["type"], run["source"]])
)
def test_quantize_writes_the_shards_of_the_reference_byte_for_byte(run, at, tmp_path):
    assert cli.main(["quantize", *run["args"], run["source"], str(tmp_path / "out.gguf"), run["type"], "2"]) == 0
    assert digests(tmp_path, "out") == run["sha256"]


def test_merge_gives_back_the_file_that_was_split(at, tmp_path):
    for shard in (1, 4):
        out = tmp_path / f"{shard}.gguf"
        assert quantreg.merge(f"in-0000{shard}-of-00006.gguf", out).path == str(out)
        assert sha256(out) == GOLDEN["model_sha256"]


def test_merge_of_shards_without_the_others_is_refused(at, tmp_path):
    lonely = tmp_path / "in-00001-of-00006.gguf"
    lonely.write_bytes((at / lonely.name).read_bytes())
    with pytest.raises(GGUFFormatError) as refused:
        quantreg.merge(lonely, tmp_path / "out.gguf")
    assert refused.value.code == "split-missing"


@pytest.mark.parametrize("limit", [{"split_max_size": "200K"}, {"split_max_size": 300_000}, {"split_max_tensors": 5}])
def test_shards_while_quantizing_hold_the_limit_and_the_same_tensors(at, tmp_path, limit):
    whole = tmp_path / "whole.gguf"
    quantreg.quantize_file("small.gguf", whole, "Q4_K_M")
    result = quantreg.quantize_file("small.gguf", tmp_path / "parts.gguf", "Q4_K_M", **limit)
    assert len(result.paths) > 2
    assert result.path == result.paths[0] == str(tmp_path / f"parts-00001-of-{len(result.paths):05d}.gguf")
    assert result.size == sum(os.path.getsize(path) for path in result.paths)
    with quantreg.open(whole) as one, quantreg.open(result.path) as many:
        assert list(one) == list(many)
        assert dict(one.metadata) == dict(many.metadata)
        for name in one:
            np.testing.assert_array_equal(one[name].data, many[name].data)
        for header in many.headers:
            sizes = [-(-tensor.nbytes // 32) * 32 for tensor in header.tensors]
            assert sum(sizes) <= parse_size(limit.get("split_max_size", "1G"))
            assert len(sizes) <= limit.get("split_max_tensors", 99)
    quantreg.merge(result.paths[1], tmp_path / "merged.gguf")
    assert sha256(tmp_path / "merged.gguf") == sha256(whole)


def test_a_tensor_above_the_limit_gets_a_shard_of_its_own_and_a_warning(at, tmp_path):
    result = quantreg.quantize_file("small.gguf", tmp_path / "out.gguf", "Q8_0", split_max_size="60K")
    assert any("alone takes" in text and "split_max_size" in text for text in result.warnings)
    with quantreg.open(result.path) as model:
        big = [h for h in model.headers if sum(t.nbytes for t in h.tensors) > 60_000]
        assert big
        assert all(len(h.tensors) == 1 for h in big)


def test_an_alignment_of_the_model_is_kept_in_the_first_shard(tmp_path):
    x = small_model.noise(3, (3, 256)).astype(np.float16)
    metadata = {"general.architecture": "llama", "general.alignment": Value("u32", 256)}
    quantreg.write(tmp_path / "in.gguf", metadata, {f"blk.{i}.attn_q.weight": x for i in range(4)})
    paths = quantreg.split(tmp_path / "in.gguf", tmp_path / "s", split_max_tensors=2).paths
    with quantreg.open(paths[0]) as model:
        assert [header.alignment for header in model.headers] == [256, 32]
    quantreg.merge(paths[0], tmp_path / "out.gguf")
    assert sha256(tmp_path / "out.gguf") == sha256(tmp_path / "in.gguf")


def test_the_first_shard_is_renamed_last(at, tmp_path, monkeypatch):
    renamed = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (renamed.append(Path(b).name), replace(a, b)))
    quantreg.split("small.gguf", tmp_path / "s", split_max_size="1M")
    assert renamed == [f"s-0000{i}-of-00004.gguf" for i in (4, 3, 2, 1)]


def test_an_error_in_the_middle_leaves_no_shard(at, tmp_path):
    def stop(event):
        if getattr(event, "index", 0) == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantreg.quantize_file("small.gguf", tmp_path / "out.gguf", "Q8_0", split_max_tensors=7, progress=stop)
    assert os.listdir(tmp_path) == []


def test_an_existing_shard_needs_force(at, tmp_path):
    (tmp_path / "s-00003-of-00006.gguf").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"s-00003-of-00006\.gguf: exists"):
        quantreg.split("small.gguf", tmp_path / "s", split_max_tensors=7)
    assert (tmp_path / "s-00003-of-00006.gguf").read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["s-00003-of-00006.gguf"]
    assert len(quantreg.split("small.gguf", tmp_path / "s", split_max_tensors=7, force=True).paths) == 6


def test_shards_may_not_replace_the_shards_they_are_made_from(at, tmp_path):
    with pytest.raises(OutputError, match="is the input"):
        quantreg.quantize_file("in-00001-of-00006.gguf", "in.gguf", "COPY", keep_split=True, force=True)


@pytest.mark.parametrize(
    "limits",
    [
        {"split_max_size": "4G", "split_max_tensors": 3}, {"keep_split": True, "split_max_tensors": 3},
        {"split_max_size": "4 gigs"}, {"split_max_size": 0}, {"split_max_size": True}, {"split_max_tensors": 0},
    ],
)  # fmt: skip
def test_wrong_limits_are_told_clearly(at, tmp_path, limits):
    with pytest.raises(PlanError, match=r"exclude each other|split size|split_max_tensors"):
        quantreg.quantize_file("small.gguf", tmp_path / "out.gguf", "Q8_0", **limits)


def test_sizes_are_powers_of_ten_as_in_gguf_split():
    assert [parse_size(text) for text in ("4G", "500M", "12k", "77", 5)] == [4 * 10**9, 5 * 10**8, 12_000, 77, 5]


def test_only_one_limit_at_a_time_on_the_command_line(capsys, at, tmp_path):
    words = ["--split-max-size", "1M", "--split-max-tensors", "3"]
    assert cli.main(["split", *words, "small.gguf", str(tmp_path / "s")]) == 2
    assert cli.main(["quantize", *words, "small.gguf", str(tmp_path / "s.gguf"), "Q8_0"]) == 2
    assert cli.main(["quantize", "--keep-split", *words[:2], "small.gguf", str(tmp_path / "s.gguf"), "Q8_0"]) == 2
    assert os.listdir(tmp_path) == []
