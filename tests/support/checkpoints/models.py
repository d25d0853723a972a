"""The models of the goldens: what differs between them is what changes a conversion.

``class`` is the class in transformers, ``type`` its model_type; ``config`` is what config.json says besides (a value
of ... removes a key), spelled as published folders spell it. ``dtype`` is that of the weights, ``norm`` the middle of
the weights of norms, ``tensors`` changes {name: (dtype, shape)} from what transformers would save. ``hparams`` are
values that the converter needs and does not find with transformers 5, or finds wrong.
"""

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
RMS = {"rms_norm_eps": 1e-5}


def model(type_, class_, *, config=(), like=SIZES, **rest):
    return {"type": type_, "class": class_, "config": {**like, **dict(config)}, **rest}


def llama(config=(), **rest):
    return model("llama", "LlamaForCausalLM", config={**GROUPED, **RMS, **dict(config)}, **rest)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def _bare(found):
    """The names of GPT-2 as OpenAI's is published, with masks."""
    masks = {f"h.{i}.attn.{name}": ("F32", shape) for i in (0, 1) for name, shape in _MASKS.items()}
    return {name.removeprefix("transformer."): entry for name, entry in found.items()} | masks


_MASKS = {"bias": (1, 1, 64, 64), "masked_bias": ()}


MODELS = {
    # Llama
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
    # Qwen
    "qwen2": model(
        "qwen2",
        "Qwen2ForCausalLM",
        config={**GROUPED, "rope_theta": 1e6, "tie_word_embeddings": True},
        dtype="BF16",
    ),
    "qwen2-yarn": model(
        "qwen2",
        "Qwen2ForCausalLM",
        config={**GROUPED, **RMS, "rope_scaling": YARN, "sliding_window": 64, "use_sliding_window": False},
    ),
    "qwen2moe": model(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        config={**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 48, "norm_topk_prob": False},
        dtype="BF16",
    ),
    "qwen3": model(
        "qwen3",
        "Qwen3ForCausalLM",
        config={**GROUPED, "head_dim": 32, "rope_theta": 1e6, "tie_word_embeddings": True},
        dtype="BF16",
    ),
    "qwen3-yarn": model(
        "qwen3",
        "Qwen3ForCausalLM",
        config={**GROUPED, **RMS, "rope_scaling": YARN, "attention_bias": True},
        dtype="F16",
    ),
    "qwen3moe": model(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        config={**EXPERTS, "head_dim": 32, "norm_topk_prob": True},
        dtype="BF16",
        shards=2,
    ),
    # Gemma
    "gemma": model(
        "gemma",
        "GemmaForCausalLM",
        config={"num_key_value_heads": 1, "max_position_embeddings": ..., "hidden_act": "gelu_pytorch_tanh"},
        tokenizer="spm",
        norm=0,
    ),
    "gemma2": model(
        "gemma2",
        "Gemma2ForCausalLM",
        config={
            **GROUPED,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 4,
            "rms_norm_eps": 1e-6,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "num_hidden_layers": 3,
        },
        tokenizer="spm",
        dtype="BF16",
        norm=0,
    ),
    "gemma2-defaults": model(
        "gemma2", "Gemma2ForCausalLM", config={"max_position_embeddings": ...}, tokenizer="spm", norm=0
    ),
    "gemma3": model(
        "gemma3_text",
        "Gemma3ForCausalLM",
        config={
            **GROUPED,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 4,
            "num_hidden_layers": 7,
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
            "sliding_window_pattern": 6,
            "rms_norm_eps": 1e-6,
        },
        tokenizer="spm",
        dtype="BF16",
        norm=0,
    ),
    "gemma3-linear": model(
        "gemma3_text",
        "Gemma3ForCausalLM",
        config={
            **GROUPED,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 4,
            "num_hidden_layers": 6,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        tokenizer="spm",
        norm=0,
    ),
    "gemma3-defaults": model(
        "gemma3_text",
        "Gemma3ForCausalLM",
        config={"max_position_embeddings": ..., "num_attention_heads": ...},
        tokenizer="spm",
        norm=0,
    ),
    # Phi
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
    # The family of GPT-2 and GPT-NeoX
    "gpt2": model(
        "gpt2",
        "GPT2LMHeadModel",
        like={"n_embd": 64, "n_layer": 2, "n_head": 4, "n_ctx": 128, "n_positions": 128},
        config={"bos_token_id": 90, "eos_token_id": 90},
        tokenizer="gpt-2",
    ),
    "gpt2-published": model(
        "gpt2",
        "GPT2LMHeadModel",
        like={"n_embd": 64, "n_layer": 2, "n_head": 4, "n_ctx": 64, "n_positions": 64, "layer_norm_epsilon": 1e-6},
        config={"bos_token_id": 90, "eos_token_id": 90, "tie_word_embeddings": False},
        tokenizer="gpt-2",
        tensors=_bare,
        unused=("h.",),
    ),
    "gptneox": model(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        config={"rotary_pct": 0.25, "rotary_emb_base": 10000, "max_position_embeddings": ...},
        tokenizer="gpt-2",
        hparams={"rotary_pct": 0.25},
        dtype="F16",
    ),
    "gptneox-sequential": model(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        config={"rotary_pct": 1.0, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5, "use_parallel_residual": False},
        tokenizer="gpt-2",
        hparams={"rotary_pct": 1.0},
    ),
    "falcon-7b": model(
        "falcon",
        "FalconForCausalLM",
        config={
            "multi_query": True,
            "new_decoder_architecture": False,
            "parallel_attn": True,
            "bias": False,
            "alibi": False,
            "intermediate_size": ...,
        },
        tokenizer="gpt-2",
        hparams={"num_kv_heads": 1},
        dtype="BF16",
    ),
    "falcon-40b": model(
        "falcon",
        "FalconForCausalLM",
        config={
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "parallel_attn": True,
            "bias": False,
            "alibi": False,
            "layer_norm_epsilon": 1e-5,
            "multi_query": True,
            "tie_word_embeddings": False,
            "intermediate_size": ...,
        },
        tokenizer="gpt-2",
        dtype="BF16",
        shards=2,
    ),
    "starcoder2": model(
        "starcoder2",
        "Starcoder2ForCausalLM",
        config={"use_bias": True, "tie_word_embeddings": True},
        tokenizer="gpt-2",
        dtype="BF16",
    ),
    "starcoder2-untied": model(
        "starcoder2",
        "Starcoder2ForCausalLM",
        config={**GROUPED, "norm_epsilon": 1e-6, "use_bias": True, "rope_theta": 1e5, "tie_word_embeddings": False},
        tokenizer="gpt-2",
        dtype="F16",
    ),
    # Others
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
}


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

MODELS |= {
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
}

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def _pooling(mode):
    modes = {f"pooling_mode_{each}": each == mode for each in ("cls_token", "mean_tokens", "lasttoken")}
    return {"modules.json": _MODULES, "1_Pooling/config.json": {"word_embedding_dimension": 64, **modes}}


MODELS |= {
    "bert": model(
        "bert",
        "BertModel",
        config={"layer_norm_eps": 1e-12, "type_vocab_size": 2, "pad_token_id": 0, "bos_token_id": ...},
        tokenizer="wordpiece",
        files=_pooling("cls_token"),
    ),
    "bert-masked": model(
        "bert",
        "BertForMaskedLM",
        config={"type_vocab_size": 2, "pad_token_id": 0, "bos_token_id": ..., "max_position_embeddings": ...},
        tokenizer="wordpiece",
        dtype="F16",
        files=_pooling("mean_tokens"),
        states="BertModel",
        tensors=lambda found: found | {"bert.embeddings.position_ids": ("I64", (1, 512))},
        unused=("cls.", "embeddings.position_ids", "bert.embeddings.position_ids"),
        absent=("pooler.",),
    ),
    "nomic-bert": model(
        "nomic_bert",
        "NomicBertModel",
        config={
            "n_embd": 64,
            "n_inner": 96,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 8192,
            "max_trained_positions": 2048,
            "activation_function": "swiglu",
            "causal": False,
            "qkv_proj_bias": False,
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
            "prenorm": False,
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "type_vocab_size": 2,
            "pad_token_id": 0,
            "max_position_embeddings": ...,
        },
        tokenizer="wordpiece",
        files=_pooling("mean_tokens"),
    ),
}

# Further families
_WINDOWS = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
MODELS |= {
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
    "olmo": model("olmo", "OlmoForCausalLM", config=GROUPED, dtype="F16"),
    "olmo-clipped": model(
        "olmo", "OlmoForCausalLM", config={"clip_qkv": 1.0, "tie_word_embeddings": True, "rope_theta": 1e5}
    ),
    "olmoe": model(
        "olmoe",
        "OlmoeForCausalLM",
        config={"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False},
        dtype="BF16",
        shards=2,
    ),
    "phi2": model(
        "phi",
        "PhiForCausalLM",
        config={"partial_rotary_factor": 0.25, "num_key_value_heads": 4, "intermediate_size": 256},
        dtype="F16",
    ),
    "phi2-defaults": model("phi", "PhiForCausalLM", config={"max_position_embeddings": ..., "intermediate_size": 256}),
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
    "seed-oss": model(
        "seed_oss",
        "SeedOssForCausalLM",
        config={**GROUPED, **RMS, "head_dim": 32, "attention_bias": True, "attention_out_bias": False},
        dtype="BF16",
    ),
    "ernie4_5": model(
        "ernie4_5", "Ernie4_5ForCausalLM", config={**GROUPED, **RMS, "head_dim": 32}, tokenizer="spm", dtype="BF16"
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
    "nemotron": model(
        "nemotron",
        "NemotronForCausalLM",
        config={"norm_eps": 1e-5, "partial_rotary_factor": 0.5, "num_key_value_heads": 2, "head_dim": 16},
        tokenizer="spm",
        dtype="BF16",
        norm=0,
    ),
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
    "starcoder": model(
        "gpt_bigcode",
        "GPTBigCodeForCausalLM",
        like={"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "layer_norm_epsilon": 1e-5},
        config={"multi_query": True, "bos_token_id": 90, "eos_token_id": 90},
        tokenizer="gpt-2",
        dtype="F16",
    ),
    "bloom": model(
        "bloom",
        "BloomForCausalLM",
        like={"hidden_size": 64, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-5, "seq_length": 128},
        config={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
        tokenizer="gpt-2",
        dtype="F16",
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
        dtype="BF16",
    ),
}
