"""gpt-oss, DeepSeek, and Granite with experts."""

from checkpoints.small import GROUPED, RMS, SIZES, model


def _mxfp4(found):
    """The matrices of the experts as gpt-oss publishes them: blocks of 32 numbers along what is multiplied."""
    changed = {}
    for name, (dtype, shape) in found.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, columns, rows = shape
            changed[f"{name}_blocks"] = ("U8", (experts, rows, columns // 32, 16))
            changed[f"{name}_scales"] = ("U8", (experts, rows, columns // 32))
        else:
            changed[name] = (dtype, shape)
    return changed


_GPT_OSS = {
    **GROUPED,
    **RMS,
    "head_dim": 32,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 4,
    "rope_theta": 150000,
    "attention_bias": True,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    | {"original_max_position_embeddings": 32},
}
_GPT_OSS_DEFAULTS = {**_GPT_OSS, "rope_theta": ..., "rms_norm_eps": ..., "sliding_window": ...}
_GPT_OSS_SIZES = {**SIZES, "intermediate_size": 64}


def _with_another_layer(found):
    """A layer more, which predicts the token after the next."""
    last = {name: entry for name, entry in found.items() if name.startswith("model.layers.1.")}
    more = {name.replace(".1.", ".2.", 1): entry for name, entry in last.items()}
    return found | more | {"model.layers.2.eh_proj.weight": ("BF16", (64, 128))}


MODELS = {
    "gpt-oss": model(
        "gpt_oss",
        "GptOssForCausalLM",
        like=_GPT_OSS_SIZES,
        config={**_GPT_OSS, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}},
        dtype="BF16",
        tensors=_mxfp4,
        mxfp4=True,
    ),
    "gpt-oss-decoded": model(
        "gpt_oss", "GptOssForCausalLM", like=_GPT_OSS_SIZES, config=_GPT_OSS_DEFAULTS, dtype="BF16"
    ),
    "deepseek2-lite": model(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        config={
            "kv_lora_rank": 32,
            "q_lora_rank": None,
            "qk_nope_head_dim": 24,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "n_shared_experts": 2,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 1.0,
            "topk_method": "greedy",
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": False,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
        },
        dtype="BF16",
    ),
    "deepseek3": model(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        config={
            "kv_lora_rank": 32,
            "q_lora_rank": 32,
            "qk_nope_head_dim": 24,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 2.5,
            "n_group": 2,
            "topk_group": 1,
            "norm_topk_prob": True,
            "num_key_value_heads": 4,
            "scoring_func": "sigmoid",
            "rms_norm_eps": 1e-6,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "beta_fast": 32,
                "beta_slow": 1,
            },
        },
        tensors=_with_another_layer,
        unused=("model.layers.2.",),
        dtype="BF16",
    ),
    "granitemoe": model(
        "granitemoe",
        "GraniteMoeForCausalLM",
        config={
            **GROUPED,
            **RMS,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 4.0,
        },
        tokenizer="gpt-2",
        dtype="BF16",
    ),
    "granitemoe-shared": model(
        "granitemoeshared",
        "GraniteMoeSharedForCausalLM",
        config={"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 48},
        tokenizer="gpt-2",
    ),
}
