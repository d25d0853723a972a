"""The search for types: exact file sizes, constraints, and what it measures."""

import numpy as np
import pytest
import small_models

import quantreg
from quantreg.errors import PlanError
from quantreg.jobs.budget import budget_for
from quantreg.jobs.planning import rehearse
from quantreg.recipes import OpenPlan, PlanOptions
from quantreg.tensor import QuantizedTensor
from quantreg.tuning import search as search_module
from quantreg.tuning import sensitivity
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.search import search


def written(folder, *, width=256, ff=512, name="llama", **sizes):
    path = folder / "small.gguf"
    small = small_models.decoder(name, "llama", width=width, ff=ff, vocab=128, **sizes)
    small_models.write(small, path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return written(tmp_path_factory.mktemp("model"))


def some_tokens(n=640, seed=1):
    return np.random.default_rng(seed).zipf(1.3, n).clip(1, 127).astype(np.int64)


def found(source, *, size=None, bpw=None, calibrated=False, imatrix=None, options=None, base="Q4_K", **more):
    """(what a search finds, the plan with those types)."""
    rehearsal = rehearse(source, base, imatrix, options or PlanOptions())
    draft = OpenPlan(rehearsal.plan, rehearsal.source, rehearsal.imatrix)
    budget = budget_for(rehearsal, size=size, bpw=bpw)
    if calibrated:
        with quantreg.load(source, threads=2) as model:
            calibration = Calibration.cut(model, some_tokens(), n_ctx=32)
            result = search(draft, model.tensors, budget, model=model, calibration=calibration, **more)
    else:
        with quantreg.open(source) as file:
            result = search(draft, file, budget, imatrix=rehearsal.imatrix, **more)
    return result, draft.retyped(result.decisions)


def an_imatrix(source):
    with quantreg.open(source) as file:
        return {
            name: np.random.default_rng(i).uniform(0.1, 4, tensor.shape[-1]).astype(np.float32)
            for i, (name, tensor) in enumerate(file.items())
            if name.startswith("blk.") and tensor.ndim == 2
        }


@pytest.mark.parametrize("fraction", [0.1, 0.12, 0.15, 0.18, 0.22])
def test_the_file_takes_exactly_the_bytes_that_were_found_and_uses_the_target(source, tmp_path, fraction):
    target = int(source.stat().st_size * fraction)
    result, plan = found(source, size=target)
    quantreg.quantize_file(source, tmp_path / "out.gguf", plan)
    size = (tmp_path / "out.gguf").stat().st_size
    assert size == result.size <= target
    assert size >= 0.998 * target or result.gap
    assert not quantreg.validate(tmp_path / "out.gguf").problems


def test_bits_per_weight_count_the_tensor_data_over_all_weights(source):
    result, plan = found(source, bpw=4.6)
    assert plan.bytes == result.size
    assert 4.6 * 0.99 <= plan.bits_per_weight <= 4.6


def test_a_larger_target_never_has_a_larger_loss(source):
    size = source.stat().st_size
    losses = [found(source, size=int(size * f))[0].loss for f in (0.1, 0.13, 0.17, 0.21)]
    assert losses == sorted(losses, reverse=True)


def test_a_target_that_is_too_small_says_what_the_smallest_would_be(source, tmp_path):
    with pytest.raises(PlanError, match=r"the file cannot have 100,000 bytes.* it takes [\d,]+\.") as caught:
        found(source, size=100_000)
    smallest = int(str(caught.value).split("takes ")[1].split(".")[0].replace(",", ""))
    result, plan = found(source, size=smallest)
    quantreg.quantize_file(source, tmp_path / "out.gguf", plan)
    assert (tmp_path / "out.gguf").stat().st_size == result.size == smallest
    with pytest.raises(PlanError, match=f"{smallest:,}"):
        found(source, size=smallest - 1)


def test_more_than_all_tensors_can_use_is_said(source):
    result, _ = found(source, size=source.stat().st_size)
    assert "every tensor has the best of its types" in result.gap
    assert set(result.types.values()) == {"Q8_0"}


def test_options_that_name_types_are_constraints(source):
    options = PlanOptions(tensor_types={"attn_v": "Q6_K"}, output_tensor_type="Q8_0", token_embedding_type="Q5_K")
    result, plan = found(source, size=int(source.stat().st_size * 0.16), options=options)
    assert not {name for name in result.types if "attn_v" in name or "blk" not in name}
    assert {plan[f"blk.{i}.attn_v.weight"].to_type for i in range(2)} == {"Q6_K"}
    assert (plan["output.weight"].to_type, plan["token_embd.weight"].to_type) == ("Q8_0", "Q5_K")


def test_leave_output_tensor_and_pure_work_with_a_search(source):
    options = PlanOptions(leave_output_tensor=True, pure=True)
    result, plan = found(source, size=int(source.stat().st_size * 0.19), options=options)
    assert not plan["output.weight"].converted
    assert "output.weight" not in result.types
    assert "token_embd.weight" in result.types


def test_without_any_free_tensor_the_search_refuses(source):
    options = PlanOptions(tensor_types={".*": "Q6_K"}, output_tensor_type="Q8_0", token_embedding_type="Q8_0")
    with pytest.raises(PlanError, match="no tensor is free"):
        found(source, size=10**6, options=options)


def test_only_the_types_that_were_named_are_used(source):
    result, _ = found(source, size=int(source.stat().st_size * 0.17), types=["q4_K", "Q6_K"])
    assert set(result.types.values()) == {"Q4_K", "Q6_K"}


def test_types_that_need_importance_are_used_only_where_there_is_some(source):
    size = int(source.stat().st_size * 0.085)
    without, plan = found(source, size=int(1.3 * size))
    assert not {"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"} & {without.types[n] for n in without.types if "blk" in n}
    result, plan = found(source, size=size, imatrix=an_imatrix(source))
    assert {"IQ2_XXS", "IQ2_XS"} & set(result.types.values())
    assert not plan.problems
    assert all(plan[name].importance for name, qtype in result.types.items() if qtype in ("IQ2_XXS", "IQ2_XS"))


def test_rows_of_other_lengths_get_types_that_fit_them(tmp_path):
    path = written(tmp_path, width=96, ff=160, heads=4)
    result, plan = found(path, size=int(path.stat().st_size * 0.19))
    assert set(result.types.values()) <= {"Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
    quantreg.quantize_file(path, tmp_path / "out.gguf", plan)
    assert (tmp_path / "out.gguf").stat().st_size == result.size


def test_the_three_ways_say_which_they_are(source):
    size = int(source.stat().st_size * 0.12)
    assert found(source, size=size)[0].way == "weights"
    assert found(source, size=size, imatrix=an_imatrix(source))[0].way == "imatrix"
    result, _ = found(source, size=size, calibrated=True)
    assert (result.way, "KL divergence" in result.how) == ("calibration", True)


def test_a_search_with_a_text_finds_the_same_each_time_and_fits(source, tmp_path):
    size = int(source.stat().st_size * 0.11)
    first, plan = found(source, size=size, calibrated=True)
    second, _ = found(source, size=size, calibrated=True)
    assert first.types == second.types
    quantreg.quantize_file(source, tmp_path / "out.gguf", plan)
    assert (tmp_path / "out.gguf").stat().st_size == first.size <= size
    assert 0 < first.loss < 10
    assert all("of the predicted loss" in reason for reason in first.reasons.values())


def test_a_tied_embedding_and_stacks_of_experts_get_types(tmp_path):
    path = tmp_path / "small.gguf"
    small = small_models.experts(small_models.decoder("tied", "llama", width=256, ff=256, vocab=128, tied=True), n=4)
    small_models.write(small, path)
    result, plan = found(path, size=int(path.stat().st_size * 0.16), calibrated=True)
    assert "token_embd.weight" in result.types
    assert any("exps" in name for name in result.types)
    quantreg.quantize_file(path, tmp_path / "out.gguf", plan)
    assert (tmp_path / "out.gguf").stat().st_size == result.size


def test_a_tuning_cache_spares_the_measurements_and_changes_nothing(source, tmp_path, monkeypatch):
    size, cache = int(source.stat().st_size * 0.11), tmp_path / "tuning.npz"
    first, _ = found(source, size=size, calibrated=True, cache=cache)
    asked = []
    monkeypatch.setattr("quantreg.tuning.search.output_errors", lambda *a: asked.append(a) or iter(()))
    monkeypatch.setattr("quantreg.tuning.sensitivity.perplexity", lambda *a, **k: asked.append(a))
    again, _ = found(source, size=size, calibrated=True, cache=cache)
    assert again == first
    assert not asked


def test_a_tuning_cache_of_another_text_or_model_is_refused_and_kept(source, tmp_path):
    size, cache = int(source.stat().st_size * 0.16), tmp_path / "tuning.npz"
    found(source, size=size, cache=cache)
    before = cache.read_bytes()
    with pytest.raises(PlanError, match="another calibration text"):
        found(source, size=size, calibrated=True, cache=cache)
    other = written(tmp_path, layers=3)
    with pytest.raises(PlanError, match="another model"):
        found(other, size=size * 2, cache=cache)
    assert cache.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a cache", b"PK\3\4 broken"])
def test_a_file_that_is_no_tuning_cache_is_refused_and_kept(source, tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(PlanError, match="not a tuning cache"):
        found(source, size=int(source.stat().st_size * 0.16), cache=path)
    assert path.read_bytes() == content


# ---- many tensors, and few bits ----


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Twelve layers: a model with more tensors than there is time to probe each."""
    return written(tmp_path_factory.mktemp("deep"), width=64, ff=96, heads=4, layers=12, name="deep")


def test_tensors_of_a_model_with_many_are_probed_in_groups_within_the_work_that_is_allowed(deep, monkeypatch):
    costs, steps = [], []
    told = {"announce": costs.append, "progress": lambda *step: steps.append(step)}
    size = int(deep.stat().st_size * 0.16)
    one_by_one, _ = found(deep, size=size, calibrated=True, **told)
    assert [cost.runs for cost in costs] == [12 * 7 + 2 + 2]  # and the model as it is, twice
    all_of_it = costs[0].multiplications
    costs.clear()
    monkeypatch.setattr(sensitivity, "MOST_WORK", all_of_it / 2)
    grouped, _ = found(deep, size=size, calibrated=True, **told)
    assert len(costs) == 1
    assert costs[0].tensors == 12 * 7 + 2
    assert costs[0].runs == 3 * 7 + 2 + 2  # each role in each third, the output and the embeddings
    assert costs[0].multiplications <= all_of_it / 2
    assert "86 tensors are probed: 25 runs of the model" in str(costs[0])
    probes = [step for step in steps[-25:] if step[0] == "sensitivities"]
    assert probes[-1] == ("sensitivities", 23, 23)
    # The result is close to that of all single probes, by the losses that these measured.
    losses = {name: {c.type: c.loss for c in choices} for name, choices in one_by_one.choices.items()}
    total = sum(losses[name][kind] for name, kind in grouped.types.items())
    assert grouped.size <= size
    assert total < 1.5 * one_by_one.loss
    again, _ = found(deep, size=size, calibrated=True)
    assert again.types == grouped.types


def test_work_that_allows_few_chunks_takes_two(deep, monkeypatch):
    costs = []
    monkeypatch.setattr(sensitivity, "MOST_WORK", 1.0)
    result, _ = found(deep, size=int(deep.stat().st_size * 0.16), calibrated=True, announce=costs.append)
    assert costs[0].chunks == 2
    assert "on 2 chunks" in result.how


def test_below_a_few_bits_the_model_is_probed_again_and_the_cost_is_told_first(source, monkeypatch):
    told = []
    told_of = {"announce": told.append, "progress": lambda *step: told.append(step)}
    result, _ = found(source, bpw=2.7, calibrated=True, **told_of)
    costs = [event for event in told if not isinstance(event, tuple)]
    assert [cost.again for cost in costs] == [False, True]
    assert costs[1].runs == search_module.ROUNDS * (len(result.types) + 1)
    assert str(costs[1]).startswith(f"the types are probed again: at most {costs[1].runs} runs of the model")
    at = told.index(costs[1])
    assert {step[0] for step in told[:at] if isinstance(step, tuple)} == {"errors", "sensitivities"}
    assert {step[0] for step in told[at + 1 :]} == {"solution"}
    # What is found is no worse, measured as a whole, than what is found without.
    monkeypatch.setattr(search_module, "LOW", 0.0)
    once, _ = found(source, bpw=2.7, calibrated=True)
    assert result.size <= once.size * 1.01
    with quantreg.load(source, threads=2) as model:
        calibration = Calibration.cut(model, some_tokens(), n_ctx=32)
        with sensitivity.Sensitivity(model, calibration, 2) as measured:
            both = [measured.divergence(stand_ins(model, one)) for one in (result, once)]
    assert both[0] <= 1.1 * both[1]


def stand_ins(model, one):
    return {
        name: QuantizedTensor.from_array(
            name, model.tensors[name].dequantize(), kind, np.ones(model.tensors[name].shape[-1], np.float32)
        )
        for name, kind in one.types.items()
    }


def test_a_tuning_cache_spares_the_cost_and_it_is_not_told(deep, tmp_path):
    costs, cache = [], tmp_path / "tuning.npz"
    size = int(deep.stat().st_size * 0.16)
    found(deep, size=size, calibrated=True, cache=cache, announce=costs.append)
    found(deep, size=size + 5000, calibrated=True, cache=cache, announce=costs.append)
    assert len(costs) == 1


@pytest.mark.parametrize("given", [{"bpw": 0}, {"bpw": -1.0}, {"bpw": 33}, {}, {"bpw": 4, "size": 10**6}])
def test_targets_that_say_nothing_are_refused(source, given):
    with pytest.raises(PlanError, match="target"):
        found(source, **given)
