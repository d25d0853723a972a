"""Runs that end early and go on: byte-identical results, only missing work is done, nothing foreign is continued."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import GGUFFormatError, OutputError, cli, storage
from quantreg.events import Advanced, Started, TensorDone
from quantreg.jobs import resume, slabs
from quantreg.storage import PositionedFile


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    small_model.write_imatrix(tmp_path / "imatrix.gguf")
    quantreg.quantize_file(tmp_path / "small.gguf", tmp_path / "whole.gguf", "Q4_K_M")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 20_000)
    return tmp_path


class Stop(Exception):  # noqa: N818
    pass


def interrupt(after, *args, error=Stop, **keywords):
    """Quantize, and stop after so many tensors."""

    def stop(event):
        if isinstance(event, TensorDone) and event.index == after:
            raise error

    with pytest.raises(error):
        quantreg.quantize_file(*args, progress=stop, threads=2, **keywords)


def encoded(monkeypatch):
    """A list that gets the (tensor, first row) of every slab done from now on."""
    done = []
    run = slabs.Worker.run
    monkeypatch.setattr(
        slabs.Worker, "run", lambda self, slab: (done.append((slab.tensor, slab.start)), run(self, slab))[1]
    )
    return done


def leftovers():
    return sorted(name for name in os.listdir() if "partial" in name or "tmp" in name)


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("after", [1, 11, 38])
def test_a_resumed_run_gives_the_same_bytes_and_does_only_what_is_missing(at, monkeypatch, after, error):
    everything = encoded(monkeypatch)
    quantreg.quantize_file("small.gguf", "other.gguf", "Q4_K_M")
    n_all = len(everything)
    interrupt(after, "small.gguf", "out.gguf", "Q4_K_M", resumable=True, error=error)
    assert leftovers() == ["out.gguf.partial", "out.gguf.partial.journal"]
    assert not Path("out.gguf").exists()
    journaled = len(Path("out.gguf.partial.journal").read_text().splitlines()) - 1
    everything.clear()
    events = []
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True, progress=events.append)
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()
    assert len(everything) == n_all - journaled < n_all
    assert leftovers() == []
    # progress covers what was there, too
    assert sum(e.source_bytes for e in events if isinstance(e, Advanced)) == events[0].source_bytes


def test_resume_without_an_unfinished_run_starts_one(at):
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True)
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()
    assert leftovers() == []


def test_slabs_of_another_size_go_on_where_whole_tensors_are_done(at, monkeypatch):
    interrupt(20, "small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 1 << 20)
    done = encoded(monkeypatch)
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True)
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()
    assert 0 < len(done) <= 20


def test_pieces_whose_bytes_changed_are_done_again(at, monkeypatch):
    interrupt(30, "small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    lines = [json.loads(line) for line in Path("out.gguf.partial.journal").read_text().splitlines()][1:]
    with open("out.gguf.partial", "r+b") as file:
        for _name, offset, length, _digest in lines[5:8]:
            file.seek(offset + length // 2)
            byte = file.read(1)[0]
            file.seek(offset + length // 2)
            file.write(bytes([byte ^ 1]))
    done = encoded(monkeypatch)
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True)
    assert {line[0] for line in lines[5:8]} <= {tensor for tensor, _ in done}
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


@pytest.mark.parametrize(
    "tail", ['["blk.0.attn_q.we', '{"a"\n', "\0\0\0\n", '[1, 2]\n["x", -5, 7, "00"]\n["x", 0, 1e99, 3]\n']
)
def test_a_journal_that_was_cut_off_or_damaged_at_its_end_goes_on(at, tail):
    interrupt(10, "small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    with open("out.gguf.partial.journal", "a") as file:
        file.write(tail)
    interrupt(20, "small.gguf", "out.gguf", "Q4_K_M", resume=True)
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True)
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


def other_type():
    return ("small.gguf", "out.gguf", "Q5_K_M"), {}


def other_imatrix():
    return ("small.gguf", "out.gguf", "Q4_K_M", "imatrix.gguf"), {}


def other_metadata():
    return ("small.gguf", "out.gguf", "Q4_K_M"), {"override_kv": [("a", 1)]}


def touched_source():
    os.utime("small.gguf", ns=(1, 1))
    return ("small.gguf", "out.gguf", "Q4_K_M"), {}


def not_a_journal():
    Path("out.gguf.partial.journal").write_text("[1]\n")
    return ("small.gguf", "out.gguf", "Q4_K_M"), {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_type, "another output"), (other_imatrix, "another imatrix"), (other_metadata, "another output"),
        (touched_source, "another source"), (not_a_journal, "not a journal"),
    ],
)  # fmt: skip
def test_an_unfinished_run_of_something_else_is_not_continued(at, change, message):
    interrupt(10, "small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    before = Path("out.gguf.partial").read_bytes()
    args, keywords = change()
    with pytest.raises(OutputError, match=message) as refused:
        quantreg.quantize_file(*args, resume=True, **keywords)
    assert "remove it" in str(refused.value)
    assert Path("out.gguf.partial").read_bytes() == before


def test_another_version_of_a_plugin_is_another_run(at, monkeypatch):
    interrupt(10, "small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    monkeypatch.setattr("quantreg.jobs.resume.__version__", "99")
    with pytest.raises(OutputError, match="another quantreg"):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True)


def test_a_new_resumable_run_does_not_throw_an_unfinished_one_away_unasked(at):
    interrupt(10, "small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    with pytest.raises(OutputError, match="go on with resume"):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    quantreg.quantize_file("small.gguf", "out.gguf", "Q8_0", resumable=True, force=True)
    quantreg.quantize_file("small.gguf", "q8.gguf", "Q8_0")
    assert Path("out.gguf").read_bytes() == Path("q8.gguf").read_bytes()
    assert leftovers() == []


def test_one_run_at_a_time(at):
    seen = []

    def second(event):
        if isinstance(event, Started):
            with pytest.raises(OutputError, match="another run") as refused:
                quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True)
            seen.append(refused)

    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resumable=True, progress=second)
    assert seen
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


def test_an_error_before_anything_is_written_leaves_nothing(at):
    x = np.ones((4, 256), np.float16)
    x[0, 0] = np.nan
    quantreg.write("nan.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": x})
    with pytest.raises(quantreg.NonFiniteError):
        quantreg.quantize_file("nan.gguf", "out.gguf", "Q4_K_M", resumable=True)
    assert leftovers() == []


def test_an_existing_output_is_refused_before_the_work(at):
    Path("out.gguf").write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    assert leftovers() == []


@pytest.mark.parametrize("after", [3, 20, 39])
def test_shards_are_resumed_each(at, after):
    options = {"split_max_tensors": 8}
    quantreg.quantize_file("small.gguf", "parts.gguf", "Q4_K_M", **options)
    interrupt(after, "small.gguf", "out.gguf", "Q4_K_M", resumable=True, **options)
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True, **options)
    for i in range(1, 6):
        assert Path(f"out-0000{i}-of-00005.gguf").read_bytes() == Path(f"parts-0000{i}-of-00005.gguf").read_bytes()
    assert leftovers() == []


def test_a_kill_between_the_renames_of_shards_is_resumed_without_encoding(at, monkeypatch):
    replace, calls = os.replace, []

    def fail(a, b):
        calls.append(b)
        if len(calls) == 3:
            raise Stop
        replace(a, b)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Stop):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resumable=True, split_max_tensors=8)
    monkeypatch.setattr(os, "replace", replace)
    assert sorted(p.name for p in Path().glob("out-*.gguf")) == ["out-00004-of-00005.gguf", "out-00005-of-00005.gguf"]
    done = encoded(monkeypatch)
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True, split_max_tensors=8)
    assert done == []
    quantreg.merge("out-00001-of-00005.gguf", "merged.gguf")
    assert Path("merged.gguf").read_bytes() == Path("whole.gguf").read_bytes()
    assert leftovers() == []


def test_the_command_keeps_the_partial_file_on_sigterm_and_says_how_to_go_on(at):
    code = (
        "import os, signal, sys\n"
        "from quantreg import cli\n"
        "from quantreg.jobs import slabs\n"
        "run = slabs.Worker.run\n"
        "count = []\n"
        "def slow(self, slab):\n"
        "    count.append(slab)\n"
        "    if len(count) == 9: signal.raise_signal(signal.SIGTERM)\n"
        "    return run(self, slab)\n"
        "slabs.Worker.run = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    words = ["quantize", "--resumable", "small.gguf", "out.gguf", "Q4_K_M", "1"]
    done = subprocess.run([sys.executable, "-P", "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "kept in out.gguf.partial: continue with --resume" in done.stderr
    assert leftovers() == ["out.gguf.partial", "out.gguf.partial.journal"]
    assert cli.main(["quantize", "--resume", "small.gguf", "out.gguf", "Q4_K_M"]) == 0
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


def test_the_command_says_how_to_go_on_after_the_disk_was_full(at, monkeypatch, capsys):
    write, count = PositionedFile.write, []

    def full(self, data, offset):
        count.append(offset)
        if len(count) == 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data, offset)

    monkeypatch.setattr(PositionedFile, "write", full)
    words = ["quantize", "small.gguf", "out.gguf", "Q4_K_M", "1"]
    assert cli.main([*words, "--resumable"]) == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert "kept in out.gguf.partial: continue with --resume" in err
    assert cli.main([*words, "--resumable"]) == 1  # there is an unfinished run: the error says it, and no more
    assert "continue with --resume" not in capsys.readouterr().err
    assert cli.main([*words, "--resume"]) == 0
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


def test_a_source_that_changed_while_a_run_slept_is_noticed(at):
    interrupt(10, "small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    raw = bytearray(Path("small.gguf").read_bytes())
    raw[-100] ^= 1
    Path("small.gguf").write_bytes(raw)
    with pytest.raises((OutputError, GGUFFormatError), match="another source"):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True)


def test_the_names_of_the_partial_file_and_its_journal(at):
    assert storage.partial_path("out.gguf") == str(at / "out.gguf.partial")
    assert storage.journal_path("out.gguf") == str(at / "out.gguf.partial.journal")


def test_another_floor_of_the_importance_is_another_run(at):
    args = ("small.gguf", "out.gguf", "Q4_K_M", "imatrix.gguf")
    interrupt(10, *args, resumable=True, imatrix_floor=0.01)
    with pytest.raises(OutputError, match="another imatrix_floor"):
        quantreg.quantize_file(*args, resume=True)
    quantreg.quantize_file(*args, resume=True, imatrix_floor=0.01)


def test_a_released_quantreg_is_known_by_its_version_alone(at, monkeypatch):
    """The bytes of the built-in types do not depend on the platform, so a run may move to another machine."""
    interrupt(3, "small.gguf", "out.gguf", "Q4_K_M", resumable=True)
    journal = json.loads(Path("out.gguf.partial.journal").read_text().splitlines()[0])
    edited = type(quantreg.__spec__.loader).__module__.startswith("_quantreg_editable")
    assert ("files" in journal["plugin quantreg"]) == edited
    monkeypatch.setattr(resume, "_is_editable", lambda name: True)
    with pytest.raises(OutputError, match="another version of plugin quantreg"):
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", resume=True)
