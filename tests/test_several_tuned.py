"""Several file types with one calibration text, which runs once: the bytes are those of single runs."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import small_models
from calibration_text import CALIBRATION, TEXT, digest, left_over
from killed_run import kill

import quantreg
from quantreg import OutputError
from quantreg.events import Calibrating, TensorTuned
from quantreg.tuning import encoding, tune

NAMES = ["Q4_0", "Q5_0", "IQ4_NL"]
GIVEN = {"calibration": CALIBRATION, **TEXT}
ALONE = {**GIVEN, "across_layers": False}  # no output needs a pass of its own


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama-tied", "llama-experts"):
        small_models.write(small_models.build(name), folder / f"{name}.gguf")
        for file_type in NAMES:
            quantreg.quantize_file(folder / f"{name}.gguf", folder / f"{name}-{file_type}.gguf", file_type, **GIVEN)
    return folder


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(models, name, at):
    for file_type in NAMES:
        assert digest(f"out-{file_type}.gguf") == digest(models / f"{name}-{file_type}.gguf")
    assert left_over(at) == []


@pytest.mark.parametrize("name", ["llama-tied", "llama-experts"])
def test_the_bytes_are_those_of_single_runs(models, at, name):
    results = quantreg.quantize_files(models / f"{name}.gguf", "out-{type}.gguf", NAMES, **GIVEN)
    check(models, name, at)
    assert all(one.type == result.plan[one.name].to_type for result in results for one in result.tuned)
    assert all(sum(one.kept for one in result.tuned) for result in results)


def test_an_executor_gives_the_same_bytes(models, at):
    with ThreadPoolExecutor(2) as pool:
        quantreg.quantize_files(models / "llama-experts.gguf", "out-{type}.gguf", NAMES, executor=pool, **GIVEN)
    check(models, "llama-experts", at)


def test_the_text_runs_once_and_each_factor_is_computed_once(models, at, monkeypatch):
    def counted(names):
        walks, factors = [], []
        walk, factor = tune.walk, tune.factor
        with monkeypatch.context() as patched:
            patched.setattr(tune, "walk", lambda *args: (walks.append(args), walk(*args))[1])
            patched.setattr(tune, "factor", lambda *args, **more: (factors.append(args), factor(*args, **more))[1])
            events = []
            quantreg.quantize_files(
                models / "llama-experts.gguf", "{type}.gguf", names, force=True, progress=events.append, **ALONE
            )
        done = [event for event in events if isinstance(event, Calibrating) and event.phase == "feedback"]
        assert done[-1].done == done[-1].total
        assert [event.done for event in done] == sorted(event.done for event in done)
        return len(walks), len(factors)

    assert counted(NAMES) == counted(NAMES[:1])


def test_what_two_outputs_want_alike_is_encoded_once(models, at, monkeypatch):
    done = []
    encode = encoding.encode_rows
    monkeypatch.setattr(
        "quantreg.tuning.rows.encode_rows",
        lambda w, first, qtype, name, *rest: (done.append((name, qtype.name)), encode(w, first, qtype, name, *rest))[1],
    )
    source = models / "llama-experts.gguf"
    names = ["Q5_0", "Q5_1"]
    options = {"tensor_types": {"attn": "q8_0"}, "threads": 1, **ALONE}
    quantreg.quantize_files(source, "{type}.gguf", names, **options)
    matrices = {name: quantreg.open(source)[name].shape for name, _ in done}
    times = {pair: done.count(pair) for pair in done}
    assert {to for name, to in done if "attn_q" in name} == {"Q8_0"}
    assert all(count == (matrices[name][0] if len(matrices[name]) == 3 else 1) for (name, _), count in times.items())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signal")
def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_bytes(models, at):
    source = models / "llama-experts.gguf"
    np.save("ids.npy", CALIBRATION)
    for phase, nth in (("TensorTuned", 2), ("TensorTuned", 7), ("Started", 1), ("TensorDone", 9)):
        kill("quantize_files", [str(source), "out-{type}.gguf", NAMES], phase, nth)
    seen = []
    quantreg.quantize_files(source, "out-{type}.gguf", NAMES, resume=True, progress=seen.append, **GIVEN)
    assert not any(isinstance(event, TensorTuned) for event in seen)
    check(models, "llama-experts", at)


def test_outputs_that_exist_are_named_before_the_text_runs(models, at):
    for name in ("out-Q4_0.gguf", "out-IQ4_NL.gguf"):
        Path(name).write_bytes(b"precious")
    events = []
    with pytest.raises(OutputError, match=r"out-Q4_0.gguf, .*out-IQ4_NL.gguf: exist"):
        quantreg.quantize_files(
            models / "llama-experts.gguf", "out-{type}.gguf", NAMES, progress=events.append, **GIVEN
        )
    assert events == []
    assert left_over(at) == []
