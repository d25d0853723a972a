"""After a full disk, a shrinking source, an interrupt or a second run, the output is the old file or the new one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import GGUFFormatError, OutputError
from quantreg.events import Started, TensorDone

OLD = b"the old file"


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    quantreg.quantize_file(tmp_path / "small.gguf", tmp_path / "whole.gguf", "Q4_K_M")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(body):
    """Run Python code in a separate process, in the current folder."""
    return subprocess.run([sys.executable, "-P", "-c", body], capture_output=True, text=True)


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
def test_a_disk_that_fills_up_gives_one_clear_line_and_keeps_the_old_file(at, limit, options):
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


def test_a_disk_that_is_too_small_is_reported_before_anything_is_encoded(at, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 500_000))
    events = []
    for options in ({}, {"split_max_tensors": 10}, {"resumable": True}):
        with pytest.raises(OutputError, match="are free"):
            quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", progress=events.append, **options)
    assert events == []
    assert sorted(os.listdir()) == ["small.gguf", "whole.gguf"]


@pytest.mark.parametrize(
    "function", ["split", "merge", "export", "export to a folder", "edit_metadata", "hash_tensors", "validate"]
)
def test_a_source_that_shrinks_is_an_error_everywhere(at, function, monkeypatch):
    from quantreg.jobs import source

    paths = quantreg.split("small.gguf", "s", split_max_tensors=20).paths
    enter = source.Source.__enter__

    def shrink(self):
        os.truncate(paths[1], 5_000)
        return enter(self)

    monkeypatch.setattr(source.Source, "__enter__", shrink)
    call = {
        "split": lambda: quantreg.split(paths[0], "t"), "merge": lambda: quantreg.merge(paths[0], "t"),
        "export": lambda: quantreg.export(paths[0], "t.safetensors"),
        "export to a folder": lambda: quantreg.export(paths[0], "t/"),
        "edit_metadata": lambda: quantreg.edit_metadata(paths[0], "t", set={"a": 1}),
    }.get(function, lambda: getattr(quantreg, function)(paths[0]))  # fmt: skip
    with pytest.raises(GGUFFormatError) as refused:
        call()
    assert refused.value.code == "tensor-past-end"
    assert sorted(os.listdir()) == ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf", "small.gguf", "whole.gguf"]


def test_of_two_runs_with_one_output_only_one_wins(at):
    def second(event):
        if isinstance(event, TensorDone) and event.index == 10:
            quantreg.quantize_file("small.gguf", "out.gguf", "Q8_0")

    with pytest.raises(OutputError, match="exists"):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", progress=second)
    quantreg.quantize_file("small.gguf", "q8.gguf", "Q8_0")
    assert Path("out.gguf").read_bytes() == Path("q8.gguf").read_bytes()
    assert sorted(os.listdir()) == ["out.gguf", "q8.gguf", "small.gguf", "whole.gguf"]


def test_shards_can_be_interrupted_while_they_are_synced_but_not_while_they_are_renamed(at, monkeypatch):
    def ctrl_c(name):
        real = getattr(os, name)

        def call(*args):
            monkeypatch.setattr(os, name, real)
            signal.raise_signal(signal.SIGINT)
            return real(*args)

        monkeypatch.setattr(os, name, call)

    def contents():
        return {path.name: path.read_bytes() for path in Path().glob("out-*")}

    def quantize(file_type):
        quantreg.quantize_file("small.gguf", "out.gguf", file_type, split_max_tensors=20, force=True)

    quantize("Q8_0")
    old = contents()
    ctrl_c("fsync")
    with pytest.raises(KeyboardInterrupt):
        quantize("Q4_K_M")
    assert contents() == old
    ctrl_c("replace")
    with pytest.raises(KeyboardInterrupt):
        quantize("Q4_K_M")
    assert contents().keys() == old.keys()
    quantreg.merge("out-00001-of-00002.gguf", "merged.gguf")
    assert Path("merged.gguf").read_bytes() == Path("whole.gguf").read_bytes()


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


def test_a_source_that_vanishes_between_header_and_data_is_an_error(at):
    def vanish(event):
        if isinstance(event, Started):
            os.truncate("small.gguf", 0)

    with pytest.raises(GGUFFormatError):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", progress=vanish)
    assert sorted(os.listdir()) == ["small.gguf", "whole.gguf"]
