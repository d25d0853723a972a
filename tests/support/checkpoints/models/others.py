"""OLMo, Granite, Command R, StableLM and EXAONE."""

from checkpoints.small import GROUPED, LLAMA3, RMS, YARN, model

_WINDOWS = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]

MODELS = {
    "olmo": model("olmo", "OlmoForCausalLM", config=GROUPED, dtype="F16"),
    "olmo-clipped": model(
        "olmo", "OlmoForCausalLM", config={"clip_qkv": 1.0, "tie_word_embeddings": True, "rope_theta": 1e5}
    ),
    "olmo2": model("olmo2", "Olmo2ForCausalLM", dtype="BF16"),
    "olmo3": model(
        "olmo3",
        "Olmo3ForCausalLM",
        config={
            **GROUPED,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e5,
            "sliding_window": 4,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            "rope_scaling": YARN,
        },
    ),
    "olmo3-defaults": model("olmo3", "Olmo3ForCausalLM", config={"num_hidden_layers": 4}),
    "olmoe": model(
        "olmoe",
        "OlmoeForCausalLM",
        config={"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False},
        dtype="BF16",
        shards=2,
    ),
    "granite": model(
        "granite",
        "GraniteForCausalLM",
        config={
            **GROUPED,
            **RMS,
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 4.0,
            "tie_word_embeddings": True,
            "attention_bias": False,
        },
        tokenizer="gpt-2",
        dtype="BF16",
    ),
    "granite-defaults": model("granite", "GraniteForCausalLM", tokenizer="gpt-2"),
    "command-r": model(
        "cohere",
        "CohereForCausalLM",
        config={"layer_norm_eps": 1e-5, "logit_scale": 0.25, "model_max_length": 256, **GROUPED},
        dtype="F16",
    ),
    "command-r-plus": model(
        "cohere",
        "CohereForCausalLM",
        config={"use_qk_norm": True, "max_position_embeddings": ...},
    ),
    "cohere2": model(
        "cohere2",
        "Cohere2ForCausalLM",
        config={
            **GROUPED,
            "sliding_window": 4,
            "num_hidden_layers": 4,
            "logit_scale": 0.25,
            "rotary_pct": 1.0,
            "layer_norm_eps": 1e-5,
            "layer_types": _WINDOWS,
            "sliding_window_pattern": 4,
        },
        dtype="BF16",
    ),
    "stablelm": model(
        "stablelm",
        "StableLmForCausalLM",
        config={"use_qkv_bias": True, "max_position_embeddings": ..., **GROUPED},
        tokenizer="gpt-2",
        dtype="F16",
    ),
    "stablelm-12b": model(
        "stablelm",
        "StableLmForCausalLM",
        config={
            "layer_norm_eps": 1e-6,
            "partial_rotary_factor": 0.5,
            **GROUPED,
            "use_parallel_residual": True,
            "qk_layernorm": True,
        },
        tokenizer="gpt-2",
        dtype="BF16",
    ),
    "exaone4": model(
        "exaone4",
        "Exaone4ForCausalLM",
        config={
            **GROUPED,
            **RMS,
            "rope_scaling": LLAMA3,
            "rope_theta": 1e6,
            "tie_word_embeddings": True,
            "sliding_window": None,
            "sliding_window_pattern": None,
            "layer_types": ["full_attention"] * 2,
        },
        dtype="BF16",
    ),
    "exaone4-windows": model(
        "exaone4", "Exaone4ForCausalLM", config={**GROUPED, **RMS, "rope_theta": 1e4, "num_hidden_layers": 3}
    ),
}
