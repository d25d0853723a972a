"""Gemma 3n and Gemma 4."""

from checkpoints.small import GROUPED, SIZES, model

_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}
_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_GEMMA_4 = {**GROUPED, "num_hidden_layers": 4, "head_dim": 16, "global_head_dim": 32, "layer_types": _TYPES}
_GEMMA_4 |= {"rope_parameters": _ROPE, "sliding_window": 4, "tie_word_embeddings": True, "pad_token_id": 0}
_GEMMA_4 |= {"eos_token_id": 1, "bos_token_id": 2, "vocab_size_per_layer_input": 96, "enable_moe_block": False}
_PER_LAYER = {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
_PER_LAYER |= {"attention_k_eq_v": False, "final_logit_softcapping": 30.0}
_MIXTURE = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
_MIXTURE |= {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "use_double_wide_mlp": False}
_MIXTURE |= {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 30.0}
_EYES = {"model_type": "gemma4_vision", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
_EYES |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 4}
_EYES |= {"position_embedding_size": 16, "pooling_kernel_size": 2, "default_output_length": 4}
_TEXT = {key: value for key, value in {**SIZES, **_GEMMA_4}.items() if key not in ("head_dim", "sliding_window")}
# A part that hears, as the published models have it.
_EARS = {"model.audio_tower.output_proj.weight": ("BF16", (8, 8))}
_EARS |= {"model.embed_audio.embedding_projection.weight": ("BF16", (64, 8))}

MODELS = {
    "gemma4-sees": model(
        "gemma4",
        "Gemma4ForConditionalGeneration",
        like={"vocab_size": ...},
        config={
            "text_config": {**_TEXT, **_MIXTURE, "vocab_size": 96, "num_attention_heads": 1, "num_key_value_heads": 1}
            | {"enable_moe_block": False, "num_experts": None, "top_k_experts": None, "moe_intermediate_size": None}
            | {"model_type": "gemma4_text", "final_logit_softcapping": None, "num_global_key_value_heads": None},
            "vision_config": _EYES,
            "audio_config": None,
            "tie_word_embeddings": True,
            "image_token_id": 95,
            "audio_token_id": 94,
            "video_token_id": 93,
        },
        tensors=lambda found: found | _EARS,
        unused=tuple(_EARS),
        tokenizer="gemma4",
        dtype="BF16",
    ),
    "gemma4": model(
        "gemma4_text",
        "Gemma4ForCausalLM",
        like=SIZES,
        config={**_GEMMA_4, **_PER_LAYER},
        tokenizer="gemma4",
        dtype="BF16",
    ),
    "gemma4-experts": model(
        "gemma4_text",
        "Gemma4ForCausalLM",
        like=SIZES,
        config={**_GEMMA_4, **_MIXTURE},
        tokenizer="gemma4",
        dtype="BF16",
    ),
}
