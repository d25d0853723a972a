"""Llama, Mistral and models of their shape."""

from checkpoints.small import GROUPED, LLAMA3, RMS, SIZES, YARN, model


def llama(config=(), **rest):
    return model("llama", "LlamaForCausalLM", config={**GROUPED, **RMS, **dict(config)}, **rest)


MODELS = {
    "llama": llama(tokenizer="spm"),
    "llama-first": llama({"num_key_value_heads": ..., "rms_norm_eps": ...}, tokenizer="spm", dtype="F16"),
    "llama-3": llama(
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3, "tie_word_embeddings": True},
        tokenizer="llama-bpe",
        dtype="BF16",
        shards=3,
    ),
    "llama-biases": llama(
        {"head_dim": 32, "attention_bias": True, "mlp_bias": True, "rope_scaling": {"type": "linear", "factor": 2.0}},
        tokenizer="llama-bpe",
        dtype="BF16",
    ),
    "mistral": model(
        "mistral",
        "MistralForCausalLM",
        config={**GROUPED, **RMS, "sliding_window": 4096, "rope_theta": 1e6, "head_dim": 32},
        tokenizer="spm",
        dtype="BF16",
        shards=2,
    ),
    "mistral-defaults": model(
        "mistral", "MistralForCausalLM", config={"num_attention_heads": 8, "sliding_window": None}, tokenizer="spm"
    ),
    "mixtral": model(
        "mixtral",
        "MixtralForCausalLM",
        config={"num_attention_heads": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
        tokenizer="spm",
        dtype="BF16",
        shards=2,
    ),
    "mistral3": model(
        "ministral3",
        "Ministral3ForCausalLM",
        config={
            **GROUPED,
            **RMS,
            "head_dim": 32,
            "rope_parameters": {
                **YARN,
                "rope_theta": 1e6,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
        tokenizer="llama-bpe",
        dtype="BF16",
    ),
    "mistral3-sees": model(
        "mistral3",
        "Mistral3ForConditionalGeneration",
        like={"bos_token_id": 1, "eos_token_id": 2, "vocab_size": ...},
        config={
            "text_config": {
                **{key: value for key, value in SIZES.items() if "token_id" not in key},
                **GROUPED,
                **RMS,
                "model_type": "mistral",
                "vocab_size": 96,
                "head_dim": 32,
                "rope_theta": 1e6,
                "sliding_window": None,
            },
            "vision_config": {
                "model_type": "pixtral",
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "head_dim": 16,
                "image_size": 16,
                "patch_size": 4,
            },
            "image_token_index": 90,
            "spatial_merge_size": 2,
        },
        tokenizer="llama-bpe",
        dtype="BF16",
    ),
    "smollm3": model(
        "smollm3",
        "SmolLM3ForCausalLM",
        config={
            **GROUPED,
            **RMS,
            "num_hidden_layers": 4,
            "tie_word_embeddings": True,
            "rope_theta": 5e6,
            "pad_token_id": 0,
        },
        tokenizer="llama-bpe",
        dtype="BF16",
    ),
    "smollm3-defaults": model(
        "smollm3",
        "SmolLM3ForCausalLM",
        config={"num_hidden_layers": 4, "tie_word_embeddings": False, "pad_token_id": 0},
        tokenizer="llama-bpe",
    ),
    "arcee": model(
        "arcee", "ArceeForCausalLM", config={**GROUPED, "rms_norm_eps": 1e-6, "head_dim": 32, "rope_theta": 1e5}
    ),
    "arcee-yarn": model("arcee", "ArceeForCausalLM", config={"rope_scaling": YARN}, dtype="BF16"),
    "seed-oss": model(
        "seed_oss",
        "SeedOssForCausalLM",
        config={**GROUPED, **RMS, "head_dim": 32, "attention_bias": True, "attention_out_bias": False},
        dtype="BF16",
    ),
    "ernie4_5": model(
        "ernie4_5", "Ernie4_5ForCausalLM", config={**GROUPED, **RMS, "head_dim": 32}, tokenizer="spm", dtype="BF16"
    ),
    "phi3": model(
        "phi3",
        "Phi3ForCausalLM",
        config={
            **GROUPED,
            "sliding_window": 2047,
            "original_max_position_embeddings": 4096,
            "pad_token_id": 0,
            "max_position_embeddings": ...,
        },
        tokenizer="spm",
        dtype="BF16",
    ),
    "phi3-long": model(
        "phi3",
        "Phi3ForCausalLM",
        config={
            **RMS,
            **GROUPED,
            "original_max_position_embeddings": 32,
            "pad_token_id": 0,
            "sliding_window": 64,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.02, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0],
                "long_factor": [1.0, 1.5, 2.5, 4.0, 8.0, 16.0, 24.0, 32.0],
            },
        },
        tokenizer="spm",
        dtype="BF16",
    ),
    "phi2": model(
        "phi",
        "PhiForCausalLM",
        config={"partial_rotary_factor": 0.25, "num_key_value_heads": 4, "intermediate_size": 256},
        dtype="F16",
    ),
    "phi2-defaults": model("phi", "PhiForCausalLM", config={"max_position_embeddings": ..., "intermediate_size": 256}),
    "hunyuan": model(
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
        config={**GROUPED, **RMS, "head_dim": 32, "eod_token_id": 92},
        dtype="BF16",
    ),
    "lfm2": model(
        "lfm2",
        "Lfm2ForCausalLM",
        config={
            **GROUPED,
            "norm_eps": 1e-5,
            "conv_L_cache": 3,
            "conv_bias": False,
            "block_multiple_of": 32,
            "layer_types": ["conv", "full_attention", "conv"],
            "num_hidden_layers": 3,
            "rope_theta": 1e6,
            "block_auto_adjust_ff_dim": True,
            "block_ffn_dim_multiplier": 1.0,
            "block_ff_dim": 96,
        },
        dtype="BF16",
    ),
}
