"""GLM-4 and its successors."""

from checkpoints.small import GROUPED, RMS, model


def _with_another_layer(found):
    """A layer more, which predicts the token after the next, as in the published models."""
    last = {name: entry for name, entry in found.items() if name.startswith("model.layers.1.")}
    more = {name.replace(".1.", ".2.", 1): entry for name, entry in last.items()}
    more |= {"model.layers.2.eh_proj.weight": ("BF16", (64, 128)), "model.layers.2.enorm.weight": ("BF16", (64,))}
    more |= {"model.layers.2.hnorm.weight": ("BF16", (64,)), "model.layers.2.shared_head.norm.weight": ("BF16", (64,))}
    more |= dict.fromkeys(
        ("model.layers.2.embed_tokens.weight", "model.layers.2.shared_head.head.weight"), ("BF16", (96, 64))
    )
    return found | more


_EXPERTS = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
}
_LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}

MODELS = {
    "glm4": model(
        "glm4",
        "Glm4ForCausalLM",
        config={
            **GROUPED,
            **RMS,
            "head_dim": 32,
            "partial_rotary_factor": 0.5,
            "attention_bias": False,
            "pad_token_id": 0,
        },
        tokenizer="glm4",
        dtype="BF16",
    ),
    "glm4-biases": model(
        "glm4",
        "Glm4ForCausalLM",
        config={**GROUPED, "rope_theta": 1e6, "attention_bias": True, "pad_token_id": 0},
        tokenizer="glm4",
    ),
    "glm": model(
        "glm",
        "GlmForCausalLM",
        config={
            **GROUPED,
            **RMS,
            "head_dim": 16,
            "pad_token_id": 0,
            "max_position_embeddings": 64,
            "partial_rotary_factor": 0.5,
        },
        tokenizer="glm4",
        dtype="BF16",
    ),
    "glm4moe": model(
        "glm4_moe",
        "Glm4MoeForCausalLM",
        config={
            **GROUPED,
            **RMS,
            **_EXPERTS,
            "head_dim": 32,
            "partial_rotary_factor": 0.5,
            "use_qk_norm": True,
            "attention_bias": True,
            "num_nextn_predict_layers": 1,
            "rope_theta": 1e6,
        },
        tokenizer="glm4",
        tensors=_with_another_layer,
        unused=("model.layers.2.",),
        dtype="BF16",
    ),
    "glm4moe-defaults": model(
        "glm4_moe",
        "Glm4MoeForCausalLM",
        config={**GROUPED, **_EXPERTS, "num_nextn_predict_layers": 0},
        tokenizer="glm4",
    ),
    "glm4moe-lite": model(
        "glm4_moe_lite",
        "Glm4MoeLiteForCausalLM",
        config={
            "rms_norm_eps": 1e-6,
            **_EXPERTS,
            **_LATENT,
            "scoring_func": "sigmoid",
            "num_nextn_predict_layers": 1,
        },
        tokenizer="glm4",
        tensors=_with_another_layer,
        unused=("model.layers.2.",),
        dtype="BF16",
    ),
}
