"""Quantizing with a calibration text: the same types and sizes, and better bytes."""

from pathlib import Path

import numpy as np
import pytest
import small_models
from calibration_text import CALIBRATION, N_CTX, OTHER, TEXT, digest, left_over

import quantreg
from quantreg import ModelError, OutputError, PlanError, QualityError, cli
from quantreg.events import Calibrating, Finished, Started, TensorTuned


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return small_models.written(tmp_path_factory.mktemp("models"), "llama", "llama-tied", "llama-experts")


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


@pytest.mark.parametrize("across_layers", [False, True])
def test_layers_may_pass_on_several_streams_of_states(at, across_layers):
    small_models.write(small_models.build("gemma3n"), "gemma3n.gguf")
    given = {"calibration": CALIBRATION, "across_layers": across_layers, **TEXT}
    result = quantreg.quantize_file("gemma3n.gguf", "out.gguf", "Q4_0", **given)
    assert sum(one.kept for one in result.tuned) > len(result.tuned) / 2


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
    assert list(dict.fromkeys(event.phase for event in calibrating)) == ["feedback"]
    assert [event.done for event in calibrating] == sorted(event.done for event in calibrating)
    assert len({event.total for event in calibrating}) == 1
    assert calibrating[0].done == 0
    assert calibrating[-1].done == calibrating[-1].total
    result = events[-1].result
    assert isinstance(events[-1], Finished)
    assert tuple(event.tuned for event in events if isinstance(event, TensorTuned)) == result.tuned
    assert {one.name for one in result.tuned} == {t.name for t in result.tensors if t.converted}
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


# ---- the command ----


def run(capsys, *arguments):
    code = cli.main([str(word) for word in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture
def given(at):
    """The options about the text."""
    Path("a.txt").write_text(" ".join(map(str, CALIBRATION[: 20 * N_CTX])))
    Path("b.txt").write_text(" ".join(map(str, CALIBRATION[20 * N_CTX :])))
    return ["--calibration", "a.txt", "--calibration", "b.txt", "--ids", "-c", N_CTX]


def test_the_command_says_how_many_tensors_kept_feedback(models, at, given, capsys):
    code, out, err = run(capsys, "quantize", *given, models / "llama.gguf", "out.gguf", "Q4_0")
    assert code == 0, err
    assert "error feedback: kept in 15 of 16 tensors" in out
    assert "with feedback" in err
    quantreg.quantize_file(
        models / "llama.gguf", "same.gguf", "Q4_0", n_ctx=N_CTX, datasets=["a.txt", "b.txt"],
        calibration=[CALIBRATION[: 20 * N_CTX], CALIBRATION[20 * N_CTX :]],
    )  # fmt: skip
    assert digest("out.gguf") == digest("same.gguf")


@pytest.mark.parametrize(
    ("processors", "options", "workers"),
    [(4, [], [4]), (3, [], []), (4, ["--threads", "2"], []), (4, ["--processes", "2"], [2])],
)
def test_processes_encode_with_feedback_where_there_are_many_processors(
    models, at, given, capsys, monkeypatch, processors, options, workers
):
    from quantreg.jobs import processes

    started, start = [], processes.worker_processes
    monkeypatch.setattr(processes, "cpu_count", lambda: processors)
    monkeypatch.setattr(processes, "worker_processes", lambda count: (started.append(count), start(count))[1])
    code, _, err = run(capsys, "quantize", *given, *options, models / "llama.gguf", "out.gguf", "Q4_0")
    assert code == 0, err
    assert started == workers
    code, _, err = run(capsys, "quantize", *given, "--threads", "1", models / "llama.gguf", "same.gguf", "Q4_0")
    assert digest("out.gguf") == digest("same.gguf")


def test_the_log_has_a_line_for_each_tensor_that_was_tuned(models, at, given, capsys):
    import json

    code, out, _ = run(capsys, "quantize", *given, "--log-json", models / "llama.gguf", "out.gguf", "Q4_0")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["event"] for line in lines].count("tuned") == 16
    assert next(line for line in lines if line["event"] == "tuned")["error_with_feedback"] > 0


def test_a_plan_is_made_without_running_the_text_and_carried_out_with_it(models, at, given, capsys):
    source = models / "llama.gguf"
    assert run(capsys, "plan", *given, source, "Q4_0", "-o", "plan.json")[0] == 0
    code, out, err = run(capsys, "quantize", *given, "--dry-run", source, "out.gguf", "Q4_0")
    assert code == 0, err
    assert "Q4_0" in out
    assert not Path("out.gguf").exists()
    assert run(capsys, "quantize", *given, source, "direct.gguf", "Q4_0")[0] == 0
    assert run(capsys, "quantize", *given, "--plan", "plan.json", source, "planned.gguf")[0] == 0
    assert digest("direct.gguf") == digest("planned.gguf")


# ---- a target ----


@pytest.mark.parametrize("text", [{}, {"calibration": CALIBRATION, **TEXT}])
def test_a_file_is_not_above_its_target_and_options_that_fix_types_hold(models, at, text):
    source = models / "llama.gguf"
    result = quantreg.quantize_file(source, "out.gguf", target_size="60KB", tensor_types={"ffn_down": "Q8_0"}, **text)
    assert Path("out.gguf").stat().st_size == result.size <= 60_000
    assert result.size > 0.98 * 60_000  # of so few tensors, each is a large step
    assert {t.to_type for t in result.tensors if "ffn_down" in t.name} == {"Q8_0"}
    assert any(warning.startswith("types for the target: by") for warning in result.warnings)
    assert bool(result.tuned) == bool(text)
    assert quantreg.validate("out.gguf").ok


def test_a_target_in_bits_per_weight_takes_only_the_types_that_are_named(models, at):
    result = quantreg.quantize_file(models / "llama.gguf", "out.gguf", target_bpw=6.0, types="Q4_0,Q8_0")
    assert result.bits_per_weight <= 6.0
    assert {t.to_type for t in result.tensors if t.converted} <= {"Q4_0", "Q8_0"}
    with pytest.raises(PlanError, match="smallest types"):
        quantreg.quantize_file(models / "llama.gguf", "small.gguf", target_size=20_000)
    assert not Path("small.gguf").exists()


def test_a_plan_for_a_target_shows_how_far_it_is_and_what_the_measurements_take(models, at, given, capsys):
    source = models / "llama.gguf"
    code, _, err = run(capsys, "plan", *given, "--target-size", "60KB", source, "-o", "plan.json")
    assert code == 0, err
    shown = dict.fromkeys(line.partition(":")[0] for line in err.splitlines())  # a slow machine says it twice
    assert [line for line in shown if line in ("calibration text", "errors of types", "sensitivities of tensors")] == [
        "calibration text", "errors of types", "sensitivities of tensors"
    ]  # fmt: skip
    # 16 tensors are probed one by one; the model as it is runs twice besides.
    assert "16 tensors are probed: 18 runs of the model on 4 chunks, " in err
    assert "less than a minute on two cores" in err
    assert err.index("are probed") < err.index("sensitivities of tensors:")


def test_a_plan_for_a_target_is_a_file_to_edit_and_to_carry_out(models, at, given, capsys):
    source = models / "llama.gguf"
    target = ["--target-size", "60KB"]
    code, _, err = run(capsys, "plan", *given, *target, source, "-o", "plan.json")
    assert code == 0, err
    assert run(capsys, "quantize", *given, "--plan", "plan.json", source, "planned.gguf")[0] == 0
    assert run(capsys, "quantize", *given, *target, source, "direct.gguf")[0] == 0
    assert digest("planned.gguf") == digest("direct.gguf")
    code, out, _ = run(capsys, "quantize", *target, "--dry-run", source)
    assert code == 0
    assert "output.weight" in out
    assert run(capsys, "quantize", *target, source, "out.gguf", "Q4_0")[0] == 2
    assert run(capsys, "quantize", *target, source)[0] == 2


# ---- what cannot be done ----


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ({"calibration": CALIBRATION[: 2 * N_CTX], "n_ctx": N_CTX}, QualityError, "at least 3 are needed"),
        ({"calibration": CALIBRATION[:40], "n_ctx": N_CTX}, QualityError, "give a longer text"),
        ({"calibration": [5000] * 200, "n_ctx": N_CTX}, ModelError, "vocabulary"),
        ({"n_ctx": 64}, PlanError, "n_ctx is about a calibration text"),
        ({"types": "Q4_0"}, PlanError, "types needs a target"),
        ({"target_bpw": 3.5, "target_size": "1GB"}, PlanError, "exclude each other"),
        ({"target_bpw": 0}, PlanError, "target_bpw is 0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(models, at, text, error, says):
    with pytest.raises(error, match=says):
        quantreg.quantize_file(models / "llama.gguf", "out.gguf", "Q4_0", **text)
    assert list(at.iterdir()) == []


def test_a_model_that_cannot_run_is_refused_with_a_way_out(models, at):
    quantreg.edit_metadata(models / "llama.gguf", "odd.gguf", set={"general.architecture": "nobody"})
    with pytest.raises(ModelError, match="leave --calibration out"):
        quantreg.quantize_file("odd.gguf", "out.gguf", "Q4_0", calibration=CALIBRATION, **TEXT)


def test_an_output_that_exists_is_found_before_the_text_runs(models, at):
    Path("out.gguf").write_bytes(b"precious")
    seen = []
    with pytest.raises(OutputError, match="exists"):
        quantreg.quantize_file(
            models / "llama.gguf", "out.gguf", "Q4_0", calibration=CALIBRATION, progress=seen.append, **TEXT
        )
    assert seen == []
    assert Path("out.gguf").read_bytes() == b"precious"


def test_a_text_of_one_token_repeated_still_gives_a_sound_file(models, at):
    result = quantreg.quantize_file(models / "llama.gguf", "out.gguf", "Q4_0", calibration=[7] * 1280, **TEXT)
    assert quantreg.validate(result.path).ok
    assert np.isfinite(divergence("out.gguf", models / "llama.gguf"))
