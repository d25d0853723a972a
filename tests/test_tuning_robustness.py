"""Calibration where something is wrong: the disk, another run, the text, the model."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import quality_models
import small_models
from calibration_text import CALIBRATION, N_CTX, TEXT

import quantreg
from quantreg import ModelError, OutputError, PlanError, QualityError
from quantreg.events import TensorTuned
from quantreg.tuning.feedback import factor
from quantreg.tuning.statistics import FEW, Inputs, importance_of


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return small_models.written(tmp_path_factory.mktemp("models"), "llama", "llama-experts")


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
    quantreg.write(out, model.metadata, arrays, force=True)
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
    # 36 chunks fit and decide, with 32 tokens of 64 float32 each, in two models.
    assert ended.returncode == 1, ended.stderr
    need = f"{2 * 36 * 32 * 64 * 4:,} bytes"
    assert f"refused: {at}: the hidden states of the calibration text need {need}" in ended.stderr
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
    result = quantize(source, imatrix="imatrix.gguf", resume=True, progress=again.append)
    assert sum(isinstance(one, TensorTuned) for one in again) == len(result.tuned) - 4
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


# ---- the text ----


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", QualityError, "the text has 1 token"),
        ("a", QualityError, "tokens"),
        ([], QualityError, "0 tokens"),
        ([1, 2, 3], QualityError, "tokens"),
        ([-1] * 300, ModelError, "vocabulary"),
        ([98] * 300, ModelError, "vocabulary"),
    ],
)
def test_a_text_that_cannot_serve_is_refused_before_anything_is_written(at, text, error, says):
    quality_models.write(quality_models.base(), "model.gguf")
    before = sorted(at.iterdir())
    with pytest.raises(error, match=says):
        quantize("model.gguf", calibration=text)
    assert sorted(at.iterdir()) == before


def test_a_text_that_is_not_utf_8_is_refused_with_the_place(at, run):
    quality_models.write(quality_models.base(), "model.gguf")
    Path("text.txt").write_bytes(b"fine so far \xff\xfe and not here" * 200)
    code, _, err = run("quantize", "--calibration", "text.txt", "-c", N_CTX, "model.gguf", "out.gguf", "Q4_0")
    assert code == 1
    assert "text.txt" in err
    assert "UTF-8" in err
    assert "12" in err  # the byte
    assert not Path("out.gguf").exists()


def kl(path, source):
    return quantreg.kl_divergence(path, source, quality_models.text(), n_ctx=N_CTX).kl_mean


@pytest.mark.parametrize(
    "text", ["".join("[]{}<>=/*0123456789"[i * i % 19] for i in range(1400)), "\u2581" * 1500, "e" * 1500]
)
def test_a_text_of_another_language_or_of_one_token_still_gives_a_sound_file(at, text):
    quality_models.write(quality_models.base(), "model.gguf")
    quantreg.quantize_file("model.gguf", "plain.gguf", "Q4_0")
    quantize("model.gguf", calibration=text)
    assert quantreg.validate("out.gguf").ok
    # It may not help on text of the model's own language, but it does no great harm.
    assert kl("out.gguf", "model.gguf") < 3 * kl("plain.gguf", "model.gguf")


# ---- the model ----


def same_bytes(one, other, names):
    one, other = quantreg.open(one), quantreg.open(other)
    return all(one[name].data.tobytes() == other[name].data.tobytes() for name in names)


@pytest.fixture
def loud(models, at):
    """A model whose last layer overflows, from the first norm on."""
    return changed(
        models / "llama.gguf", "loud.gguf", lambda name, w: w * 1e25 if name == "blk.1.attn_norm.weight" else None
    )


def test_tensors_whose_inputs_overflow_keep_ordinary_bytes_and_a_line_says_so(loud):
    quantreg.quantize_file(loud, "plain.gguf", "Q4_0")
    result = quantize(loud)
    loudest = [one.name for one in result.tuned if one.reason == "inputs are so large that their squares overflow"]
    assert sorted(loudest) == sorted(
        ["output.weight", *(one.name for one in result.tuned if one.name.startswith("blk.1."))]
    )
    assert same_bytes("out.gguf", "plain.gguf", loudest)
    assert all(one.kept for one in result.tuned if one.name.startswith("blk.0."))
    line = next(line for line in result.warnings if "squares overflow" in line)
    assert line.startswith(f"{len(loudest)} tensors keep their ordinary bytes, because inputs are so large")
    assert quantreg.validate("out.gguf").ok


def test_types_for_a_model_whose_predictions_are_not_finite_are_chosen_by_error_and_a_line_says_so(loud):
    result = quantize(loud, file_type=None, target_bpw=6.0)
    assert any(line.startswith("types cannot be chosen by running the model, because") for line in result.warnings)
    assert any(line.startswith("types for the target: by error of the weights") for line in result.warnings)
    assert result.bits_per_weight <= 6.0
    assert all(one.kept for one in result.tuned if one.name.startswith("blk.0."))


def test_types_for_a_model_that_cannot_run_are_chosen_by_error_and_a_line_says_so(models, at):
    quantreg.edit_metadata(models / "llama.gguf", "odd.gguf", set={"general.architecture": "nobody"})
    with pytest.raises(ModelError, match="leave --calibration out"):
        quantize("odd.gguf")
    result = quantize("odd.gguf", file_type=None, target_bpw=6.0)
    same = quantreg.quantize_file("odd.gguf", "bare.gguf", target_bpw=6.0)
    assert Path("out.gguf").read_bytes() == Path("bare.gguf").read_bytes()
    assert result.tuned == same.tuned == ()
    line = next(line for line in result.warnings if line.startswith("the calibration text is not used"))
    assert "nobody" in line
    planned = quantreg.plan("odd.gguf", calibration=CALIBRATION, target_bpw=6.0, **TEXT)
    assert [t.to_type for t in planned.tensors] == [t.to_type for t in result.tensors]
    assert line in planned.warnings


def test_a_layer_whose_inputs_are_all_zero_keeps_ordinary_bytes(models, at):
    changed(models / "llama.gguf", "silent.gguf", lambda name, w: w * 0 if name == "blk.1.ffn_norm.weight" else None)
    for file_type, more in (("Q4_0", {}), ("IQ4_NL", {}), (None, {"target_bpw": 6.0})):
        result = quantize("silent.gguf", file_type=file_type, force=True, **more)
        silent = {one.name: one for one in result.tuned if one.name.startswith(("blk.1.ffn_up", "blk.1.ffn_gate"))}
        assert len(silent) == 2
        assert not any(one.kept for one in silent.values())
        assert quantreg.validate("out.gguf").ok
        model = quantreg.open("silent.gguf")
        for name in silent:
            w, q = model[name].dequantize(), quantreg.open("out.gguf")[name].dequantize()
            assert np.square(w - q).mean() < 0.05 * np.square(w).mean()
    assert any("ordinary bytes" in line and "blk.1.ffn" in line for line in result.warnings)


def test_a_target_below_the_smallest_plan_says_what_the_smallest_takes_and_that_can_be_had(models, at):
    source = models / "llama.gguf"
    with pytest.raises(PlanError, match=r"with the smallest types that may be used it takes ([\d,]+)") as refused:
        quantize(source, file_type=None, target_size=5000)
    least = int(re.search(r"it takes ([\d,]+)", str(refused.value))[1].replace(",", ""))
    assert not Path("out.gguf").exists()
    with pytest.raises(PlanError, match="smallest"):
        quantize(source, file_type=None, target_size=least - 1)
    assert quantize(source, file_type=None, target_size=least).size == least


# ---- experts ----


def test_experts_that_few_or_no_tokens_reach_get_sensible_bytes_and_a_line_says_so(models, at):
    def starve(name, w):
        if name != "blk.1.ffn_gate_inp.weight":
            return None
        a, b, c = w[:3]
        few = 4 * c  # wins where the text says little about a or b
        return np.stack([0 * a, few, 50 * a, -50 * a, 50 * b, -50 * b, 0 * a, 0 * a])

    source = changed(models / "llama-experts.gguf", "starved.gguf", starve)
    result = quantize(source)
    quantreg.quantize_file(source, "plain.gguf", "Q4_0")
    known, tuned, plain = map(quantreg.open, (source, "out.gguf", "plain.gguf"))
    for part in ("ffn_up", "ffn_gate", "ffn_down"):
        name = f"blk.1.{part}_exps.weight"
        one = next(one for one in result.tuned if one.name == name)
        assert one.reason == "no token of the text gets to 2 of 8 matrices"
        assert one.tuned <= one.plain
        assert one.kept <= 6
        w = known[name].dequantize()
        size = np.square(w).mean(axis=(1, 2))
        lost = np.square(w - tuned[name].dequantize()).mean(axis=(1, 2)) / size
        ordinary = np.square(w - plain[name].dequantize()).mean(axis=(1, 2)) / size
        assert (lost < 3 * ordinary).all()  # feedback moves weights, but not those of an expert that it knows little of
        assert np.sort(lost / ordinary)[:2].max() < 1.1
    line = "3 tensors keep ordinary bytes in part, because no token of the text gets to 2 of 8 matrices"
    assert any(warning.startswith(line) for warning in result.warnings)
    assert quantreg.validate("out.gguf").ok


def test_h_of_an_expert_that_saw_few_tokens_is_drawn_towards_that_of_its_layer():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((16, 16)).astype(np.float32)
    seen = [rng.standard_normal((n, 16)).astype(np.float32) @ mixing for n in (4000, 4, 0)]
    h = np.stack([x.T @ x for x in seen])
    inputs = Inputs(h, np.array([len(x) for x in seen]), [x[:100] for x in seen])
    together = inputs.together()
    np.testing.assert_allclose(together, h.sum(axis=0))

    def per_token(matrix):
        found = inputs.shrunk(matrix, together)
        return found / np.trace(found)

    truth = together / np.trace(together)
    for matrix, most in ((0, 0.01), (1, 0.5), (2, 1e-6)):
        assert np.linalg.norm(per_token(matrix) - truth) <= most * np.linalg.norm(truth)
    alone = h[1] / np.trace(h[1])
    assert np.linalg.norm(per_token(1) - truth) < 0.5 * np.linalg.norm(alone - truth)
    # What decides is borrowed as well, as far as there is too little of its own.
    assert len(inputs.to_decide(0)) == 100
    assert len(inputs.to_decide(1)) == len(inputs.to_decide(2)) == FEW
    np.testing.assert_array_equal(inputs.to_decide(1)[:4], seen[1])


def test_an_expert_whose_inputs_overflow_does_not_spoil_the_others():
    h = np.stack([np.eye(4), np.full((4, 4), np.nan)]).astype(np.float32)
    inputs = Inputs(h, np.array([10, 10]), [np.zeros((0, 4), np.float32)] * 2)
    np.testing.assert_array_equal(inputs.together(), np.eye(4))
    assert factor(inputs.shrunk(0, inputs.together())).reason is None
    assert "overflow" in factor(inputs.shrunk(1, inputs.together())).reason
    np.testing.assert_array_equal(importance_of(h[1], 10), np.ones(4))
