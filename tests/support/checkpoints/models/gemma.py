"""Gemma."""

from checkpoints.small import GROUPED, SIZES, model

_TEXT = {key: value for key, value in SIZES.items() if "token_id" not in key}
_SIGLIP = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_SIGLIP |= {"image_size": 16, "patch_size": 4, "model_type": "siglip_vision_model", "vision_use_head": False}
_POOLING = {
    "modules.json": [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}],
    "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True},
}

MODELS = {
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
            "final_logit_softcapping": 20.0,
            "rms_norm_eps": 1e-6,
        },
        tokenizer="spm",
        dtype="BF16",
        norm=0,
    ),
    "gemma-embedding": model(
        "gemma3_text",
        "Gemma3TextModel",
        config={
            **GROUPED,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 6,
            "num_hidden_layers": 7,
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
            "sliding_window_pattern": 6,
            "use_bidirectional_attention": True,
        },
        tokenizer="spm",
        dtype="BF16",
        files=_POOLING,
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
    "gemma3-sees": model(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        like={"bos_token_id": 1, "eos_token_id": [2], "vocab_size": ..., "mm_tokens_per_image": 4},
        config={
            "text_config": {
                **_TEXT,
                "model_type": "gemma3_text",
                "sliding_window": 4,
                "vocab_size": 96,
                "head_dim": 32,
                "query_pre_attn_scalar": 32,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
            },
            "vision_config": _SIGLIP,
            "boi_token_index": 60,
            "eoi_token_index": 61,
            "image_token_index": 62,
        },
        tokenizer="spm",
        dtype="BF16",
        norm=0,
    ),
}
