"""Calibration where something is wrong: the disk, another run, the text, the model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_models

import quantreg
from quantreg import ModelError, OutputError, QualityError
from quantreg.events import TensorTuned

N_CTX = 32
TEXT = {"n_ctx": N_CTX, "chunks": 40}


def ids(n, seed=0):
    rng = np.random.default_rng(seed)
    found = [1]
    for _ in range(n - 1):
        found.append((7 * found[-1] + 3) % 90 if rng.random() < 0.7 else int(rng.integers(0, 90)))
    return np.array(found, np.int32)


CALIBRATION = ids(40 * N_CTX)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama", "llama-experts"):
        small_models.write(small_models.build(name), folder / f"{name}.gguf")
    return folder


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("ids.npy", CALIBRATION)
    return tmp_path


def quantize(source, out="out.gguf", file_type="Q4_0", calibration=CALIBRATION, **more):
    return quantreg.quantize_file(source, out, file_type, calibration=calibration, **TEXT, **more)


def changed(source, out, change):
    """Write a copy of a model with some tensors changed: ``change(name, array)`` returns the new one or None."""
    model = quantreg.open(source)
    arrays = {}
    for name, tensor in model.items():
        w = tensor.dequantize()
        new = change(name, w)
        arrays[name] = w if new is None else np.ascontiguousarray(new, np.float32)
    quantreg.write_gguf(out, arrays, metadata=model.metadata)
    return out


# ---- the disk ----

_SPILLS = """
import resource, sys
import numpy as np
import quantreg
from quantreg.tuning import statistics

statistics.MEMORY = 0
most = int(sys.argv[2])
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    quantreg.quantize_file(sys.argv[1], "out.gguf", "Q4_0", calibration=np.load("ids.npy"), n_ctx=32, chunks=40)
except quantreg.OutputError as error:
    sys.exit(f"refused: {error}")
"""


def spilled(source, most):
    environment = os.environ | {"TMPDIR": os.getcwd()}
    return subprocess.run(
        [sys.executable, "-P", "-c", _SPILLS, str(source), str(most)],
        check=False, timeout=120, capture_output=True, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_disk_without_room_for_the_hidden_states_is_said_before_they_are_written(models, at):
    ended = spilled(models / "llama.gguf", 200_000)
    # 36 chunks fit and decide, with 32 tokens of 64 float32 each.
    assert ended.returncode == 1, ended.stderr
    assert f"refused: {at}: the hidden states of the calibration text need {36 * 32 * 64 * 4:,} bytes" in ended.stderr
    assert "TMPDIR" in ended.stderr
    assert [path.name for path in at.iterdir()] == ["ids.npy"]


@pytest.mark.skipif(sys.platform == "win32", reason="the test sets limits that Windows does not have")
def test_hidden_states_on_the_disk_give_the_same_bytes_and_leave_nothing_there(models, at):
    ended = spilled(models / "llama.gguf", 0)
    assert ended.returncode == 0, ended.stderr
    quantize(models / "llama.gguf", "memory.gguf")
    assert Path("out.gguf").read_bytes() == Path("memory.gguf").read_bytes()
    assert sorted(path.name for path in at.iterdir()) == ["ids.npy", "memory.gguf", "out.gguf"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve space")
def test_room_is_set_aside_also_where_the_system_has_no_call_for_it(tmp_path, monkeypatch):
    from quantreg.storage import reserve

    monkeypatch.delattr(os, "posix_fallocate")
    with open(tmp_path / "f", "w+b") as file:
        reserve(file, 3_000_001, "the numbers")
        found = os.fstat(file.fileno())
    assert found.st_size == 3_000_001
    assert found.st_blocks * 512 >= 3_000_000


def test_a_disk_that_is_full_while_tensors_are_kept_is_an_error_with_a_way_out(models, at, monkeypatch):
    real, calls = os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        real(fd)

    def count(event):
        if isinstance(event, TensorTuned) and not calls:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OutputError, match=r"out\.gguf\.tuning.*No space left on device.*another disk"):
        quantize(models / "llama.gguf", resumable=True, progress=count)
    monkeypatch.setattr(os, "fsync", real)
    result = quantize(models / "llama.gguf", resume=True)
    quantize(models / "llama.gguf", "whole.gguf")
    assert Path(result.path).read_bytes() == Path("whole.gguf").read_bytes()
    assert sorted(path.name for path in at.iterdir()) == ["ids.npy", "out.gguf", "whole.gguf"]


# ---- two runs at once, and what is kept ----

_WAITS = """
import sys, time
import numpy as np
import quantreg
from quantreg.events import TensorTuned

def wait(event):
    if isinstance(event, TensorTuned):
        print("tuned", flush=True)
        time.sleep(100)

quantreg.quantize_file(sys.argv[1], "out.gguf", "Q4_0", calibration=np.load("ids.npy"), n_ctx=32, chunks=40,
                       resumable=True, progress=wait)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signal")
@pytest.mark.parametrize("more", [{"resume": True}, {"resumable": True}, {"resumable": True, "force": True}])
def test_a_second_run_on_the_same_output_is_refused_until_the_first_has_ended(models, at, more):
    source = models / "llama.gguf"
    first = subprocess.Popen([sys.executable, "-P", "-c", _WAITS, str(source)], stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"tuned\n"
        before = sorted(path.name for path in Path("out.gguf.tuning").rglob("*"))
        with pytest.raises(OutputError, match=r"out\.gguf\.tuning: another run is using it: wait for it or stop it"):
            quantize(source, **more)
        assert sorted(path.name for path in Path("out.gguf.tuning").rglob("*")) == before
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    if more == {"resumable": True}:
        with pytest.raises(OutputError, match="go on with resume"):
            quantize(source, **more)
        more = {"resume": True}
    quantize(source, **more)
    assert sorted(path.name for path in at.iterdir()) == ["ids.npy", "out.gguf"]


class Stop(Exception):  # noqa: N818
    pass


def test_a_run_with_an_imatrix_of_ones_own_keeps_its_tensors_too(models, at):
    source = models / "llama.gguf"
    quantreg.collect_imatrix(source, CALIBRATION, n_ctx=N_CTX, out="imatrix.gguf")
    quantize(source, "whole.gguf", imatrix="imatrix.gguf")
    seen = []

    def stop(event):
        seen.append(event)
        if sum(isinstance(one, TensorTuned) for one in seen) == 4:
            raise Stop

    with pytest.raises(Stop):
        quantize(source, imatrix="imatrix.gguf", resumable=True, progress=stop)
    again = []
    quantize(source, imatrix="imatrix.gguf", resume=True, progress=again.append)
    assert sum(isinstance(one, TensorTuned) for one in again) == 15 - 4
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


# ---- the text ----


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", QualityError, ""),
        ([], QualityError, ""),
        ([1, 2, 3], QualityError, "give a longer text"),
        ([-1] * 300, ModelError, "vocabulary"),
        ([96] * 300, ModelError, "vocabulary"),
    ],
)
def test_a_text_that_cannot_serve_is_refused_before_anything_is_written(models, at, text, error, says):
    source = models / "llama.gguf"
    if text == "":  # text needs a tokenizer, which only this model has
        quantreg.demo_model("demo.gguf") if hasattr(quantreg, "demo_model") else pytest.skip("no model with a tokenizer")
    before = sorted(at.iterdir())
    with pytest.raises(error, match=says):
        quantize(source, calibration=text)
    assert sorted(at.iterdir()) == before


# ---- the model ----


def test_a_model_whose_activations_overflow_keeps_ordinary_bytes_where_they_do(models, at):
    changed(models / "llama.gguf", "loud.gguf", lambda name, w: w * 1e25 if name == "blk.1.ffn_up.weight" else None)
    quantreg.quantize_file("loud.gguf", "plain.gguf", "Q8_0")
    result = quantize("loud.gguf", file_type="Q8_0")
    print(result.warnings)
