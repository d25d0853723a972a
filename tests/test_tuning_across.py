"""Error feedback across layers: matrices make up for the errors of those before them."""

import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from tempfile import TemporaryFile

import numpy as np
import pytest
import small_models
from calibration_text import CALIBRATION, N_CTX, OTHER, TEXT, digest, left_over
from killed_run import kill

import quantreg
from quantreg import OutputError, PlanError, QuantizedTensor, cli
from quantreg.events import Calibrating, TensorTuned
from quantreg.jobs.tuned_importance import Collected
from quantreg.tuning import across
from quantreg.tuning.across import Both, steps
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.encoding import SHARE, Across
from quantreg.tuning.feedback import factor
from quantreg.tuning.statistics import walk

NAMES = ("llama", "llama-tied", "llama-experts")
ARCHITECTURES = (
    *NAMES, "bert", "deepseek2-lite", "gemma3n", "gemma4", "gpt-oss-pattern", "granitehybrid-experts", "jamba",
    "kimi-linear", "mamba", "nemotron_h_moe", "phi2", "qwen3next",
)  # fmt: skip
GIVEN = {"calibration": CALIBRATION, **TEXT}
ALONE = {**GIVEN, "across_layers": False}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = small_models.written(tmp_path_factory.mktemp("models"), *NAMES)
    for name in NAMES:
        quantreg.quantize_file(folder / f"{name}.gguf", folder / f"{name}-Q4_0.gguf", "Q4_0", **GIVEN)
    return folder


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- what it is for ----


@pytest.mark.parametrize("name", ["llama", "llama-experts"])
@pytest.mark.parametrize("file_type", ["Q4_0", "IQ4_NL"])
def test_predictions_are_closer_than_with_feedback_in_each_matrix_alone(models, at, name, file_type):
    source = models / f"{name}.gguf"
    alone = quantreg.quantize_file(source, "alone.gguf", file_type, **ALONE)
    found = quantreg.quantize_file(source, "across.gguf", file_type, **GIVEN)
    assert [(t.name, t.to_type) for t in found.tensors] == [(t.name, t.to_type) for t in alone.tensors]
    assert sum(one.kept for one in found.tuned) >= 0.9 * len(found.tuned)
    kl = [quantreg.kl_divergence(f"{way}.gguf", source, OTHER, n_ctx=N_CTX).kl_mean for way in ("alone", "across")]
    assert kl[1] < 0.85 * kl[0]


def test_of_a_long_text_half_goes_through_both_models(models, at, monkeypatch):
    source = models / "llama.gguf"
    quantreg.quantize_file(source, "alone.gguf", "Q4_0", **ALONE)
    monkeypatch.setattr(across, "ENOUGH", 1000)
    monkeypatch.setattr(across, "BATCH", 64)
    for threads in (1, 2):
        quantreg.quantize_file(source, f"{threads}.gguf", "Q4_0", threads=threads, **GIVEN)
    kl = [quantreg.kl_divergence(f"{n}.gguf", source, OTHER, n_ctx=N_CTX).kl_mean for n in ("alone", "1")]
    assert kl[1] < 0.85 * kl[0]
    assert digest("1.gguf") == digest("2.gguf") != digest(models / "llama-Q4_0.gguf")


@pytest.mark.parametrize("name", NAMES)
def test_tokens_that_go_through_one_model_alone_count_in_h_and_in_the_size_of_the_drift(models, monkeypatch, name):
    with quantreg.load(models / f"{name}.gguf") as model:
        calibration = Calibration.cut(model, CALIBRATION, N_CTX, 40)
        wanted = [n for n in model.matrices if "attn_q" in n]
        embeddings = encoded(model, ["token_embd.weight"])

        def found():
            with TemporaryFile() as spill:
                both = Both(model, calibration, embeddings, None, spill)
                return [taken(both, step, {}) for step in steps(model, calibration, wanted, False) if step.layer == 0]

        (whole, *_) = found()
        monkeypatch.setattr(across, "ENOUGH", 0)
        monkeypatch.setattr(across, "BATCH", N_CTX)
        nothing, half, *_ = found()
    assert not nothing.inputs
    for leader, inputs in whole.inputs.items():
        assert half.inputs[leader].count.tolist() == inputs.count.tolist()
        for other, one in ((half.inputs[leader].h, inputs.h), (half.inputs[leader].drift, inputs.drift)):
            assert 0.001 < np.linalg.norm(other - one) / np.linalg.norm(one) < 0.5


def test_the_target_makes_the_outputs_of_the_model_as_it_is_out_of_changed_inputs():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((4000, 32)).astype(np.float32)
    x = y + y @ (0.1 * rng.standard_normal((32, 32))).astype(np.float32)
    w = rng.standard_normal((8, 32)).astype(np.float32)
    target = Across((x - y).T @ y, x).target(w, factor(y.T @ y, damping=1e-6))
    exact = w + (target - w) / SHARE
    np.testing.assert_allclose(y @ exact.T, x @ w.T, atol=1e-3)
    assert np.square(x @ w.T - y @ target.T).sum() < 0.3 * np.square(x @ w.T - y @ w.T).sum()


# ---- the inputs in both models ----


def encoded(model, names):
    """Tensors with errors, whatever the length of their rows."""
    rng, found = np.random.default_rng(0), {}
    for name in names:
        w = model.tensors[name].dequantize()
        noise = rng.standard_normal(w.shape).astype(np.float32)
        found[name] = QuantizedTensor.from_array(name, w + 0.05 * w.std() * noise, "F32")
    return found


def taken(both, step, so_far):
    """What a step saw."""
    doing = both.take(step, so_far)
    while True:
        try:
            next(doing)
        except StopIteration as end:
            return end.value


def inputs_of(model, ids, name):
    found = []
    states = model.states(ids, observe=lambda n, x, e: found.append((np.array(x), e)) if n == name else None)
    return found[0] if found else (states, None)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_step_sees_both_models_up_to_there(at, name):
    """In models whose layers share keys and values, read a matrix twice, or have experts or recurrent states, too."""
    small_models.write(small_models.build(name), "model.gguf")
    with quantreg.load("model.gguf") as model, TemporaryFile() as spill:
        tokens = np.asarray(CALIBRATION[: 8 * N_CTX]) % model.n_vocab
        calibration = Calibration(tokens.reshape(8, N_CTX).astype(np.int32), 6, 7)
        wanted = [n for n in dict.fromkeys(model.matrices) if "gate_inp" not in n]
        embeddings = {} if model.output_name == "token_embd.weight" else encoded(model, ["token_embd.weight"])
        both = Both(model, calibration, embeddings, None, spill)
        so_far = dict(embeddings)
        seen = []
        for step in steps(model, calibration, wanted, False):
            known = {n: t for n, t in so_far.items() if n in step.before}
            found = taken(both, step, known)
            layer = {n for n in so_far if n.startswith(f"blk.{step.layer}.")}
            changed = model.replaced({n: t for n, t in so_far.items() if n not in layer or n in known})
            for leader, inputs in found.inputs.items():
                x, experts = inputs_of(model, calibration.part("fit"), leader)
                y, others = inputs_of(changed, calibration.part("fit"), leader)
                cols = x.shape[-1]
                if experts is None:
                    x, y = x.reshape(-1, cols), y.reshape(-1, cols)
                    close(inputs.h[0], y.T @ y, y)
                    close(inputs.drift[0], (x - y).T @ y, y)
                    assert inputs.count.tolist() == [len(y)]
                else:
                    assert inputs.count.sum() == others.size
                    assert np.isfinite(inputs.drift).all()
                assert [len(kept) for kept in inputs.held_out] == [len(kept) for kept in inputs.as_it_is]
                members = [n for n, first in found.same.items() if first == leader]
                seen += members
                so_far |= encoded(model, members)
        assert sorted(seen) == sorted(wanted)


def close(found, expected, inputs):
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.square(inputs).sum(axis=0).max())


def test_matrices_with_the_same_inputs_share_a_step_and_each_step_knows_those_before(models):
    with quantreg.load(models / "llama.gguf") as model:
        calibration = Calibration.cut(model, CALIBRATION, N_CTX, 40)
        found = [one for one in steps(model, calibration, model.matrices, False) if one.layer == 1]
    short = [tuple(n.split(".")[2] for n in group) for one in found for group in one.groups]
    assert short == [("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_up", "ffn_gate"), ("ffn_down",)]
    assert [len(one.before) for one in found] == [0, 3, 4, 6, 7]
    assert [one.ends for one in found] == [False, False, False, True, False]


def test_a_matrix_that_is_read_twice_is_seen_with_nothing_of_its_layer_encoded(models):
    with quantreg.load(models / "llama.gguf") as model:
        x, y = np.zeros((2, 1, 64), np.float32)
        reads = [("blk.0.attn_q.weight", x, None), ("blk.0.attn_k.weight", y, None), ("blk.0.attn_q.weight", y, None)]
        _, first, last = across._steps_of(model, 0, reads, ["blk.0.attn_q.weight", "blk.0.attn_k.weight"], leaves=True)
    assert (first.groups, first.before) == ((("blk.0.attn_q.weight",), ("blk.0.attn_k.weight",)), ())
    assert last.groups == ()


def test_inputs_of_experts_are_paired_by_token_and_expert():
    x = np.arange(6, dtype=np.float32).reshape(6, 1)  # 3 tokens, 2 experts each
    y = x + 10
    experts = np.array([[0, 1], [1, 2], [0, 2]])
    others = np.array([[1, 0], [1, 3], [2, 0]])
    found = {expert: (a[:, 0].tolist(), b[:, 0].tolist()) for expert, a, b in across._pairs(x, experts, y, others)}
    # Token 1 does not reach expert 3 in the model as it is, so its row counts as the same.
    assert found == {0: ([0, 4], [11, 15]), 1: ([1, 2], [10, 12]), 2: ([5], [14]), 3: ([13], [13])}
    shared = {e: (a[:, 0].tolist(), b[:, 0].tolist()) for e, a, b in across._pairs(x[:3], experts, y[:3], others)}
    assert shared == {0: ([0, 2], [10, 12]), 1: ([0, 1], [10, 11]), 2: ([2], [12]), 3: ([1], [11])}


@pytest.mark.parametrize("name", NAMES)
def test_the_importance_is_that_of_the_model_as_it_is(models, at, name):
    with quantreg.load(models / f"{name}.gguf") as model, TemporaryFile() as spill:
        calibration = Calibration.cut(model, CALIBRATION, N_CTX, 40)
        one, other = Collected(model), Collected(model)
        for _ in walk(model, calibration, (), one):
            pass
        both = Both(model, calibration, {}, other, spill)
        wanted = [n for n in model.matrices if "attn" in n]
        for step in steps(model, calibration, wanted, True):
            for _ in both.take(step, encoded(model, step.before[:1])):
                pass
        one.write(at / "one.gguf", calibration, ["text"])
        other.write(at / "other.gguf", calibration, ["text"])
    assert digest("one.gguf") == digest("other.gguf")


# ---- the bytes ----


def test_the_bytes_do_not_depend_on_threads_processes_or_the_executor(models, at):
    source = models / "llama-experts.gguf"
    for threads in (1, 3):
        quantreg.quantize_file(source, f"{threads}.gguf", "Q4_0", threads=threads, **GIVEN)
    with ThreadPoolExecutor(2) as pool:
        quantreg.quantize_file(source, "pool.gguf", "Q4_0", executor=pool, **GIVEN)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        quantreg.quantize_file(source, "processes.gguf", "Q4_0", executor=pool, **GIVEN)
    for name in ("1", "3", "pool", "processes"):
        assert digest(f"{name}.gguf") == digest(models / "llama-experts-Q4_0.gguf")
    assert left_over(at) == []


@pytest.mark.parametrize("name", ["llama-tied", "llama-experts"])
def test_several_outputs_have_the_bytes_of_single_runs(models, at, name):
    quantreg.quantize_file(models / f"{name}.gguf", "Q5_0.gguf", "Q5_0", **GIVEN)
    events = []
    quantreg.quantize_files(
        models / f"{name}.gguf", "out-{type}.gguf", ["Q5_0", "Q4_0"], progress=events.append, **GIVEN
    )
    assert digest("out-Q5_0.gguf") == digest("Q5_0.gguf")
    assert digest("out-Q4_0.gguf") == digest(models / f"{name}-Q4_0.gguf")
    done = [event for event in events if isinstance(event, Calibrating)]
    assert [event.done for event in done] == sorted(event.done for event in done)
    assert {event.total for event in done} == {done[-1].done}


def test_states_that_go_to_a_file_give_the_same_bytes(models, at, monkeypatch):
    monkeypatch.setattr("quantreg.tuning.statistics.MEMORY", 0)
    quantreg.quantize_file(models / "llama.gguf", "out.gguf", "Q4_0", **GIVEN)
    assert digest("out.gguf") == digest(models / "llama-Q4_0.gguf")


def test_a_device_gives_the_same_predictions(models, at):
    pytest.importorskip("torch")
    source = models / "llama-experts.gguf"
    quantreg.quantize_file(source, "out.gguf", "Q4_0", device="torch:cpu", **GIVEN)
    kl = [
        quantreg.kl_divergence(path, source, OTHER, n_ctx=N_CTX).kl_mean
        for path in ("out.gguf", models / "llama-experts-Q4_0.gguf")
    ]
    assert kl[0] == pytest.approx(kl[1], rel=0.2)


# ---- runs that end early ----


class Stop(Exception):  # noqa: N818
    pass


class Stopping:
    """Ends a run when so many tensors are encoded."""

    def __init__(self, nth):
        self.nth, self.seen = nth, []

    def __call__(self, event):
        if isinstance(event, TensorTuned):
            self.seen.append(event.tuned)
            if len(self.seen) == self.nth:
                raise Stop


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nth", [1, 2, 6, 12])
def test_a_run_that_ends_early_goes_on_to_the_same_bytes(models, at, name, nth):
    source = models / f"{name}.gguf"
    stopping = Stopping(nth)
    with pytest.raises(Stop):
        quantreg.quantize_file(source, "out.gguf", "Q4_0", resumable=True, progress=stopping, **GIVEN)
    with pytest.raises(OutputError, match="begun with another across_layers"):
        quantreg.quantize_file(source, "out.gguf", "Q4_0", resume=True, **ALONE)
    after = []
    result = quantreg.quantize_file(source, "out.gguf", "Q4_0", resume=True, progress=after.append, **GIVEN)
    assert digest("out.gguf") == digest(models / f"{name}-Q4_0.gguf")
    again = [event.tuned for event in after if isinstance(event, TensorTuned)]
    assert sorted(one.name for one in stopping.seen + again) == sorted(one.name for one in result.tuned)
    assert left_over(at) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signal")
def test_a_run_that_is_killed_in_each_phase_goes_on_to_the_same_bytes(models, at):
    source = models / "llama.gguf"
    quantreg.quantize_file(source, "whole.gguf", target_size=60_000, **GIVEN)
    np.save("ids.npy", CALIBRATION)
    for phase, nth in (("errors", 3), ("feedback", 2), ("TensorTuned", 4), ("feedback", 20), ("Advanced", 4)):
        kill("quantize_file", [str(source), "out.gguf"], phase, nth, target_size=60_000)
    again = []
    quantreg.quantize_file(source, "out.gguf", target_size=60_000, resume=True, progress=again.append, **GIVEN)
    assert not any(isinstance(event, TensorTuned) for event in again)
    assert digest("out.gguf") == digest("whole.gguf")
    assert left_over(at) == []


def test_types_with_parameters_and_models_that_hold_some(at):
    small_models.write(small_models.decoder("wide", "llama", width=64, ff=128, layers=2), "wide.gguf")
    for source, file_type in (("wide.gguf", "NVFP4"), ("NVFP4.gguf", "Q4_0")):
        options = {"allow_requantize": True, "pure": True, **GIVEN}
        result = quantreg.quantize_file(source, f"{file_type}.gguf", file_type, **options)
        assert sum(one.kept for one in result.tuned) > len(result.tuned) / 2
        with pytest.raises(Stop):
            quantreg.quantize_file(
                source, "out.gguf", file_type, force=True, resumable=True, progress=Stopping(9), **options
            )
        quantreg.quantize_file(source, "out.gguf", file_type, resume=True, force=True, **options)
        assert digest("out.gguf") == digest(f"{file_type}.gguf")


# ---- the options ----


def test_the_command_has_the_option(models, at):
    (at / "ids.txt").write_text(" ".join(map(str, CALIBRATION.tolist())))
    source = str(models / "llama.gguf")
    text = ["--calibration", "ids.txt", "--ids", "-c", str(N_CTX), "--chunks", "40"]
    quantreg.quantize_file(source, "python.gguf", "Q4_0", datasets=["ids.txt"], **GIVEN)
    for option in ([], ["--across-layers"]):
        assert cli.main(["quantize", *text, *option, "--force", source, "out.gguf", "Q4_0"]) == 0
        assert digest("out.gguf") == digest("python.gguf")


def test_it_needs_a_calibration_text(models, at, capsys):
    source = str(models / "llama.gguf")
    assert cli.main(["quantize", "--no-across-layers", source, "out.gguf", "Q4_0"]) == 2
    assert "--across-layers is about a calibration text" in capsys.readouterr().err
    with pytest.raises(PlanError, match="across_layers is about a calibration text"):
        quantreg.quantize_file(source, "out.gguf", "Q4_0", across_layers=False)
