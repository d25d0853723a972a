"""The stream of events: as an iterator in Python, as JSON lines on the command line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import cli
from quantreg.events import Advanced, Finished, Started, TensorDone


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("threads", [1, 3])
def test_the_iterator_yields_typed_events_in_order(at, threads):
    events = list(quantreg.quantize_events("small.gguf", "out.gguf", "Q4_K_M", threads=threads))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert {type(event) for event in events[1:-1]} == {Advanced, TensorDone}
    result = events[-1].result
    assert [event.tensor for event in events if isinstance(event, TensorDone)] == list(result.tensors)
    assert result.size == os.path.getsize("out.gguf")


@pytest.mark.parametrize("threads", [1, 3])
def test_closing_the_iterator_early_leaves_no_output(at, threads):
    events = quantreg.quantize_events("small.gguf", "out.gguf", "Q4_K_M", threads=threads)
    for event in events:
        if isinstance(event, TensorDone) and event.index == 5:
            break
    events.close()
    assert os.listdir() == ["small.gguf"]


def test_log_json_prints_one_object_per_line_and_nothing_else(at, capsys):
    assert cli.main(["quantize", "--log-json", "small.gguf", "out.gguf", "Q4_K_M"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert lines[0]["event"] == "started"
    tensors = [line for line in lines if line["event"] == "tensor"]
    assert [line["index"] for line in tensors] == list(range(1, lines[0]["tensors"] + 1))
    assert sum(line["output_bytes"] for line in tensors) == lines[0]["output_bytes"]
    assert {line["event"] for line in lines} == {"started", "progress", "tensor", "finished"}
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["paths"] == ["out.gguf"]
    assert lines[-1]["size"] == os.path.getsize("out.gguf")


def test_log_json_keeps_errors_to_one_line_on_stderr(at, capsys):
    assert cli.main(["quantize", "--log-json", "gone.gguf", "out.gguf", "Q4_K_M"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def on_a_terminal(*words):
    """Run the command on a terminal of 100 columns; return the exit code and what stderr shows there."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-P", "-m", "quantreg", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux reports the end of the stream this way
                break
            if not part:
                break
            shown += part
    os.close(ours)
    return process.returncode, shown.decode()


def test_a_terminal_shows_a_bar_and_other_outputs_get_one_line_per_tensor(at, capsys):
    code, shown = on_a_terminal("quantize", "small.gguf", "bar.gguf", "Q4_K_M")
    assert code == 0
    assert "100%" in shown
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in shown
    assert "[   1/" not in shown
    assert cli.main(["quantize", "small.gguf", "lines.gguf", "Q4_K_M"]) == 0
    err = capsys.readouterr().err
    assert "[   1/" in err
    assert "100%" not in err
    assert (at / "bar.gguf").read_bytes() == (at / "lines.gguf").read_bytes()


def test_the_bar_shows_names_without_markup_or_control_characters(at):
    quantreg.write("odd.gguf", {}, dict.fromkeys(["a[/b].weight", "c\x1b[2J.weight"], np.ones((2, 256), np.float16)))
    code, shown = on_a_terminal("quantize", "odd.gguf", "out.gguf", "Q8_0")
    assert code == 0, shown
    assert "\x1b[2J" not in shown


@pytest.mark.skipif(os.name == "nt", reason="a shell closes the stream")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-"])
def test_a_run_succeeds_with_closed_streams(at, closed):
    command = [sys.executable, "-P", "-m", "quantreg", "quantize", "small.gguf", "out.gguf", "Q4_K_M"]
    assert subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command]).returncode == 0
    assert (at / "out.gguf").exists()
