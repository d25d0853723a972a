"""Plan files: unedited, they give the same bytes; edited, what they say; damaged, a clear error."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import PlanError, QuantregError, cli


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    small_model.write_imatrix(tmp_path / "imatrix.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return cli.main([str(word) for word in words])


def edited(change, path="plan.json"):
    """Call change(data, tensors by name) and write the plan again."""
    data = json.loads(Path(path).read_text())
    change(data, {row["name"]: row for row in data["tensors"]})
    Path(path).write_text(json.dumps(data))


@pytest.mark.parametrize(
    "options",
    [
        [], ["--imatrix", "imatrix.gguf"], ["--imatrix", "imatrix.gguf", "--exclude-weights", "attn_q"],
        ["--prune-layers", "1"], ["--override-kv", "general.name=str:ö", "--override-kv", "a.b=float:0.1"],
        ["--tensor-type", "attn_v=q8_0", "--pure"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_unedited_plan_gives_the_same_bytes_as_no_plan(at, options):
    assert run("quantize", *options, "small.gguf", "direct.gguf", "Q4_K_M") == 0
    assert run("plan", *options, "small.gguf", "Q4_K_M", "-o", "plan.json") == 0
    assert run("quantize", "--plan", "plan.json", "small.gguf", "planned.gguf", "2") == 0
    assert Path("planned.gguf").read_bytes() == Path("direct.gguf").read_bytes()


def test_a_kept_split_is_part_of_the_plan(at):
    first = quantreg.split("small.gguf", "in", split_max_tensors=20).path
    assert run("plan", "--keep-split", first, "Q8_0", "-o", "plan.json") == 0
    assert run("quantize", "--plan", "plan.json", first, "out.gguf") == 0
    with quantreg.open("out-00001-of-00002.gguf") as model:
        assert [len(header.tensors) for header in model.headers] == [20, 19]


def test_the_file_has_one_line_per_tensor_with_reason_and_size(at):
    plan = quantreg.plan("small.gguf", "Q4_K_M")
    quantreg.write_plan(plan, "plan.json")
    rows = [line for line in Path("plan.json").read_text().splitlines() if line.startswith('    {"name"')]
    assert len(rows) == len(plan.tensors)
    row = json.loads(rows[-1].rstrip(","))
    assert row == {
        "name": "blk.3.ffn_up.weight", "shape": [288, 256], "from": "F16", "to": "Q4_K",
        "reason": plan.tensors[-1].reason, "bytes": plan.tensors[-1].bytes,
    }  # fmt: skip
    assert quantreg.read_plan("plan.json", "small.gguf") == plan


def test_an_edited_type_is_used_with_its_importance(at):
    run("plan", "--imatrix", "imatrix.gguf", "small.gguf", "Q4_K_M", "-o", "plan.json")

    def change(data, tensors):
        tensors["blk.1.attn_q.weight"]["to"] = "q6_K"
        tensors["blk.0.attn_k.weight"]["to"] = "F16"

    edited(change)
    assert run("quantize", "--plan", "plan.json", "small.gguf", "out.gguf") == 0
    columns = quantreg.ImportanceMatrix.read("imatrix.gguf").row("blk.1.attn_q.weight", 256)
    with quantreg.open("small.gguf") as a, quantreg.open("out.gguf") as b:
        assert b["blk.0.attn_k.weight"].type_name == "F16"
        expected = quantreg.quantize(a["blk.1.attn_q.weight"].dequantize(), "Q6_K", columns)
        np.testing.assert_array_equal(b["blk.1.attn_q.weight"].data, expected)
        assert b.metadata["general.file_type"] == 15


def test_a_tensor_without_a_line_is_left_out_with_a_warning(at, capsys):
    run("plan", "small.gguf", "Q8_0", "-o", "plan.json")
    edited(lambda data, tensors: data["tensors"].remove(tensors["output.weight"]))
    assert run("quantize", "--plan", "plan.json", "small.gguf", "out.gguf") == 0
    assert "left out tensors of the model that have no line in the plan: output.weight\n" in capsys.readouterr().err
    with quantreg.open("out.gguf") as model:
        assert "output.weight" not in model


def test_a_dry_run_shows_the_edited_plan(at, capsys):
    run("plan", "small.gguf", "Q8_0", "-o", "plan.json")
    edited(lambda data, tensors: tensors["output.weight"].update(to="Q5_0"))
    capsys.readouterr()
    assert run("quantize", "--dry-run", "--json", "--plan", "plan.json", "small.gguf") == 0
    plan = json.loads(capsys.readouterr().out)
    row = next(row for row in plan["tensors"] if row["name"] == "output.weight")
    assert (row["to"], row["bytes"], row["reason"]) == ("Q5_0", 96 * 256 // 32 * 22, "plan.json: Q5_0")


def test_a_run_with_a_plan_gives_the_warnings_about_the_source_once(at, capsys):
    quantreg.write(
        "long.gguf", {"general.architecture": "llama"}, {"x" * 63 + ".weight": np.ones((2, 256), np.float16)}
    )
    run("plan", "long.gguf", "Q8_0", "-o", "plan.json")
    told = capsys.readouterr().err
    for given in (["--dry-run", "--plan", "plan.json", "long.gguf"], ["--plan", "plan.json", "long.gguf", "out.gguf"]):
        assert run("quantize", *given) == 0
        err = capsys.readouterr().err
        assert "refuses 64 and more" in err
        assert [line for line in err.splitlines() if "warning" in line] == told.splitlines()


def test_a_plan_object_is_carried_out_unchanged(at):
    plan = quantreg.plan("small.gguf", "Q5_K_S", imatrix="imatrix.gguf")
    quantreg.quantize_file("small.gguf", "a.gguf", plan)
    quantreg.quantize_file("small.gguf", "b.gguf", "Q5_K_S", "imatrix.gguf")
    assert Path("a.gguf").read_bytes() == Path("b.gguf").read_bytes()
    with pytest.raises(PlanError, match="pure has no effect on a plan that is already made"):
        quantreg.quantize_file("small.gguf", "c.gguf", plan, pure=True)
    quantreg.quantize_file("small.gguf", "q8.gguf", "Q8_0")
    with pytest.raises(PlanError, match="make a new plan for this model"):
        quantreg.quantize_file("q8.gguf", "c.gguf", plan)


def set_to(name, value):
    return lambda data, tensors: tensors[name].update(to=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("output.weight", "Q9_K"), "unknown quant type 'Q9_K'"),
        (set_to("output.weight", 12), '"to" is 12'),
        (set_to("blk.0.ffn_down.weight", "Q4_K"), "does not fit rows of 288 values"),
        (set_to("blk.0.attn_q.weight", "IQ2_XXS"), "requires an importance matrix"),
        (lambda data, tensors: tensors["output.weight"].update(name="other.weight"), "no such tensor"),
        (lambda data, tensors: tensors["output.weight"].update(shape=[1, 2]), "make a new plan of this model"),
        (lambda data, tensors: tensors["output.weight"].update(name="token_embd.weight"), "two lines"),
        (lambda data, tensors: data["tensors"].append(7), "expected an object"),
        (lambda data, tensors: data["metadata"].append(["a"] * 5), "expected [key, type, value]"),
        (lambda data, tensors: data["metadata"].append(["a", "u8", 700]), "is not a metadata value"),
        (lambda data, tensors: data["options"].update(pure=True), "'pure' is not one of"),
        (lambda data, tensors: data["options"].update(include_weights=5), "options"),
        (lambda data, tensors: data.pop("tensors"), "'tensors' is missing"),
        (lambda data, tensors: data.update(tensors={}), "'tensors' is {}, which has the wrong type"),
        (lambda data, tensors: tensors["output.weight"].update(source=["a"]), "['a']: the model has no such tensor"),
        (lambda data, tensors: data.update(file_type="Q4_K_X"), "unknown file type"),
        (lambda data, tensors: data.update(quantreg_plan=99), "version 99"),
        (lambda data, tensors: data.update(imatrix="gone.gguf"), "gone.gguf"),
    ],
)
def test_an_error_in_a_plan_file_is_reported_in_one_line(at, capsys, change, message):
    run("plan", "small.gguf", "Q4_K_M", "-o", "plan.json")
    edited(change)
    capsys.readouterr()
    assert run("quantize", "--plan", "plan.json", "small.gguf", "out.gguf") == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out.gguf").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '"quantreg_plan"', "[" * 100_000])
def test_a_file_that_is_not_a_plan_is_refused(at, text):
    Path("plan.json").write_text(text)
    with pytest.raises(QuantregError, match=r"plan\.json: is not (a plan|JSON)"):
        quantreg.read_plan("plan.json", "small.gguf")


def test_options_that_the_plan_already_decides_are_a_usage_error(at, capsys):
    run("plan", "small.gguf", "Q4_K_M", "-o", "plan.json")
    for words in (["--pure"], ["--imatrix", "imatrix.gguf"], ["--tensor-type", "a=q8_0"], ["--keep-split"]):
        assert run("quantize", *words, "--plan", "plan.json", "small.gguf", "out.gguf") == 2
        assert words[0] in capsys.readouterr().err
    assert run("quantize", "--plan", "plan.json", "small.gguf", "out.gguf", "Q4_K_M", "2") == 2


def test_a_plan_never_overwrites_the_model_or_the_imatrix(at, capsys):
    imatrix = ["--imatrix", "imatrix.gguf"]
    for path in ("small.gguf", "imatrix.gguf"):
        before = Path(path).read_bytes()
        assert cli.main(["plan", *imatrix, "small.gguf", "Q4_K_M", "-o", path, "--force"]) == 1
        assert "is the input" in capsys.readouterr().err
        assert Path(path).read_bytes() == before


def test_a_model_never_overwrites_the_plan_or_the_names(at, capsys):
    run("plan", "small.gguf", "Q8_0", "-o", "plan.json")
    quantreg.export("small.gguf", "small.safetensors")
    with quantreg.open("small.gguf") as model:
        Path("names.json").write_text(json.dumps({name: name for name in model}))
    for name, given in (
        ("plan.json", ["--plan", "plan.json", "small.gguf", "./plan.json"]),
        ("names.json", ["--names", "names.json", "small.safetensors", "names.json", "Q8_0"]),
    ):
        before = Path(name).read_bytes()
        assert run("quantize", "--force", *given) == 1
        assert f"{name}: is the input: choose another name" in capsys.readouterr().err
        assert Path(name).read_bytes() == before


def test_an_existing_plan_is_replaced_only_with_force(at):
    assert run("plan", "small.gguf", "Q4_K_M", "-o", "plan.json") == 0
    assert run("plan", "small.gguf", "Q4_K_M", "-o", "plan.json") == 1
    assert run("plan", "small.gguf", "Q4_K_M", "-o", "plan.json", "--force") == 0


def test_a_type_that_needs_importance_and_has_none_is_refused_or_plain_or_replaced(at):
    with pytest.raises(PlanError, match="requires an importance matrix"):
        quantreg.plan("small.gguf", "IQ2_S")
    plain = {t.name: t for t in quantreg.plan("small.gguf", "IQ3_XXS", on_missing_importance="plain").tensors}
    assert plain["blk.3.ffn_up.weight"].to_type == "IQ3_XXS"
    # The file type IQ2_S uses the type IQ2_XS, which cannot be encoded without importance.
    with pytest.raises(PlanError, match="IQ2_S requires an importance matrix"):
        quantreg.plan("small.gguf", "IQ2_S", on_missing_importance="plain")
    fallback = {t.name: t for t in quantreg.plan("small.gguf", "IQ3_XXS", on_missing_importance="fallback").tensors}
    tensor = fallback["blk.3.ffn_up.weight"]
    assert (tensor.to_type, tensor.wanted) == ("IQ3_S", "IQ3_XXS")
    assert "no importance for this tensor" in tensor.reason
    with pytest.raises(PlanError, match="on_missing_importance"):
        quantreg.plan("small.gguf", "IQ3_XXS", on_missing_importance="maybe")
