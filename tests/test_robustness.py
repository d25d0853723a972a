"""Kills, full disks, shrinking sources, two runs at once, files broken on purpose: the old file or the new one."""

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import gguf_files as gf
import numpy as np
import pytest
import small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import quantreg
from quantreg import GGUFFormatError, OutputError, QuantregError, cli
from quantreg.events import Started, TensorDone

OLD = b"the old file"


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    quantreg.quantize_file(tmp_path / "small.gguf", tmp_path / "whole.gguf", "Q4_K_M")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(body):
    """Run Python in a process of its own, in the current folder."""
    return subprocess.run([sys.executable, "-P", "-c", body], capture_output=True, text=True)


KILLED = """
import os, signal
import quantreg
from quantreg.gguf import atomic
count = [0]
inner = {0}
def kill(*args, **keywords):
    count[0] += 1
    if count[0] == {1}:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args, **keywords)
{0} = kill
quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", force=True, threads=2)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("os.open", 1),
        ("os.open", 2),
        ("atomic._pwrite", 1),
        ("atomic._pwrite", 20),
        ("os.fsync", 1),
        ("os.replace", 1),
        ("os.fsync", 2),
    ],
)
def test_kill_9_leaves_the_old_file_or_the_complete_new_one(at, function, call, old):
    if old:
        Path("out.gguf").write_bytes(OLD)
    assert script(KILLED.format(function, call)).returncode == -signal.SIGKILL
    after = Path("out.gguf").read_bytes() if Path("out.gguf").exists() else None
    renamed = (function, call) in (("os.open", 2), ("os.fsync", 2))  # the folder, for the name to be durable
    assert after == (Path("whole.gguf").read_bytes() if renamed else OLD if old else None)
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", force=True)
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


FULL = """
import resource, signal, sys
from quantreg import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
sys.exit(cli.main({1!r}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [0, 100, 5_000, 300_000, 800_000])
@pytest.mark.parametrize("options", [[], ["--resumable"], ["--split-max-tensors", "10"]], ids=str)
def test_a_disk_that_fills_up_is_one_clear_line_and_keeps_the_old_file(at, limit, options):
    name = "out-00001-of-00004.gguf" if "--split-max-tensors" in options else "out.gguf"
    Path(name).write_bytes(OLD)
    done = script(FULL.format(limit, ["quantize", "--force", *options, "small.gguf", "out.gguf", "Q4_K_M"]))
    if limit == 800_000 and name != "out.gguf":  # the shards fit
        assert done.returncode == 0
        return
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "cannot be written" in last
    assert "Traceback" not in done.stderr
    assert Path(name).read_bytes() == OLD
    kept = {name for name in os.listdir() if "partial" in name}
    assert {name for name in os.listdir() if "tmp" in name} == set()
    if kept:
        assert options == ["--resumable"]
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True, force=True)
        assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


def test_a_disk_that_is_too_small_is_told_before_anything_is_encoded(at, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 500_000))
    events = []
    for options in ({}, {"split_max_tensors": 10}, {"resumable": True}):
        with pytest.raises(OutputError, match="are free"):
            quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", progress=events.append, **options)
    assert events == []
    assert sorted(os.listdir()) == ["small.gguf", "whole.gguf"]


@pytest.mark.parametrize("function", ["split", "merge", "export", "edit_metadata", "hash_tensors", "validate"])
def test_a_source_that_shrinks_is_an_error_everywhere(at, function, monkeypatch):
    from quantreg import source

    paths = quantreg.split("small.gguf", "s", max_tensors=20)
    enter = source.Source.__enter__

    def shrink(self):
        os.truncate(paths[1], 5_000)
        return enter(self)

    monkeypatch.setattr(source.Source, "__enter__", shrink)
    call = {
        "split": lambda: quantreg.split(paths[0], "t"), "merge": lambda: quantreg.merge(paths[0], "t"),
        "export": lambda: quantreg.export(paths[0], "t"),
        "edit_metadata": lambda: quantreg.edit_metadata(paths[0], "t", set={"a": 1}),
    }.get(function, lambda: getattr(quantreg, function)(paths[0]))  # fmt: skip
    with pytest.raises(GGUFFormatError) as refused:
        call()
    assert refused.value.code == "tensor-past-end"
    assert sorted(os.listdir()) == ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf", "small.gguf", "whole.gguf"]


def test_of_two_runs_onto_one_output_one_wins_whole(at):
    def second(event):
        if isinstance(event, TensorDone) and event.index == 10:
            quantreg.quantize_file("small.gguf", "out.gguf", "Q8_0")

    with pytest.raises(OutputError, match="exists"):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", progress=second)
    quantreg.quantize_file("small.gguf", "q8.gguf", "Q8_0")
    assert Path("out.gguf").read_bytes() == Path("q8.gguf").read_bytes()
    assert sorted(os.listdir()) == ["out.gguf", "q8.gguf", "small.gguf", "whole.gguf"]


def test_long_names_and_unknown_architectures_work_with_a_warning(tmp_path):
    name = "diffusion." + "deep." * 12 + "attn_q.weight"
    x = small_model.noise(1, (4, 256)).astype(np.float16)
    quantreg.write(
        tmp_path / "in.gguf", {"general.architecture": "painter"}, {name: x, "conv.weight": x.reshape(2, 2, 256)}
    )
    result = quantreg.quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_K_M")
    assert any("64 and more" in text for text in result.warnings)
    with quantreg.open(tmp_path / "out.gguf") as model:
        np.testing.assert_array_equal(model[name].data, quantreg.quantize(x, "Q4_K"))


# ---- files broken on purpose ----


@st.composite
def broken_files(draw):
    """A structured model with up to three fields changed; sometimes bytes are cut off or appended."""
    keys = [gf.text("general.architecture", "llama"), gf.u32("llama.block_count", 2)]
    if draw(st.booleans()):
        keys.append(gf.u32("general.alignment", draw(st.sampled_from([32, 64, 1 << 20, 0, 7, 1 << 31]))))
    keys.append(gf.array("tokenizer.ggml.tokens", gf.STRING, 2, gf.string("a") + gf.string("b")))
    tensors, data, offset = [], b"", 0
    for i in range(draw(st.integers(0, 3))):
        kind, cols = draw(st.sampled_from([(0, 3), (1, 256), (8, 64), (12, 256), (99, 5)]))
        size = {0: 4 * cols, 1: 2 * cols, 8: cols // 32 * 34, 12: 144, 99: 7}[kind]
        tensors.append(gf.tensor(f"blk.{i}.attn_q.weight", (cols, 1), kind, offset))
        piece = draw(st.binary(min_size=size, max_size=size)).ljust(-(-size // 32) * 32, b"\0")
        data, offset = data + piece, offset + len(piece)
    raw = bytearray(gf.gguf(keys, tensors, data))
    head = len(raw) - len(data)
    for _ in range(draw(st.integers(0, 3))):
        width = draw(st.sampled_from([1, 2, 4, 8]))
        place = draw(st.integers(0, max(0, head - width)))
        value = draw(st.sampled_from([0, 1, 2, 3, 8, 9, 12, 31, 255, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]))
        raw[place : place + width] = struct.pack("<Q", value)[:width]
    cut = draw(st.sampled_from([0, 0, 0, 1, 40, len(raw) // 2]))
    return bytes(raw[: len(raw) - cut]) + draw(st.sampled_from([b"", b"", b"tail"]))


@settings(max_examples=40)
@given(broken_files())
def test_of_broken_files_only_our_errors_escape(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("broken")
    path, out = folder / "in.gguf", folder / "out.gguf"
    path.write_bytes(raw)
    try:
        quantreg.plan(path, "Q4_K_M", allow_requantize=True)
    except GGUFFormatError:
        header_is_sound = False
    except QuantregError:
        header_is_sound = True
    else:
        header_is_sound = True
    for action in (
        lambda: quantreg.quantize_file(path, out, "Q4_K_M", allow_requantize=True, threads=1),
        lambda: quantreg.validate(path, threads=1),
        lambda: quantreg.hash_tensors(path, threads=1),
        lambda: quantreg.merge(path, folder / "merged.gguf"),
    ):
        try:
            action()
        except GGUFFormatError:
            assert not header_is_sound or b"split" in raw
        except QuantregError:
            assert header_is_sound
    if header_is_sound and (folder / "merged.gguf").exists():
        with quantreg.open(path) as model:
            if any(not info.known for header in model.headers for info in header.tensors):
                return  # the bytes of a type nobody knows end at the next tensor, padding included
        assert quantreg.hash_tensors(folder / "merged.gguf", threads=1) == quantreg.hash_tensors(path, threads=1)


@settings(max_examples=15)
@given(broken_files())
def test_of_broken_files_the_command_says_one_line(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("broken")
    path = folder / "in.gguf"
    path.write_bytes(raw)
    for words in (["inspect"], ["validate"], ["hash"], ["metadata", "get"]):
        assert cli.main([*words, str(path)]) in (0, 1)
    assert cli.main(["quantize", "--threads", "1", str(path), str(folder / "out.gguf"), "Q8_0"]) in (0, 1)


def test_a_source_that_vanishes_between_header_and_data_is_an_error(at):
    def vanish(event):
        if isinstance(event, Started):
            os.truncate("small.gguf", 0)

    with pytest.raises(GGUFFormatError):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", progress=vanish)
    assert sorted(os.listdir()) == ["small.gguf", "whole.gguf"]
