"""What a plan says about files that are no model, about foreign names, and about options that change nothing."""

import pytest
from plan_models import StubImatrix, header, llama, make, tensor

from quantreg.errors import PlanError
from quantreg.recipes.kinds import has_foreign_name, kind_of_file

# ---- nothing was quantized ----

WHOLE = {"general.architecture": "llama"}


def said(tensors, metadata, file_type="Q4_K_M", **options):
    return " | ".join(make(header(tensors, metadata), file_type, **options).warnings)


def test_a_lora_adapter_is_called_what_it_is():
    tensors = [tensor("blk.0.attn_q.weight.lora_a", (256, 8)), tensor("blk.0.attn_q.weight.lora_b", (8, 256))]
    for keys in ({"general.type": "adapter"}, {"adapter.type": "lora"}):
        text = said(tensors, WHOLE | keys)
        assert "nothing was quantized, although the file is labelled Q4_K_M (kept, not a weight: 2 tensors)" in text
        assert "the input is a LoRA adapter" in text
        assert "merge it into the F16 model first" in text


def test_an_importance_matrix_given_as_the_model_is_called_what_it_is():
    tensors = [
        tensor("blk.0.ffn_up.weight.in_sum2", (256, 1), "F32"),
        tensor("blk.0.ffn_up.weight.counts", (1,), "F32"),
    ]
    text = said(tensors, {"general.type": "imatrix", "imatrix.datasets": ["a"]})
    assert "nothing was quantized" in text
    assert "the input is an importance matrix: give the model as IN, and this file as imatrix (--imatrix)" in text
    assert "an importance matrix" in said(tensors, {})


def test_a_vocabulary_without_tensors_is_called_what_it_is():
    text = said([], WHOLE | {"tokenizer.ggml.model": "gpt2"})
    assert text == "nothing was quantized: the input is a vocabulary without a model"
    assert said([], WHOLE) == "nothing was quantized: the input has no tensors"


def test_a_control_vector_is_called_what_it_is():
    text = said([tensor("direction.1", (256,), "F32")], {"general.architecture": "controlvector"})
    assert "the input is a control vector" in text


def test_a_projector_of_which_nothing_is_quantized_is_called_what_it_is():
    metadata = {"general.architecture": "clip", "general.type": "mmproj"}
    kept = said([tensor("v.patch_embd.weight", (14, 14, 3, 64))], metadata, "Q8_0")
    assert kept == (
        "nothing was quantized, although the file is labelled Q8_0; the input is an image or audio projector (mmproj) "
        "(kept, patch embeddings: 1 tensor)"
    )
    assert said([tensor("v.blk.0.attn_q.weight", (256, 64))], metadata, "Q8_0") == ""


def test_one_tensor_that_falls_back_is_not_a_quantized_model():
    text = said([tensor("w1.weight", (250, 64))], WHOLE)
    assert text.startswith("nothing was quantized, although the file is labelled Q4_K_M (")
    assert "250 is not a multiple of 32" in text


def test_tensors_that_already_have_their_types_are_told():
    text = said([tensor("blk.0.ffn_up.weight", (256, 64), "Q4_K")], WHOLE)
    assert "nothing was quantized" in text
    assert "already Q4_K: 1 tensor" in text


def test_at_most_three_reasons_are_told():
    tensors = [
        tensor("blk.0.attn_norm.weight", (256,)), tensor("position_embd.weight", (256, 64)),
        tensor("blk.0.ssm_conv1d.weight", (4, 64)), tensor("blk.0.ffn_gate_inp.weight", (256, 64)),
        tensor("blk.0.ffn_gate_inp.bias", (256,)),
    ]  # fmt: skip
    assert "; for other reasons: " in said(tensors, WHOLE)


@pytest.mark.parametrize("file_type", ["F16", "BF16", "F32", "COPY"])
def test_types_that_quantize_nothing_promise_nothing(file_type):
    assert make(llama(), file_type).warnings == ()


def test_a_model_is_no_other_kind_of_file():
    assert kind_of_file({"general.type": "model", "tokenizer.ggml.model": "gpt2"}, ["blk.0.ffn_up.weight"]) is None
    assert kind_of_file({}, []) is None


# ---- names of other projects ----


def words(text):
    return text.split()


FOREIGN = words("""
model.layers.0.self_attn.q_proj.weight model.layers.10.mlp.down_proj.weight model.layers.3.input_layernorm.weight
model.embed_tokens.weight lm_head.weight model.language_model.layers.0.self_attn.k_proj.weight
language_model.model.layers.0.mlp.gate_proj.weight language_model.lm_head.weight transformer.h.0.attn.c_attn.weight
h.0.mlp.c_fc.weight transformer.wte.weight gpt_neox.layers.0.attention.query_key_value.weight embed_out.weight
model.layers.1.mlp.experts.7.up_proj.weight model.layers.0.block_sparse_moe.experts.0.w1.weight
layers.0.attention.wq.weight tok_embeddings.weight bert.encoder.layer.0.attention.self.query.weight
encoder.layer.11.output.dense.weight embeddings.word_embeddings.weight transformer.blocks.0.attn.Wqkv.weight
rwkv.blocks.0.att.key.weight backbone.layers.0.mixer.in_proj.weight model.decoder.layers.0.self_attn.q_proj.weight
model.layers.0.linear_attn.in_proj_qkvz.weight transformer.h.0.self_attention.query_key_value.weight
""")

OTHER = words("""
blk.0.attn_q.weight token_embd.weight output.weight enc.blk.0.attn_q.weight v.blk.0.attn_q.weight w1.weight
double_blocks.0.img_attn.qkv.weight single_blocks.0.linear1.weight joint_blocks.0.x_block.mlp.fc1.weight
model.diffusion_model.double_blocks.0.img_mod.lin.weight transformer_blocks.0.attn.to_q.weight
transformer_blocks.0.attn1.to_q.weight blocks.0.self_attn.q.weight blocks.0.ffn.0.weight blocks.0.attn.qkv.weight
layers.0.attention.qkv.weight layers.0.attention.to_q.weight layers.0.feed_forward.w1.weight
model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight patch_embedding.weight
conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight
text_encoders.qwen25_7b.transformer.model.layers.0.self_attn.q_proj.weight
cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight
first_stage_model.decoder.up.0.block.0.conv1.weight
double_stream_blocks.0.block.attn1.to_q.weight text_model.encoder.layers.0.self_attn.q_proj.weight
llm.layers.0.self_attn.qkv_proj.weight
model.model.transformer.layers.0.self_attn.to_qkv.weight posnet.0.conv1.weight direction.1
""")


def test_names_of_hugging_face_are_recognised():
    assert [name for name in FOREIGN if not has_foreign_name(name)] == []


def test_names_of_gguf_and_of_image_models_are_not():
    assert [name for name in OTHER if has_foreign_name(name)] == []


HF = [
    tensor(f"model.layers.{i}.{part}.weight", (256, 256))
    for i in range(2)
    for part in ("mlp.down_proj", "self_attn.v_proj")
]


def test_a_mixture_of_tensors_with_foreign_names_is_refused():
    with pytest.raises(PlanError) as caught:
        make(header(HF, WHOLE), "Q4_K_M")
    assert str(caught.value) == (
        "4 tensors have Hugging Face names (the first is model.layers.0.mlp.down_proj.weight): no rule of Q4_K_M knows "
        "them, and llama.cpp loads only GGUF's names: give the folder of the model, with its config.json, which "
        'names its class ("architectures"), and its tokenizer, as in `quantreg quantize FOLDER OUT.gguf TYPE`, or map '
        "the names with names (--names). For another engine, pure (--pure) gives all tensors Q4_K under the names that "
        "they have"
    )


@pytest.mark.parametrize(
    ("file_type", "options"),
    [("Q4_K_M", {"pure": True}), ("F16", {}), ("COPY", {}), ("Q4_K_M", {"tensor_types": [("layers", "Q4_K")]})],
)
def test_foreign_names_without_rules_are_only_told(file_type, options):
    text = said(HF[:1], WHOLE, file_type, **options)
    assert text.startswith("1 tensor has a Hugging Face name (model.layers.0.mlp.down_proj.weight): llama.cpp loads")


def test_names_that_are_mapped_in_part_are_refused_too():
    tensors = [*llama().tensors, tensor("model.layers.0.mlp.up_proj.weight", (256, 256))]
    with pytest.raises(PlanError, match="1 tensor has a Hugging Face name"):
        make(header(tensors, llama().metadata), "Q8_0")


# ---- options without effect ----


def test_a_pattern_that_matches_only_kept_tensors_has_no_effect():
    (text,) = make(llama(), "Q4_K_M", tensor_types=[("attn_norm", "BF16")]).warnings
    assert text == (
        "tensor type attn_norm=BF16 has no effect: the 4 tensors that match it (the first is blk.0.attn_norm.weight) "
        "are kept (norm): to change a tensor that is kept, edit its line in a plan (`quantreg plan`, then `quantize "
        "--plan`)"
    )


def test_a_pattern_whose_tensors_have_the_type_anyway_is_not_told():
    assert make(llama(), "Q4_K_M", tensor_types=[("attn_norm", "F32")]).warnings == ()


def test_a_pattern_behind_a_more_general_one_has_no_effect():
    (text,) = make(llama(), "Q4_K_M", tensor_types=[("attn", "Q5_K"), ("attn_q", "Q8_0")]).warnings
    assert text.startswith("tensor type attn_q=Q8_0 has no effect: an earlier pattern decides for the 4 tensors that")


def test_a_pattern_has_no_effect_on_a_plain_type():
    (text,) = make(llama(), "BF16", tensor_types=[("attn_q", "Q8_0")]).warnings
    assert (
        "has no effect: the 4 tensors that match it (the first is blk.0.attn_q.weight) get another type (BF16: BF16"
        in text
    )


def test_a_pattern_with_some_effect_is_not_told():
    assert make(llama(), "Q4_K_M", tensor_types=[("attn", "Q8_0"), ("attn_v", "Q8_0")]).warnings == ()


def test_options_for_tensors_that_the_model_lacks_have_no_effect():
    bare = header([t for t in llama().tensors if t.name.startswith("blk")], llama().metadata)
    (text,) = make(bare, "Q4_K_M", output_tensor_type="Q8_0").warnings
    assert text.startswith("output_tensor_type has no effect: the model has no output.weight")
    (text,) = make(bare, "Q4_K_M", token_embedding_type="Q8_0").warnings
    assert text.startswith("token_embedding_type has no effect: the model has no token_embd.weight")
    (text,) = make(llama(tied=True), "Q4_K_M", leave_output_tensor=True).warnings
    assert text.startswith(
        "leave_output_tensor has no effect: the model has no output.weight: token_embd.weight serves"
    )
    assert make(llama(tied=True), "Q4_K_M", output_tensor_type="Q8_0").warnings == ()


def test_parts_of_entries_that_do_not_exist_have_no_effect():
    imatrix = StubImatrix({"blk.0.attn_v.weight": 256})
    assert make(llama(), "Q4_K_M", exclude_weights="attn_v").warnings == (
        "exclude_weights 'attn_v' has no effect without an imatrix (--imatrix)",
    )
    assert make(llama(), "Q4_K_M", imatrix=imatrix, exclude_weights=["attn_v", "ffn"]).warnings == (
        "exclude_weights 'ffn' has no effect: no entry of the imatrix has a name that contains it",
    )


# ---- missing importance ----


def test_the_error_about_a_missing_entry_names_the_ways_on():
    imatrix = StubImatrix({"blk.0.attn_v.weight": 256})
    (text,) = make(llama(), "IQ2_XXS", imatrix=imatrix, check=False).problems
    assert "(--on-missing-importance fallback)" in text
    assert "plain" not in text
    (text,) = make(llama(), "IQ2_XXS", imatrix=imatrix, on_missing_importance="plain", check=False).problems
    assert text.endswith('"plain" does not help, because IQ2_XXS cannot be encoded without importance')
    assert make(llama(), "IQ2_XXS", imatrix=imatrix, on_missing_importance="fallback").problems == ()


@pytest.mark.parametrize("choice", ["plain", "fallback"])
def test_an_entry_of_the_wrong_length_counts_as_missing(choice):
    imatrix = StubImatrix({"blk.0.attn_v.weight": 128})
    planned = make(llama(), "Q4_0", imatrix=imatrix, on_missing_importance=choice)
    assert planned["blk.0.attn_v.weight"].importance is None
    assert planned.warnings[-1] == (
        "some.imatrix: entry blk.0.attn_v.weight is not used: it has 128 values, but the tensor with dims (256, 256) "
        "needs 256"
    )


def test_a_tensor_whose_entry_has_the_wrong_length_falls_back():
    lengths = {t.name: 256 for t in llama().tensors if t.name.startswith("blk")} | {"blk.0.ffn_up.weight": 7}
    planned = make(llama(), "IQ2_XXS", imatrix=StubImatrix(lengths), on_missing_importance="fallback")
    assert planned["blk.0.ffn_up.weight"].to_type == "Q2_K"
    assert planned["blk.1.ffn_up.weight"].to_type == "IQ2_XXS"
