"""What a plan assumes about a model with incomplete metadata, and what it tells the user about that."""

import json

import numpy as np
import pytest
from plan_models import header, llama, make, tensor

import quantreg
from quantreg import PlanError, cli
from quantreg.recipes import PlanOptions, file_types, plan_header


def without(model, *keys):
    return header(model.tensors, {key: value for key, value in model.metadata.items() if key not in keys})


def types_of(made):
    return {t.name: t.to_type for t in made.tensors}


def test_a_complete_model_needs_no_assumptions():
    for file_type in file_types:
        assert make(llama(source="F32"), file_type, check=False).warnings == ()


def test_a_missing_number_of_layers_is_counted_from_the_tensor_names():
    complete, bare = make(llama(16), "Q4_K_M"), make(without(llama(16), "llama.block_count"), "Q4_K_M")
    assert types_of(bare) == types_of(complete)
    assert bare.warnings == ("assumed 16 layers, counted from the tensor names, because llama.block_count is missing",)


@pytest.mark.parametrize("value", ["80", 16.0, [float("inf")], [float("nan")], ["80"], [], [[]]], ids=repr)
def test_a_number_of_layers_that_is_not_a_number_counts_as_missing(value):
    model = llama(16)
    odd = make(header(model.tensors, {**model.metadata, "llama.block_count": value}), "Q4_K_M")
    assert types_of(odd) == types_of(make(model, "Q4_K_M"))
    assert odd.warnings == ("assumed 16 layers, counted from the tensor names, because llama.block_count is missing",)


def test_an_override_replaces_a_value_that_is_not_a_number():
    model = llama(16)
    odd = header(model.tensors, {**model.metadata, "llama.block_count": "many"})
    made = make(odd, "Q4_K_M", override_kv=[("llama.block_count", 16)])
    assert types_of(made) == types_of(make(model, "Q4_K_M"))
    assert not made.warnings


def test_an_architecture_that_is_not_a_name_counts_as_missing():
    model = llama(16)
    odd = make(header(model.tensors, {**model.metadata, "general.architecture": 1}), "Q4_K_M")
    assert odd.warnings == make(without(model, "general.architecture"), "Q4_K_M").warnings
    assert "general.architecture is missing" in odd.warnings[0]


def test_without_head_counts_value_heads_are_assumed_not_to_be_shared():
    keys = ("llama.attention.head_count", "llama.attention.head_count_kv")
    made = make(without(llama(), *keys), "Q2_K")
    assert types_of(made)["blk.0.attn_v.weight"] == "Q3_K"  # with 8 heads on 2 value heads it is Q4_K
    assert made.warnings == (
        "assumed fewer than 4 query heads per value head, because llama.attention.head_count is missing",
    )


def test_stacks_of_experts_without_a_count_of_experts_give_a_warning():
    made = make(without(llama(experts=8), "llama.expert_count"), "Q4_K_M")
    assert types_of(made)["blk.0.attn_v.weight"] != "Q8_0"  # which 8 experts would give it
    assert made.warnings == (
        "assumed a model without experts, because llama.expert_count is missing, although "
        "blk.0.ffn_down_exps.weight holds 8 matrices",
    )


def test_without_an_architecture_every_assumption_gives_a_warning():
    made = make(header(llama().tensors), "Q2_K_S", check=False)
    assert made.warnings == (
        "assumed that no architecture-specific rule applies, because general.architecture is missing",
        "assumed 4 layers, counted from the tensor names, because ARCHITECTURE.block_count is missing",
        "assumed fewer than 4 query heads per value head, because ARCHITECTURE.attention.head_count is missing",
    )


def test_an_image_encoder_has_no_layers_as_in_the_reference():
    names = ("v.blk.0.ffn_down.weight", "v.blk.0.attn_v.weight")
    made = make(header([tensor(name, (256, 256)) for name in names], {"general.architecture": "clip"}), "Q4_K_M")
    assert made.warnings == ("assumed 0 layers, as llama-quantize does for clip, because clip.block_count is missing",)


@pytest.mark.parametrize("options", [{"pure": True}, {"tensor_types": [("blk", "Q8_0"), ("embd|output", "Q8_0")]}])
def test_facts_that_no_rule_read_give_no_warning(options):
    assert make(header(llama().tensors), "Q2_K", **options).warnings == ()
    assert make(header(llama().tensors), "F16").warnings == ()
    assert make(header(llama().tensors), "COPY").warnings == ()


def test_an_override_is_not_an_assumption():
    bare = without(llama(), "llama.block_count")
    assert make(bare, "Q4_K_M", override_kv=[("llama.block_count", 4)]).warnings == ()


def test_pruning_a_model_without_architecture_writes_no_number_of_layers():
    made = make(header(llama().tensors), "Q8_0", prune_layers=[1])
    assert not [edit for edit in made.metadata if edit.key.endswith("block_count")]


def test_plan_result_and_plan_file_contain_the_warnings(tmp_path, capsys):
    rng = np.random.default_rng(0)
    path = tmp_path / "image.gguf"
    long = "single_blocks.0.a_name_that_is_longer_than_what_llama_cpp_takes_from_a_file.weight"
    names = ("double_blocks.0.img_attn.qkv.weight", "blk.0.ffn_down.weight", long)
    quantreg.write(
        path,
        {"general.architecture": "mystery"},
        {name: rng.standard_normal((8, 256), dtype=np.float32) for name in names},
    )
    assumed = "assumed 1 layer, counted from the tensor names, because mystery.block_count is missing"

    planned = quantreg.plan(path, "Q4_K_M").warnings
    assert planned[1:] == (assumed,)
    assert long[:40] in planned[0]
    assert "llama.cpp refuses 64" in planned[0]
    assert cli.main(["quantize", "--dry-run", str(path), "Q4_K_M"]) == 0
    assert f"warning: {assumed}\n" in capsys.readouterr().err
    assert cli.main(["plan", str(path), "Q4_K_M", "-o", str(tmp_path / "plan.json")]) == 0
    assert json.loads((tmp_path / "plan.json").read_text())["warnings"] == list(planned)
    result = quantreg.quantize_file(path, tmp_path / "out.gguf", "Q4_K_M")
    assert result.warnings == planned
    with quantreg.open(tmp_path / "out.gguf") as written:
        assert written[long].type_name == "Q4_K"


def test_rounding_weights_to_integers_is_refused():
    model = llama()
    for options in ({"output_tensor_type": "I8"}, {"tensor_types": [("attn_v", "I32")]}):
        with pytest.raises(PlanError, match=r"rounding to an integer type would destroy .* \(F16 to I"):
            plan_header(model, "Q4_0", options=PlanOptions(**options))


def test_a_type_for_activations_gives_a_warning():
    made = plan_header(llama(), "Q4_0", options=PlanOptions(tensor_types=[("attn_v", "Q8_1")]))
    assert made.warnings == (
        "llama.cpp cannot run weights of type Q8_1, which ggml uses for activations only: "
        "blk.0.attn_v.weight (F16 to Q8_1) and 3 more",
    )


@pytest.mark.parametrize("key", ["split.no", "split.count", "split.tensors.count"])
def test_the_keys_of_a_split_cannot_be_overridden(key):
    with pytest.raises(PlanError, match=f"override {key}: quantreg sets this key"):
        make(llama(), "Q4_0", override_kv=[(key, 2)])


def test_a_pattern_that_matches_no_tensor_gives_a_warning():
    made = make(llama(), "Q4_K_M", tensor_types=[("attn_v", "Q8_0"), ("atn_k", "Q5_K")])
    assert made.warnings == ("tensor type atn_k=Q5_K has no effect: no tensor's name matches it",)
