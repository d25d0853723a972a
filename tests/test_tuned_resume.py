"""Runs with a calibration text that end early, by an exception or a kill, and go on to the same bytes."""

import signal
from pathlib import Path

import numpy as np
import pytest
import small_models
from calibration_text import CALIBRATION, N_CTX, OTHER, TEXT, digest, left_over
from killed_run import kill

import quantreg
from quantreg import OutputError
from quantreg.events import Calibrating, Probing, Started, TensorTuned


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return small_models.written(tmp_path_factory.mktemp("models"), "llama", "llama-experts")


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Stop(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("kind", [Calibrating, TensorTuned, Started, quantreg.events.TensorDone])
@pytest.mark.parametrize("nth", [1, 5])
def test_a_run_that_ends_early_goes_on_to_the_same_bytes(models, at, kind, nth):
    source = models / "llama-experts.gguf"
    given = {"calibration": CALIBRATION, **TEXT}
    quantreg.quantize_file(source, "whole.gguf", "Q4_0", **given)
    seen = []

    def stop(event):
        seen.append(event)
        if isinstance(event, kind) and (kind is Started or sum(isinstance(one, kind) for one in seen) == nth):
            raise Stop

    with pytest.raises(Stop):
        quantreg.quantize_file(source, "out.gguf", "Q4_0", resumable=True, progress=stop, **given)
    if any(isinstance(event, TensorTuned) for event in seen):
        with pytest.raises(OutputError, match="--resume"):
            quantreg.quantize_file(source, "out.gguf", "Q4_0", resumable=True, **given)
        with pytest.raises(OutputError, match="another calibration"):
            quantreg.quantize_file(source, "out.gguf", "Q4_0", resume=True, calibration=OTHER, n_ctx=N_CTX)
        with pytest.raises(OutputError, match="another plan"):
            quantreg.quantize_file(source, "out.gguf", "Q5_0", resume=True, **given)
    before = [event.tuned.name for event in seen if isinstance(event, TensorTuned)]
    again = []
    result = quantreg.quantize_file(source, "out.gguf", "Q4_0", resume=True, progress=again.append, **given)
    after = [event.tuned.name for event in again if isinstance(event, TensorTuned)]
    assert digest("out.gguf") == digest("whole.gguf")
    assert sorted(before + after) == sorted(one.name for one in result.tuned)
    assert left_over(at) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signal")
@pytest.mark.parametrize("across_layers", [True, False])
def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_bytes(models, at, across_layers):
    source = models / "llama.gguf"
    given = {"calibration": CALIBRATION, "across_layers": across_layers, **TEXT}
    quantreg.quantize_file(source, "whole.gguf", "Q4_0", **given)
    np.save("ids.npy", CALIBRATION)
    # The text runs; feedback; feedback goes on; the output is written. None of it is done twice.
    for phase, nth in [("Calibrating", 2), ("TensorTuned", 2), ("TensorTuned", 3), ("TensorDone", 6)]:
        kill("quantize_file", [str(source), "out.gguf", "Q4_0"], phase, nth, across_layers=across_layers)
    again = []
    quantreg.quantize_file(source, "out.gguf", "Q4_0", resume=True, progress=again.append, **given)
    assert not any(isinstance(event, TensorTuned) for event in again)
    assert digest("out.gguf") == digest("whole.gguf")
    assert left_over(at) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signal")
@pytest.mark.parametrize("across_layers", [True, False])
def test_a_run_with_a_target_that_is_killed_in_each_phase_goes_on_to_the_same_bytes(models, at, across_layers):
    source = models / "llama.gguf"
    more = {"target_size": 60_000, "across_layers": across_layers}
    given = {"calibration": CALIBRATION, **more, **TEXT}
    quantreg.quantize_file(source, "whole.gguf", **given)
    np.save("ids.npy", CALIBRATION)
    kills = [("importance", 1), ("errors", 3), ("Probing", 1), ("sensitivities", 4), ("feedback", 3), ("Advanced", 4)]
    for phase, nth in kills:
        kill("quantize_file", [str(source), "out.gguf"], phase, nth, **more)
        assert Path("out.gguf.tuning").exists()
    again = []
    quantreg.quantize_file(source, "out.gguf", resume=True, progress=again.append, **given)
    assert not any(isinstance(event, (TensorTuned, Probing)) for event in again)
    assert digest("out.gguf") == digest("whole.gguf")
    assert left_over(at) == []


def test_a_run_with_a_target_goes_on_to_the_same_bytes(models, at):
    given = {"calibration": CALIBRATION, "target_size": 60_000, **TEXT}
    quantreg.quantize_file(models / "llama.gguf", "whole.gguf", **given)

    def stop(event):
        if isinstance(event, TensorTuned):
            raise Stop

    with pytest.raises(Stop):
        quantreg.quantize_file(models / "llama.gguf", "out.gguf", resumable=True, progress=stop, **given)
    quantreg.quantize_file(models / "llama.gguf", "out.gguf", resume=True, **given)
    assert digest("out.gguf") == digest("whole.gguf")
    assert left_over(at) == []
