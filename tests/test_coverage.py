"""Which tensors of a model an importance matrix covers, and what happens to the others."""

import json

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import ImportanceMatrix, PlanError, cli
from quantreg.gguf import Value

EXPERTS = "blk.0.ffn_up_exps.weight"


@pytest.fixture
def moe(tmp_path, monkeypatch):
    """Write moe.gguf with four experts, and imatrix.gguf where expert 2 saw no token and expert 3 has zeros."""
    monkeypatch.chdir(tmp_path)
    x = small_model.noise(5, (4, 16, 256)).astype(np.float16)
    q = small_model.noise(6, (32, 256)).astype(np.float16)
    metadata = {"general.architecture": "llama", "llama.block_count": 1, "llama.expert_count": 4}
    tensors = {EXPERTS: x, "blk.0.attn_q.weight": q, "blk.0.attn_k.weight": q, "blk.0.attn_norm.weight": q[0]}
    quantreg.write("moe.gguf", metadata, tensors)
    sums = small_model.noise(7, (4, 256)) ** 2 + np.float32(0.5)
    sums[3, :64] = 0
    entries = {
        f"{EXPERTS}.in_sum2": sums, f"{EXPERTS}.counts": np.array([[3], [2], [0], [1]], np.float32),
        "blk.0.attn_q.weight.in_sum2": sums[:1], "blk.0.attn_q.weight.counts": np.ones((1, 1), np.float32),
        "blk.9.attn_q.weight.in_sum2": sums[:1], "blk.9.attn_q.weight.counts": np.ones((1, 1), np.float32),
    }  # fmt: skip
    info = {
        "general.type": "imatrix", "imatrix.datasets": Value("array[string]", ["t"]), "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 1,
    }  # fmt: skip
    quantreg.write("imatrix.gguf", info, entries)
    return sums


def test_the_report_names_missing_entries_zero_rows_and_unused_entries(moe):
    found = quantreg.coverage("moe.gguf", "imatrix.gguf")
    by_name = {tensor.name: tensor for tensor in found.tensors}
    assert {name: t.state for name, t in by_name.items()} == {
        EXPERTS: "partly", "blk.0.attn_q.weight": "covered", "blk.0.attn_k.weight": "no entry",
    }  # fmt: skip
    assert by_name[EXPERTS].zero_rows == (2,)
    assert by_name[EXPERTS].zero_columns == 64 / (3 * 256)
    assert found.unused == ("blk.9.attn_q.weight",)
    assert not found.complete


def test_entries_of_another_length_are_reported_without_an_error(moe):
    own = ImportanceMatrix({"blk.0.attn_q.weight": np.ones(7), "blk.0.attn_k.weight": np.zeros(256)})
    states = {t.name: (t.state, t.zero_rows) for t in quantreg.coverage("moe.gguf", own).tensors}
    assert states["blk.0.attn_q.weight"] == ("wrong length", ())
    assert states["blk.0.attn_k.weight"] == ("partly", (0,))


def test_the_command_prints_a_table_or_json(moe, capsys):
    assert cli.main(["coverage", "moe.gguf", "imatrix.gguf"]) == 0
    out = capsys.readouterr().out
    assert "3 tensors can be quantized: 1 no entry, 1 covered, 1 partly" in out
    assert "1 entry does not belong to a tensor of the model (first: blk.9.attn_q.weight)" in out
    assert cli.main(["coverage", "--json", "moe.gguf", "imatrix.gguf"]) == 0
    assert json.loads(capsys.readouterr().out)["unused"] == ["blk.9.attn_q.weight"]
    assert cli.main(["coverage", "moe.gguf", "moe.gguf"]) == 1
    assert "not an importance matrix" in capsys.readouterr().err


def test_each_expert_is_encoded_with_its_own_row_or_with_ones(moe):
    result = quantreg.quantize_file("moe.gguf", "out.gguf", "Q4_K_S", "imatrix.gguf")
    assert any("the count is 0 for 1 of 4 experts" in text for text in result.warnings)
    rows = moe / np.array([[3], [2], [1], [1]], np.float32)
    rows[2] = 1
    with quantreg.open("moe.gguf") as a, quantreg.open("out.gguf") as b:
        expected = quantreg.quantize(a[EXPERTS].dequantize(), "Q4_K", rows)
        np.testing.assert_array_equal(b[EXPERTS].data, expected)


def test_the_option_decides_what_happens_without_an_entry(moe):
    with pytest.raises(PlanError, match=r"no entry for blk\.0\.attn_k\.weight"):
        quantreg.quantize_file("moe.gguf", "out.gguf", "IQ3_XXS", "imatrix.gguf", pure=True)
    kept = {}
    for policy in ("plain", "fallback"):
        quantreg.quantize_file(
            "moe.gguf", f"{policy}.gguf", "IQ3_XXS", "imatrix.gguf", pure=True, on_missing_importance=policy
        )
        with quantreg.open(f"{policy}.gguf") as model:
            kept[policy] = {name: model[name].type_name for name in model}
    assert kept["plain"]["blk.0.attn_k.weight"] == "IQ3_XXS"
    assert kept["fallback"]["blk.0.attn_k.weight"] == "IQ3_S"
    assert kept["fallback"]["blk.0.attn_q.weight"] == kept["plain"]["blk.0.attn_q.weight"] == "IQ3_XXS"


def test_the_command_has_the_option_for_missing_importance(moe, capsys):
    words = ["quantize", "--imatrix", "imatrix.gguf", "--pure", "moe.gguf", "out.gguf", "IQ3_XXS"]
    assert cli.main(words) == 1
    assert cli.main([*words, "--on-missing-importance", "fallback"]) == 0
    assert cli.main([*words, "--on-missing-importance", "maybe"]) == 2
