"""quantreg evaluate: the figures, the sample, and every form of output."""

import csv
import io
import json
import re

import numpy as np
import pytest
import small_model
import toy

import quantreg
from quantreg import CodecError, ImportanceMatrix, PlanError, UnknownTypeError
from quantreg.evaluation import evaluate
from quantreg.recipes import file_types

NAME = "blk.0.attn_q.weight"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluate") / "small.gguf"
    small_model.write_model(path)
    small_model.write_imatrix(path.parent / "imatrix.gguf")
    return path


@pytest.fixture
def one(tmp_path):
    """A model of one matrix, and that matrix."""
    x = small_model.noise(3, (64, 512)).astype(np.float16)
    quantreg.write(tmp_path / "one.gguf", {"general.architecture": "llama"}, {NAME: x, "norm": np.ones(4, np.float32)})
    return tmp_path / "one.gguf", x.astype(np.float32)


def test_the_figures_are_those_of_the_decoded_weights(one):
    path, x = one
    columns = small_model.noise(4, (512,)) ** 2 + np.float32(0.1)
    found = evaluate(path, ["Q4_K"], ImportanceMatrix({NAME: columns.reshape(1, -1)}))
    back = quantreg.dequantize(quantreg.quantize(x, "Q4_K", columns), "Q4_K").astype(np.float64)
    lost = (back - x) ** 2
    (total,) = found.totals
    (tensor,) = found.tensors
    assert (total.tensor, tensor.tensor, total.weights) == (None, NAME, x.size)
    for measure in (total, tensor):
        assert measure.bits_per_weight == 4.5
        assert measure.rmse == pytest.approx(np.sqrt(lost.mean()))
        assert measure.error == pytest.approx(np.sqrt(lost.sum() / np.square(x, dtype=np.float64).sum()))
        weighted = (columns * lost).sum() / (columns * np.square(x, dtype=np.float64)).sum()
        assert measure.weighted_error == pytest.approx(np.sqrt(weighted))
        assert measure.max_error == pytest.approx(np.sqrt(lost.max()))
        assert measure.cosine == pytest.approx(
            (x * back).sum() / np.sqrt((x.astype(float) ** 2).sum() * (back**2).sum())
        )
        assert measure.encode_speed > 0
        assert measure.decode_speed > 0


def test_without_importance_the_weighted_error_is_the_error(one):
    (total,) = evaluate(one[0], ["Q4_K"]).totals
    assert total.weighted_error == pytest.approx(total.error)


def test_a_row_header_counts_as_bits(one):
    qtype = toy.make_with_header()
    (total,) = evaluate(one[0], [qtype]).totals
    assert total.bits_per_weight == 3.5 + 32 / 512


def test_the_sample_is_random_rows_and_the_same_for_the_same_seed(model):
    def figures(**options):
        return [(m.tensor, m.weights, m.error) for m in evaluate(model, ["Q8_0"], **options).tensors]

    few = figures(sample=20000)
    assert few == figures(sample=20000)
    assert few != figures(sample=20000, seed=1)
    assert 15000 < sum(weights for _, weights, _ in few) < 30000
    assert {name for name, *_ in few} == {n for n, x in small_model.tensors().items() if x.ndim == 2}
    assert all(weights >= 256 for _, weights, _ in figures(sample=1))


def test_rows_of_experts_are_weighted_by_their_own_statistics(tmp_path):
    name = "blk.0.ffn_up_exps.weight"
    x = small_model.noise(5, (3, 8, 256))
    columns = small_model.noise(6, (3, 256)) ** 2 + np.float32(0.1)
    quantreg.write(tmp_path / "moe.gguf", {"general.architecture": "llama"}, {name: x})
    (total,) = evaluate(tmp_path / "moe.gguf", ["Q4_K"], ImportanceMatrix({name: columns})).totals
    lost = (quantreg.dequantize(quantreg.quantize(x, "Q4_K", columns), "Q4_K") - x) ** 2
    expected = (columns[:, None] * lost).sum() / (columns[:, None] * x**2).sum()
    assert total.weighted_error == pytest.approx(np.sqrt(expected), rel=1e-5)


def test_tensors_that_do_not_divide_are_left_out_and_named(model):
    found = evaluate(model, ["Q4_K"], sample=20000)
    reason = "a row has 288 weights, which is not a multiple of the block size 256"
    assert ("Q4_K", "blk.0.ffn_down.weight", reason) in found.skipped
    assert len(found.skipped) == small_model.N_LAYER


def test_what_cannot_be_evaluated_raises_a_clear_error(model, tmp_path):
    with pytest.raises(UnknownTypeError, match="did you mean Q4_K"):
        evaluate(model, ["Q4KK"])
    with pytest.raises(CodecError, match="TOY3 can only be decoded"):
        evaluate(model, [toy.make(encode=None)])
    with pytest.raises(CodecError, match="TOY3 cannot be encoded without importance: give an imatrix"):
        evaluate(model, [toy.make(requires_importance=True)])
    quantreg.write(tmp_path / "none.gguf", {"general.architecture": "llama"}, {"norm": np.ones(4, np.float32)})
    with pytest.raises(PlanError, match="no matrices"):
        evaluate(tmp_path / "none.gguf", ["Q4_K"])


def test_a_type_that_needs_importance_is_measured_where_the_imatrix_covers_it(model):
    qtype = toy.make(requires_importance=True)
    found = evaluate(model, [qtype], model.parent / "imatrix.gguf", sample=20000)
    assert {name for _, name, _ in found.skipped} == {"output.weight", "token_embd.weight"}
    assert found.totals[0].weights > 0


def test_a_file_type_gives_each_tensor_its_type_and_has_the_size_of_the_whole_model(model, tmp_path):
    found = evaluate(model, ["Q4_K_M", "Q4_K"], model.parent / "imatrix.gguf", sample=10**9)
    mixed, plain = found.totals
    assert (mixed.type, mixed.file_type, mixed.encoded_as) == ("Q4_K_M", True, None)
    assert (plain.type, plain.file_type, plain.encoded_as) == ("Q4_K", False, "Q4_K")
    result = quantreg.quantize_file(model, tmp_path / "out.gguf", "Q4_K_M", imatrix=model.parent / "imatrix.gguf")
    assert mixed.bits_per_weight == result.plan.bits_per_weight
    types = {m.tensor: m.encoded_as for m in found.tensors if m.type == "Q4_K_M"}
    assert types == {t.name: t.to_type for t in result.plan.tensors if len(t.dims) > 1}
    assert len(set(types.values())) > 1
    lost = total = 0.0
    with quantreg.open(model) as a, quantreg.open(tmp_path / "out.gguf") as b:
        for name in types:
            x = a[name].dequantize().astype(np.float64)
            lost += np.square(x - b[name].dequantize()).sum()
            total += np.square(x).sum()
    assert mixed.error == pytest.approx(np.sqrt(lost / total))
    assert mixed.weights == sum(np.prod(t.shape) for t in result.plan.tensors if len(t.dims) > 1)


def test_a_tensor_that_a_file_type_keeps_has_no_error_and_no_speed(model):
    found = evaluate(model, ["F16"], sample=20000)  # the type: everything is encoded
    assert found.totals[0].encode_speed > 0
    found = evaluate(model, [file_types["COPY"]], sample=20000)
    (total,) = found.totals
    assert (total.error, total.encode_speed, total.decode_speed) == (0.0, 0.0, 0.0)
    with quantreg.open(model) as opened:
        sizes = [(tensor.nbytes, np.prod(tensor.shape)) for tensor in opened.values()]
    assert total.bits_per_weight == 8 * sum(n for n, _ in sizes) / sum(n for _, n in sizes)


def test_a_type_and_a_file_type_of_one_name_are_told_apart(model):
    found = evaluate(model, ["Q4_0", file_types["Q4_0"], "Q4_0"], sample=20000)
    assert [total.type for total in found.totals] == ["Q4_0", "Q4_0 (file type)"]


def test_a_file_type_that_quantize_would_refuse_is_not_measured(tmp_path):
    x = small_model.noise(1, (4, 256))
    names = ("model.layers.0.mlp.up_proj.weight", "double_blocks.0.img_mlp.0.weight")
    for name, path in zip(names, (tmp_path / "hf.gguf", tmp_path / "image.gguf"), strict=True):
        quantreg.write(path, {"general.architecture": "llama"}, {name: x})
    with pytest.raises(PlanError, match="Hugging Face name") as refused:
        evaluate(tmp_path / "hf.gguf", ["Q4_K_M"])
    found = evaluate(tmp_path / "hf.gguf", ["Q4_K_M", "Q4_K"])
    assert [total.type for total in found.totals] == ["Q4_K"]
    assert found.failed[0].reason == str(refused.value)
    with pytest.raises(PlanError) as same:
        quantreg.plan(tmp_path / "hf.gguf", "Q4_K_M")
    assert str(same.value) == str(refused.value)
    assert len(evaluate(tmp_path / "image.gguf", ["Q4_K_M"]).totals) == 1  # its names are no mistake


def test_safetensors_can_be_evaluated(run, tmp_path):
    x = small_model.noise(3, (64, 512)).astype(np.float16)
    quantreg.write(tmp_path / "m.gguf", {"general.architecture": "llama"}, {NAME: x})
    quantreg.export(tmp_path / "m.gguf", tmp_path / "m.safetensors", dtype="F16")
    one, other = (evaluate(tmp_path / f"m.{suffix}", ["Q4_K", "Q4_K_M"]) for suffix in ("gguf", "safetensors"))
    figures = [[(m.type, m.bits_per_weight, m.error) for m in found.totals] for found in (one, other)]
    assert figures[0] == figures[1]
    assert run("evaluate", "Q4_K", "--on", tmp_path / "m.safetensors")[0] == 0


def broken(rows, importance):
    raise ZeroDivisionError("scale")


def test_types_that_fail_are_named_and_the_others_are_measured(run, model):
    never = toy.make(encode=broken, name="NEVER", type_id=3001)
    some = toy.make(
        encode=lambda rows, importance: broken(rows, importance) if len(rows) > 1 else toy.encode(rows, importance),
        name="SOME",
        type_id=3002,
    )
    found = evaluate(model, ["Q4_K_M", "IQ2_XXS", never, some, "Q8_0", "IQ1_S"], sample=20000)
    assert [total.type for total in found.totals] == ["Q4_K_M", "SOME", "Q8_0"]
    reasons = dict(found.failed)
    assert reasons.keys() == {"IQ2_XXS", "NEVER", "IQ1_S"}
    assert reasons["IQ2_XXS"] == "IQ2_XXS cannot be encoded without importance: give an imatrix"
    assert "ZeroDivisionError: scale" in reasons["NEVER"]
    assert {skip.type for skip in found.skipped} == {"SOME"}
    assert "ZeroDivisionError: scale" in found.skipped[0].reason
    assert found.to_dict()["failed"][0] == {"type": "IQ2_XXS", "reason": reasons["IQ2_XXS"]}
    code, out, err = run("evaluate", "Q4_K_M", "IQ2_XXS", "Q8_0", "--on", model, "--sample", "20k")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["TYPE", "Q4_K_M", "Q8_0"]
    assert err == "IQ2_XXS cannot be encoded without importance: give an imatrix\n"


def test_a_type_that_fits_no_tensor_has_failed(run, tmp_path):
    quantreg.write(tmp_path / "x.gguf", {"general.architecture": "llama"}, {NAME: small_model.noise(1, (4, 32))})
    code, out, err = run("evaluate", "Q4_K", "Q8_0", "--on", tmp_path / "x.gguf", "--json")
    assert code == 1
    data = json.loads(out)
    assert [entry["type"] for entry in data["types"]] == ["Q8_0"]
    (failed,) = data["failed"]
    assert failed["type"] == "Q4_K"
    assert "no tensor could be encoded: a row has 32 weights" in failed["reason"]
    assert failed["reason"] in err


def test_the_conditions_say_how_to_repeat_an_evaluation(model):
    found = evaluate(model, ["Q8_0", toy.make()], sample=20000, seed=7)
    conditions = found.to_dict()["conditions"]
    assert (conditions["sample"], conditions["seed"], conditions["architecture"]) == (20000, 7, "llama")
    assert conditions["versions"]["quantreg"] == quantreg.__version__
    assert {"Python", "NumPy"} <= conditions["versions"].keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", conditions["date"])
    assert conditions["cpu"]
    assert json.loads(json.dumps(conditions)) == conditions
    assert len(repr(found)) < 200


def test_progress_counts_every_weight_of_every_type(model):
    steps = []
    found = evaluate(model, ["Q8_0", "Q4_K_M"], sample=20000, progress=steps.append)
    assert [(step.tensor, step.type) for step in steps][:2] == [("output.weight", "Q8_0"), ("output.weight", "Q4_K_M")]
    assert steps[0].done == 0
    assert steps[0].total == 2 * found.totals[0].weights
    assert [step.done for step in steps] == sorted({step.done for step in steps})
    last = [m for m in found.tensors if m.type == "Q4_K_M"][-1]
    assert steps[-1].done + last.weights == steps[-1].total


def test_a_long_evaluation_without_a_terminal_tells_its_progress_in_lines(run, model, monkeypatch):
    monkeypatch.setattr("quantreg.cli.evaluate._QUIET", 0.0)
    _, out, err = run("evaluate", "Q8_0", "--on", model, "--sample", "20k", "--json")
    assert json.loads(out)["types"]
    assert re.search(r"^\[ *\d+%\] Q8_0 on blk\.0\.attn_q\.weight$", err, re.MULTILINE)
    monkeypatch.setattr("quantreg.cli.evaluate._QUIET", 60.0)
    assert run("evaluate", "Q8_0", "--on", model, "--sample", "20k")[2] == ""


def test_the_table_is_ordered_by_size(run, model):
    code, out, err = run("evaluate", "Q8_0", "Q4_K", "q2_k", "--on", model, "--sample", "20k")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["TYPE", "Q2_K", "Q4_K", "Q8_0"]
    assert lines[2].split()[1] == "4.5"
    assert "Q4_K could not encode blk.0.ffn_down.weight and 3 more: a row has 288 weights" in err
    assert NAME in run("evaluate", "Q8_0", "--on", model, "--sample", "20k", "--tensors")[1]


def test_json_and_csv_hold_the_same_figures(run, model):
    args = ("evaluate", "Q8_0", "Q4_K", "--on", model, "--sample", "20k", "--imatrix", model.parent / "imatrix.gguf")
    data = json.loads(run(*args, "--json")[1])
    rows = list(csv.DictReader(io.StringIO(run(*args, "--csv")[1])))
    assert set(data) == {"file", "imatrix", "conditions", "types", "tensors", "skipped", "failed"}
    assert [t["type"] for t in data["types"]] == ["Q8_0", "Q4_K"]
    assert len(rows) == len(data["tensors"])
    for row, tensor in zip(rows, data["tensors"], strict=True):
        assert set(row) == set(tensor)
        for field in ("type", "tensor", "weights", "error", "weighted_error", "max_error"):
            assert row[field] == str(tensor[field])


def test_wrong_usage_gets_a_clear_message(run, model):
    assert run("evaluate", "Q4_K")[0] == 2
    assert run("evaluate", "Q4_K", "--on", model, "--json", "--csv")[0] == 2
    assert run("evaluate", "Q4_K", "--on", model, "--sample", "lots")[0] == 2
    code, _, err = run("evaluate", "Q4_K", "--on", "none.gguf")
    assert code == 1
    assert "none.gguf" in err


def test_the_demo_states_its_figures_as_json(run):
    code, out, err = run("demo", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    bits = [entry["bits_per_weight"] for entry in data["types"]]
    assert bits == sorted(bits, reverse=True)
    errors = [entry["error"] for entry in data["types"]]
    assert 0 < errors[0] < 0.01 < errors[-1] < 0.5
    assert data["weights"] > 10**7
