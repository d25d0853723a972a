"""Quantizing with a calibration text: the same types and sizes, better bytes, and runs that end early and go on."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_models

import quantreg
from quantreg import ModelError, OutputError, PlanError, QualityError
from quantreg.events import Calibrating, Finished, Started, TensorTuned

N_CTX = 32
TEXT = {"n_ctx": N_CTX, "chunks": 40}


def ids(n, seed=0):
    """Tokens that follow each other by a rule, with some noise."""
    rng = np.random.default_rng(seed)
    found = [1]
    for _ in range(n - 1):
        found.append((7 * found[-1] + 3) % 90 if rng.random() < 0.7 else int(rng.integers(0, 90)))
    return np.array(found, np.int32)


CALIBRATION = ids(40 * N_CTX)
OTHER = ids(20 * N_CTX, seed=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama", "llama-tied", "llama-experts"):
        small_models.write(small_models.build(name), folder / f"{name}.gguf")
    return folder


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def left_over(folder):
    return [path.name for path in folder.iterdir() if path.suffix in (".tuning", ".partial", ".journal", ".tmp")]


def divergence(path, model):
    return quantreg.kl_divergence(path, model, OTHER, n_ctx=N_CTX).kl_mean


# Experts see few tokens each, and in a random model a small error sends tokens to other experts.
@pytest.mark.parametrize(("name", "most"), [("llama", 0.9), ("llama-tied", 0.9), ("llama-experts", 1)])
@pytest.mark.parametrize("file_type", ["Q4_0", "IQ4_NL"])
def test_predictions_are_closer_at_the_same_types_and_size(models, at, name, most, file_type):
    source = models / f"{name}.gguf"
    plain = quantreg.quantize_file(source, "plain.gguf", file_type)
    tuned = quantreg.quantize_file(source, "tuned.gguf", file_type, calibration=CALIBRATION, **TEXT)
    assert [(t.name, t.to_type) for t in tuned.tensors] == [(t.name, t.to_type) for t in plain.tensors]
    assert tuned.plan.bytes == plain.plan.bytes
    assert sum(one.kept for one in tuned.tuned) >= 0.5 * len(tuned.tuned)
    assert divergence("tuned.gguf", source) < most * divergence("plain.gguf", source)
    assert quantreg.validate("tuned.gguf").ok
    assert left_over(at) == []


def test_the_bytes_do_not_depend_on_threads_or_the_executor(models, at):
    from concurrent.futures import ThreadPoolExecutor

    source = models / "llama-experts.gguf"
    for threads in (1, 3):
        quantreg.quantize_file(source, f"{threads}.gguf", "Q4_K_M", calibration=CALIBRATION, threads=threads, **TEXT)
    with ThreadPoolExecutor(2) as pool:
        quantreg.quantize_file(source, "pool.gguf", "Q4_K_M", calibration=CALIBRATION, executor=pool, **TEXT)
    assert digest("1.gguf") == digest("3.gguf") == digest("pool.gguf")


def test_events_tell_how_far_calibration_is_and_what_became_of_each_tensor(models, at):
    events = list(quantreg.quantize_events(models / "llama.gguf", "out.gguf", "Q4_0", calibration=CALIBRATION, **TEXT))
    started = next(i for i, event in enumerate(events) if isinstance(event, Started))
    calibrating = [event for event in events if isinstance(event, Calibrating)]
    assert all(isinstance(event, (Calibrating, TensorTuned)) for event in events[:started])
    assert list(dict.fromkeys(event.phase for event in calibrating)) == ["importance", "feedback"]
    for phase in ("importance", "feedback"):
        steps = [event for event in calibrating if event.phase == phase]
        assert [event.done for event in steps] == sorted(event.done for event in steps)
        assert steps[0].done == 0
        assert steps[-1].done == steps[-1].total
    result = events[-1].result
    assert isinstance(events[-1], Finished)
    assert tuple(event.tuned for event in events if isinstance(event, TensorTuned)) == result.tuned
    assert {one.name for one in result.tuned} == {
        t.name for t in result.tensors if t.converted and t.name != "token_embd.weight"
    }
    assert all(one.tuned < one.plain for one in result.tuned if one.kept)


def test_an_imatrix_of_ones_own_serves_the_plan(models, at):
    source = models / "llama.gguf"
    quantreg.collect_imatrix(source, CALIBRATION, n_ctx=N_CTX, out="imatrix.gguf")
    result = quantreg.quantize_file(source, "o.gguf", "IQ4_NL", "imatrix.gguf", calibration=CALIBRATION, **TEXT)
    phases = quantreg.open("o.gguf").metadata
    assert phases["quantize.imatrix.file"] == "imatrix.gguf"
    assert sum(one.kept for one in result.tuned) > 0


def test_a_type_that_needs_importance_gets_it_from_the_text(models, at):
    wide = small_models.decoder("wide", "llama", width=256, ff=256, layers=1)
    small_models.write(wide, "wide.gguf")
    with pytest.raises(PlanError, match="requires an importance matrix"):
        quantreg.quantize_file("wide.gguf", "out.gguf", "IQ2_XS")
    result = quantreg.quantize_file(
        "wide.gguf", "out.gguf", "IQ2_XS", calibration=CALIBRATION, datasets=["text.txt"], **TEXT
    )
    metadata = quantreg.open("out.gguf").metadata
    assert metadata["quantize.imatrix.dataset"] == "text.txt"
    assert metadata["quantize.imatrix.chunks_count"] == 32  # 80 % of 40
    assert "quantize.imatrix.file" not in metadata
    assert {one.type for one in result.tuned} >= {"IQ2_XS", "Q2_K"}


def test_types_that_options_fix_stay(models, at):
    result = quantreg.quantize_file(
        models / "llama.gguf", "out.gguf", "Q4_0", calibration=CALIBRATION, tensor_types={"ffn_down": "Q8_0"},
        output_tensor_type="Q5_1", leave_output_tensor=False, **TEXT,
    )  # fmt: skip
    kinds = {t.name: t.to_type for t in result.tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["output.weight"] == "Q5_1"


def test_pruned_and_overridden_models_are_calibrated_as_they_will_be(models, at):
    keys = {"override_kv": {"llama.rope.freq_base": 700.0}, "prune_layers": [0]}
    quantreg.quantize_file(models / "llama.gguf", "short.gguf", "COPY", **keys)
    quantreg.quantize_file("short.gguf", "a.gguf", "Q4_0", calibration=CALIBRATION, **TEXT)
    quantreg.quantize_file(models / "llama.gguf", "b.gguf", "Q4_0", calibration=CALIBRATION, **keys, **TEXT)
    assert {n: t.data.tobytes() for n, t in quantreg.open("a.gguf").items()} == {
        n: t.data.tobytes() for n, t in quantreg.open("b.gguf").items()
    }


def test_several_texts_have_a_share_in_each_part(models, at):
    quantreg.quantize_file(
        models / "llama.gguf", "out.gguf", "Q4_0", calibration=[CALIBRATION, OTHER], n_ctx=N_CTX, chunks=20
    )
    assert quantreg.open("out.gguf").metadata["quantize.imatrix.chunks_count"] == 16


def test_shards_take_tuned_tensors_too(models, at):
    result = quantreg.quantize_file(
        models / "llama.gguf", "s.gguf", "Q4_0", calibration=CALIBRATION, split_max_tensors=8, **TEXT
    )
    quantreg.quantize_file(models / "llama.gguf", "w.gguf", "Q4_0", calibration=CALIBRATION, **TEXT)
    quantreg.merge(result.path, "merged.gguf")
    assert quantreg.compare("merged.gguf", "w.gguf").same


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
        seen.append(type(event))
        if seen.count(kind) == nth or (kind is Started and isinstance(event, Started)):
            raise Stop

    with pytest.raises(Stop):
        quantreg.quantize_file(source, "out.gguf", "Q4_0", resumable=True, progress=stop, **given)
    if TensorTuned in seen:
        with pytest.raises(OutputError, match="--resume"):
            quantreg.quantize_file(source, "out.gguf", "Q4_0", resumable=True, **given)
        with pytest.raises(OutputError, match="another calibration"):
            quantreg.quantize_file(source, "out.gguf", "Q4_0", resume=True, calibration=OTHER, n_ctx=N_CTX)
        with pytest.raises(OutputError, match="another plan"):
            quantreg.quantize_file(source, "out.gguf", "Q5_0", resume=True, **given)
    again = []
    quantreg.quantize_file(source, "out.gguf", "Q4_0", resume=True, progress=lambda e: again.append(type(e)), **given)
    assert digest("out.gguf") == digest("whole.gguf")
    assert again.count(TensorTuned) + seen.count(TensorTuned) in (again.count(TensorTuned), len(set(tuned_names("out.gguf"))))
    assert left_over(at) == []


def tuned_names(path):
    return [name for name, tensor in quantreg.open(path).items() if tensor.type == "Q4_0"]
