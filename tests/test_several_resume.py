"""One run for several file types that ends early, by an exception or a kill, and goes on to the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small_model

import quantreg
from quantreg import OutputError, cli
from quantreg.events import TensorDone
from quantreg.jobs import slabs
from quantreg.storage import PartialFile

NAMES = ["Q8_0", "Q4_K_M", "Q4_K_S"]


class Stop(Exception):  # noqa: N818
    pass


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        quantreg.quantize_file("small.gguf", f"whole-{name}.gguf", name)
    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 20_000)
    return tmp_path


def run(**options):
    return quantreg.quantize_files("small.gguf", "out-{type}.gguf", NAMES, **options)


def interrupt(after):
    def stop(event):
        if isinstance(event, TensorDone) and event.index == after:
            raise Stop

    with pytest.raises(Stop):
        run(resumable=True, progress=stop, threads=2)


def check():
    for name in NAMES:
        assert Path(f"out-{name}.gguf").read_bytes() == Path(f"whole-{name}.gguf").read_bytes()
    assert not [name for name in os.listdir() if "partial" in name or "tmp" in name or "tuning" in name]


def encoded(monkeypatch):
    """A list that gets (tensor, first row, type) of all that is encoded from now on."""
    done = []
    work = slabs.Worker.run

    def watched(self, slab):
        done.extend((slab.tensor, slab.start, encoding.to_type) for encoding in slab.encodings)
        return work(self, slab)

    monkeypatch.setattr(slabs.Worker, "run", watched)
    return done


@pytest.mark.parametrize("after", [1, 11, 38])
def test_a_resumed_run_gives_the_same_bytes_and_does_only_what_is_missing(at, monkeypatch, after):
    everything = encoded(monkeypatch)
    quantreg.quantize_files("small.gguf", "other-{type}.gguf", NAMES)
    total = len(everything)
    everything.clear()
    interrupt(after)
    assert not list(Path().glob("out-*.gguf"))
    before = len(everything)
    everything.clear()
    run(resume=True)
    check()
    assert len(everything) <= total - before + 12  # slabs that were under way when it stopped
    assert len(everything) < total


def test_one_output_that_lost_its_part_is_made_again_alone(at, monkeypatch):
    interrupt(30)
    for name in ("out-Q8_0.gguf.partial", "out-Q8_0.gguf.partial.journal"):
        os.unlink(name)
    done = encoded(monkeypatch)
    run(resume=True)
    check()
    first = [to_type for tensor, _, to_type in done if tensor == "blk.0.attn_q.weight"]
    assert set(first) <= {"Q8_0"}


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_outputs_that_are_finished_are_not_written_again(at, monkeypatch, nth):
    """The run ends between the renames of its outputs."""
    replace, calls = os.replace, []

    def fail(a, b):
        calls.append(b)
        if len(calls) == nth:
            raise Stop
        replace(a, b)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Stop):
        run(resumable=True)
    monkeypatch.setattr(os, "replace", replace)
    finished = {path: os.stat(path).st_mtime_ns for path in map(str, Path().glob("out-*.gguf"))}
    assert len(finished) == nth - 1
    done = encoded(monkeypatch)
    run(resume=True)
    assert done == []
    assert finished.items() <= {path: os.stat(path).st_mtime_ns for path in map(str, Path().glob("out-*.gguf"))}.items()
    check()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_run_that_ends_while_it_removes_its_journals_is_over_when_it_goes_on(at, monkeypatch, nth):
    finish, calls = PartialFile.finish, []

    def fail(self):
        calls.append(self)
        if len(calls) == nth:
            raise Stop
        finish(self)

    monkeypatch.setattr(PartialFile, "finish", fail)
    with pytest.raises(Stop):
        run(resumable=True)
    monkeypatch.setattr(PartialFile, "finish", finish)
    done = encoded(monkeypatch)
    results = run(resume=True)
    assert done == []
    assert [result.path for result in results] == [f"out-{name}.gguf" for name in NAMES]
    check()


def test_a_file_of_another_run_does_not_count_as_finished(at, monkeypatch):
    monkeypatch.setattr(PartialFile, "finish", lambda self: None)
    quantreg.quantize_files("small.gguf", "out-{type}.gguf", ["Q8_0"], resumable=True)
    monkeypatch.undo()
    os.chdir(at)
    Path("out-Q4_K_M.gguf").write_bytes(b"precious")
    with pytest.raises(OutputError, match="another set of outputs"):
        quantreg.quantize_files("small.gguf", "out-{type}.gguf", ["Q8_0", "Q4_K_M"], resume=True)
    assert Path("out-Q4_K_M.gguf").read_bytes() == b"precious"


def test_a_new_run_does_not_throw_an_unfinished_one_away_unasked(at):
    interrupt(10)
    with pytest.raises(OutputError, match="--resume"):
        run(resumable=True)
    with pytest.raises(OutputError, match="another set of outputs"):
        quantreg.quantize_files("small.gguf", "out-{type}.gguf", NAMES[:2], resume=True)
    run(resumable=True, force=True)
    check()


_KILLED = """
import os, signal, sys
from quantreg import cli
from quantreg.jobs import slabs
slabs.SLAB_WEIGHTS = 20_000
run, count = slabs.Worker.run, []
def killed(self, slab):
    count.append(slab)
    if len(count) == int(sys.argv[1]): signal.raise_signal(getattr(signal, sys.argv[2]))
    return run(self, slab)
slabs.Worker.run = killed
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signal")
@pytest.mark.parametrize("nth", [1, 20, 70])
def test_a_killed_command_goes_on_to_the_same_bytes(at, nth):
    words = ["quantize", "small.gguf", "out-{type}.gguf", ",".join(NAMES), "2"]
    command = [sys.executable, "-P", "-c", _KILLED, str(nth), "SIGKILL", *words, "--resumable"]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert cli.main([*words, "--resume"]) == 0
    check()


def test_the_command_says_how_to_go_on(at):
    words = ["quantize", "small.gguf", "out-{type}.gguf", ",".join(NAMES), "1", "--resumable"]
    command = [sys.executable, "-P", "-c", _KILLED, "20", "SIGTERM", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130
    assert "kept in out-Q8_0.gguf.partial and 2 more: continue with --resume" in done.stderr
    assert cli.main([*words[:-1], "--resume"]) == 0
    check()


def test_shards_of_several_outputs_go_on(at):
    options = {"split_max_tensors": 8}
    for name in NAMES:
        quantreg.quantize_file("small.gguf", f"whole-{name}.gguf", name, force=True, **options)

    def stop(event):
        if isinstance(event, TensorDone) and event.index == 20:
            raise Stop

    with pytest.raises(Stop):
        run(resumable=True, progress=stop, **options)
    for result in run(resume=True, **options):
        for path in result.paths:
            assert Path(path).read_bytes() == Path(path.replace("out-", "whole-")).read_bytes()
