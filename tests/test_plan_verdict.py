"""A dry run, `plan` and `quantize` refuse the same models with the same message, and the message names the way on."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import small_model
from entries import registered
from plan_models import StubPlugin

import quantreg
from quantreg import GGUFFormatError, NonFiniteError, PlanError, QuantType


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_model.write_model("small.gguf")
    small_model.write_imatrix("imatrix.gguf")
    return tmp_path


def rows(n_rows=64, n_cols=256, seed=0):
    return np.random.default_rng(seed).standard_normal((n_rows, n_cols)).astype(np.float16)


def two_layers(path="two.gguf", **more):
    tensors = {f"blk.{i}.ffn_up.weight": rows(seed=i) for i in range(2)}
    quantreg.write(path, {"general.architecture": "llama", "llama.block_count": 2}, tensors | more)
    return path


def short_imatrix(path="short.gguf", n_cols=256):
    """An importance matrix for the first layer only."""
    keys = {"general.type": "imatrix", "imatrix.datasets": ["a"], "imatrix.chunk_count": 1, "imatrix.chunk_size": 512}
    entry = "blk.0.ffn_up.weight"
    sums = {f"{entry}.in_sum2": np.ones((1, n_cols), np.float32), f"{entry}.counts": np.ones((1, 1), np.float32)}
    quantreg.write(path, keys, sums)
    return path


def error_of(stderr):
    (line,) = [line for line in stderr.splitlines() if line.startswith("quantreg: error: ")]
    return line


# ---- one verdict ----


def missing_importance():
    return [two_layers(), "IQ2_XXS"], "requires an importance matrix"


def missing_entry():
    return ["--imatrix", short_imatrix(), two_layers(), "IQ2_XXS"], "--on-missing-importance fallback"


def entry_of_the_wrong_length():
    return ["--imatrix", short_imatrix(n_cols=128), two_layers(), "Q4_K_M"], "--on-missing-importance fallback"


def already_quantized():
    quantreg.quantize_file("small.gguf", "q8.gguf", "Q8_0")
    return ["q8.gguf", "Q4_K_M"], "--allow-requantize"


def foreign_names():
    quantreg.write("hf.gguf", {"general.architecture": "llama"}, {"model.layers.0.self_attn.q_proj.weight": rows()})
    return ["hf.gguf", "Q4_K_M"], "quantreg quantize FOLDER"


def bad_metadata():
    return ["--override-kv", "general.alignment=int:3", two_layers(), "Q4_K_M"], "general.alignment"


def rows_that_do_not_fit():
    return ["--no-fallback", two_layers(odd=rows(4, 250)) and "small.gguf", "Q4_K_M"], "give this tensor another type"


def a_type_that_cannot_be_encoded():
    return [two_layers(), "READ_ONLY"], "can be decoded, but not encoded"


def a_codec_that_cannot_be_loaded():
    return [two_layers(), "BROKEN"], "the codec of BROKEN cannot be loaded"


CASES = [
    missing_importance, missing_entry, entry_of_the_wrong_length, already_quantized, foreign_names, bad_metadata,
    rows_that_do_not_fit, a_type_that_cannot_be_encoded, a_codec_that_cannot_be_loaded,
]  # fmt: skip


class ReadOnly:
    type_id, block_size, type_size, row_header_size = 900, 32, 34, 0
    can_encode = has_scorer = False

    def encode_rows(self, *_):
        raise AssertionError("asked to encode")

    decode_rows = score_rows = encode_rows


@pytest.fixture
def types_without_encoder():
    def broken():
        raise OSError("no such library")

    added = [
        QuantType("READ_ONLY", type_id=900, block_size=32, type_size=34, codec=ReadOnly),
        QuantType("BROKEN", type_id=901, block_size=32, type_size=34, codec=broken),
    ]
    with registered(StubPlugin(added)):
        yield


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_stops_a_run_stops_its_rehearsals(at, run, case, request):
    if case in (a_type_that_cannot_be_encoded, a_codec_that_cannot_be_loaded):
        request.getfixturevalue("types_without_encoder")
    (*options, source, file_type), expected = case()
    code, _, err = run("quantize", *options, source, "out.gguf", file_type)
    message = error_of(err)
    assert (code, os.path.exists("out.gguf")) == (1, False)
    assert expected in message
    assert "Traceback" not in err
    code, _, err = run("quantize", "--dry-run", *options, source, file_type)
    assert (code, error_of(err)) == (1, message)
    code, _, err = run("plan", *options, source, file_type, "-o", "plan.json")
    assert (code, error_of(err)) == (1, message)


def test_a_dry_run_that_is_refused_shows_the_table_first(at, run):
    code, out, err = run("quantize", "--dry-run", two_layers(), "IQ2_XXS")
    assert code == 1
    assert out.count("F16 -> IQ2_XXS") == 2
    assert "quantized without importance" not in err
    code, out, _ = run("quantize", "--dry-run", "--json", "two.gguf", "IQ2_XXS")
    (problem,) = json.loads(out)["problems"]
    assert code == 1
    assert problem.startswith("IQ2_XXS requires an importance matrix")


def test_a_plan_that_is_refused_can_be_edited_and_carried_out(at, run):
    code, out, _ = run("plan", two_layers(), "IQ2_XXS", "-o", "plan.json")
    assert (code, out.startswith("plan.json: 2 tensors")) == (1, True)
    dry = run("quantize", "--dry-run", "--plan", "plan.json", "two.gguf")
    wet = run("quantize", "--plan", "plan.json", "two.gguf", "out.gguf")
    assert (dry[0], error_of(dry[2])) == (wet[0], error_of(wet[2]))
    assert wet[0] == 1
    Path("plan.json").write_text(Path("plan.json").read_text().replace('"to": "IQ2_XXS"', '"to": "Q8_0"'))
    assert run("quantize", "--plan", "plan.json", "two.gguf", "out.gguf")[0] == 0


@pytest.mark.parametrize("options", [["--split-max-size", "junk"], ["--split-max-size", "0"]])
def test_a_dry_run_looks_at_the_shards_too(at, run, options):
    wet = run("quantize", *options, two_layers(), "out.gguf", "Q8_0")
    dry = run("quantize", "--dry-run", *options, "two.gguf", "Q8_0")
    assert dry[0] == wet[0] == 1
    assert error_of(dry[2]) == error_of(wet[2])


def test_a_dry_run_warns_as_the_run_does(at, run):
    given = ["--split-max-size", "5000", "--tensor-type", "nothing=Q8_0", two_layers()]
    dry = run("quantize", "--dry-run", *given, "Q8_0")[2]
    wet = run("quantize", *given, "out.gguf", "Q8_0")[2]
    told = [line for line in dry.splitlines() if line.startswith("warning: ")]
    assert told == [line for line in wet.splitlines() if line.startswith("warning: ")]
    assert any("more than split_max_size allows" in line for line in told)


def test_a_name_that_gguf_cannot_hold_is_refused_by_the_plan(at):
    with pytest.raises(GGUFFormatError, match="alignment"):
        quantreg.plan(two_layers(), "Q8_0", override_kv={"general.alignment": 3})
    (problem,) = quantreg.plan("two.gguf", "Q8_0", override_kv={"general.alignment": 3}, check=False).problems
    assert "alignment" in problem
    with pytest.raises(GGUFFormatError, match="alignment"):
        quantreg.quantize_file("two.gguf", "out.gguf", "Q8_0", override_kv={"general.alignment": 3})


# ---- the way on, as the message names it ----


def test_following_the_advice_about_missing_importance_works(at, run):
    options = ["--imatrix", short_imatrix(), "--on-missing-importance", "fallback"]
    assert run("quantize", *options, two_layers(), "out.gguf", "IQ2_XXS")[0] == 0
    with quantreg.open("out.gguf") as model:
        assert [tensor.type_name for tensor in model.values()] == ["IQ2_XXS", "Q2_K"]


@pytest.mark.parametrize(
    "options", [["--on-missing-importance", "fallback"], ["--exclude-weights", "blk.0.ffn_up.weight"]]
)
def test_following_the_advice_about_an_entry_of_the_wrong_length_works(at, run, options):
    code, _, err = run("quantize", "--imatrix", short_imatrix(n_cols=128), *options, two_layers(), "out.gguf", "Q4_K_M")
    assert code == 0
    assert ("is not used: it has 128 values" in err) == (options[1] == "fallback")


def too_large(n_cols):
    values = (np.random.default_rng(0).standard_normal((64, n_cols)) * 0.05).astype(np.float32)
    values[0, 77] = 1e5
    quantreg.write("large.gguf", {"general.architecture": "llama"}, {"w1.weight": values})
    return "large.gguf"


def test_values_beyond_f16_name_bf16_as_the_file_type(at, run):
    code, _, err = run("quantize", too_large(250), "out.gguf", "F16")
    assert (code, error_of(err)) == (
        1,
        "quantreg: error: w1.weight: row 0 holds values too large for F16, whose range ends at 65504: give it BF16, "
        "which has the range of F32: the file type BF16",
    )
    assert run("quantize", "large.gguf", "out.gguf", "BF16")[0] == 0


def test_values_beyond_f16_in_a_fallback_name_the_fallback(at, run):
    code, _, err = run("quantize", too_large(250), "out.gguf", "Q4_K_M")
    assert (code, error_of(err)) == (
        1,
        "quantreg: error: w1.weight: row 0 holds values too large for F16, whose range ends at 65504 (it gets F16 "
        "instead of Q4_K, because 250 is not a multiple of 32): give it BF16, which has the range of F32: "
        'tensor_types={"w1.weight": "BF16"} (--tensor-type w1.weight=BF16)',
    )
    assert run("quantize", "--tensor-type", "w1.weight=BF16", "large.gguf", "out.gguf", "Q4_K_M")[0] == 0


def test_values_too_large_for_an_option_name_the_option(at):
    big = np.full((4, 256), 1e5, np.float32)
    quantreg.write("large.gguf", {"general.architecture": "llama"}, {"output.weight": big})
    with pytest.raises(NonFiniteError, match=r'output_tensor_type="BF16" \(--output-tensor-type BF16\)'):
        quantreg.quantize_file("large.gguf", "out.gguf", "Q8_0", output_tensor_type="F16")


@pytest.mark.parametrize("name", ["norm_final.weight", "w1.weight"])
def test_nan_says_what_to_do(at, run, name):
    values = rows() if name == "w1.weight" else rows()[0]
    values.flat[3] = np.inf
    two_layers(**{name: values})
    code, _, err = run("quantize", "two.gguf", "out.gguf", "Q8_0")
    assert code == 1
    assert f"{name}: " in error_of(err)
    assert "the model is damaged: download it again, or convert it again from its source (to BF16 if" in error_of(err)


# ---- nothing that is read is replaced ----


@pytest.mark.parametrize("how", ["same", "link"])
def test_no_input_of_a_run_is_replaced(at, run, how):
    Path("types.txt").write_text("attn_v=q8_0")
    out = "types.txt"
    if how == "link":
        out = "other.txt"
        os.link("types.txt", out)
    code, _, err = run("quantize", "--force", "--tensor-type-file", "types.txt", "small.gguf", out, "Q4_K_M")
    assert (code, error_of(err)) == (1, f"quantreg: error: {out}: is the input: choose another name")
    code, _, err = run("plan", "--force", "--tensor-type-file=types.txt", "small.gguf", "Q4_K_M", "-o", out)
    assert (code, "is the input" in err) == (1, True)
    assert Path("types.txt").read_text() == "attn_v=q8_0"


def test_no_shard_replaces_an_input(at, run):
    Path("out-00001-of-00002.gguf").write_text("attn_v=q8_0")
    given = ["--tensor-type-file", "out-00001-of-00002.gguf", "--split-max-tensors", "20", "small.gguf", "out.gguf"]
    code, _, err = run("quantize", "--force", *given, "Q4_K_M")
    assert (code, "out-00001-of-00002.gguf: is the input" in err) == (1, True)
    assert Path("out-00001-of-00002.gguf").read_text() == "attn_v=q8_0"


def test_a_plan_replaces_no_shard_of_the_model(at, run):
    shards = [Path(path) for path in quantreg.split("small.gguf", "m", split_max_tensors=20).paths]
    before = shards[1].read_bytes()
    code, _, err = run("plan", "--force", shards[0], "Q4_K_M", "-o", shards[1])
    assert (code, "is the input" in err) == (1, True)
    assert shards[1].read_bytes() == before


def test_no_function_replaces_the_names_or_the_imatrix(at):
    with pytest.raises(quantreg.OutputError, match="is the input"):
        quantreg.quantize_file("small.gguf", "imatrix.gguf", "Q4_K_M", "imatrix.gguf", force=True)
    with pytest.raises(PlanError):
        quantreg.quantize_file("small.gguf", "names.json", "Q4_K_M", names="names.json", force=True)
