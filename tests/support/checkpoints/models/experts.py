"""Models with experts of other families."""

from checkpoints.small import EXPERTS, GROUPED, RMS, SIZES, model

_FEW = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ERNIE = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 2}
_ERNIE |= {"moe_layer_start_index": 1, "moe_layer_end_index": 2, "moe_layer_interval": 1, "num_hidden_layers": 3}
_ERNIE |= {"intermediate_size": 96}
_LFM2 = {"norm_eps": 1e-5, "conv_L_cache": 3, "conv_bias": False, "num_dense_layers": 1, "num_hidden_layers": 3}
_LFM2 |= {"layer_types": ["conv", "full_attention", "conv"], "use_expert_bias": True, "routed_scaling_factor": 1.0}
_DOTS = {"n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DOTS |= {"first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True, "scoring_func": "noaux_tc"}
_LLAMA_4 = {**GROUPED, **_FEW, "head_dim": 16, "num_hidden_layers": 4, "intermediate_size": 32}
_LLAMA_4 |= {"intermediate_size_mlp": 96, "interleave_moe_layer_step": 2, "num_experts_per_tok": 1}
_LLAMA_4 |= {"attention_chunk_size": 64, "use_qk_norm": True, "no_rope_layer_interval": 4}
_LLAMA_4_ROPE = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}
_LLAMA_4_ROPE |= {"original_max_position_embeddings": 64}
_EYES = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
_EYES |= {"image_size": 16, "patch_size": 8, "pixel_shuffle_ratio": 0.5, "projector_input_dim": 32}
_EYES |= {"projector_output_dim": 32, "vision_output_dim": 32, "model_type": "llama4_vision_model"}
_EYES_3 = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
_EYES_3 |= {"patch_size": 4, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
_IMAGES = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}


def _as_published(found):
    """Experts of Qwen3-VL, which are stored with inputs as rows."""
    shapes = {"gate_up_proj": (4, 64, 96), "down_proj": (4, 48, 64)}
    return {
        name: (dtype, shapes[name.rpartition(".")[2]] if ".experts." in name else shape)
        for name, (dtype, shape) in found.items()
    }


MODELS = {
    "qwen3vlmoe": model(
        "qwen3_vl_moe",
        "Qwen3VLMoeForConditionalGeneration",
        like={"vocab_size": ...},
        config={
            **_IMAGES,
            "text_config": {
                **SIZES,
                **GROUPED,
                **EXPERTS,
                "moe_intermediate_size": 48,
                "vocab_size": 96,
                "head_dim": 32,
                "rope_scaling": {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True},
                "rope_theta": 5e6,
                "model_type": "qwen3_vl_moe_text",
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
            },
            "vision_config": _EYES_3,
            "tie_word_embeddings": False,
        },
        tensors=_as_published,
        dtype="BF16",
    ),
    "ernie4_5-moe": model(
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        config={**GROUPED, **RMS, **_ERNIE, "tie_word_embeddings": True, "rope_theta": 500000.0},
        tokenizer="spm",
        tensors=lambda found: found | {"model.mtp_linear_proj.0.weight": ("BF16", (64, 128))},
        unused=("model.mtp_",),
        dtype="BF16",
    ),
    "ernie4_5-moe-defaults": model(
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        config={**GROUPED, **_ERNIE, "moe_num_shared_experts": 0, "tie_word_embeddings": False},
        tokenizer="spm",
    ),
    "lfm2moe": model(
        "lfm2_moe",
        "Lfm2MoeForCausalLM",
        config={**GROUPED, **EXPERTS, **_LFM2, "norm_topk_prob": True, "rope_theta": 1e6},
        dtype="BF16",
    ),
    "minimax-m2": model(
        "minimax_m2",
        "MiniMaxM2ForCausalLM",
        config={**GROUPED, **_FEW, "head_dim": 32, "rotary_dim": 16, "use_qk_norm": True, "rope_theta": 5e6}
        | {"scoring_func": "sigmoid", "use_routing_bias": True, "intermediate_size": 32},
        dtype="BF16",
    ),
    "afmoe": model(
        "afmoe",
        "AfmoeForCausalLM",
        config={**GROUPED, **RMS, **EXPERTS, "head_dim": 32, "num_hidden_layers": 5, "num_dense_layers": 1}
        | {
            "num_shared_experts": 1,
            "route_norm": True,
            "route_scale": 2.5,
            "score_func": "sigmoid",
            "sliding_window": 6,
        }
        | {"global_attn_every_n_layers": 4, "mup_enabled": True, "n_group": 1, "topk_group": 1, "rope_theta": 10000.0},
        tokenizer="llama-bpe",
        dtype="BF16",
    ),
    "dots1": model(
        "dots1",
        "Dots1ForCausalLM",
        config={**_DOTS, "num_key_value_heads": 4, "head_dim": 16, "scoring_func": "sigmoid", "rope_theta": 1e7},
        dtype="BF16",
    ),
    "llama4": model(
        "llama4_text",
        "Llama4ForCausalLM",
        config={**_LLAMA_4, "rope_theta": 500000.0},
        tokenizer="llama-bpe",
        dtype="BF16",
    ),
    "llama4-sees": model(
        "llama4",
        "Llama4ForConditionalGeneration",
        like={"vocab_size": ...},
        config={
            "text_config": {**SIZES, **_LLAMA_4, "interleave_moe_layer_step": 1, "vocab_size": 96}
            | {"model_type": "llama4_text", "rope_scaling": _LLAMA_4_ROPE},
            "vision_config": _EYES,
            "image_token_index": 90,
            "boi_token_index": 88,
            "eoi_token_index": 89,
        },
        states="Llama4ForCausalLM",
        unused=("vision_model.", "multi_modal_projector."),
        tokenizer="llama-bpe",
        dtype="BF16",
    ),
}
