"""The family of GPT-2 and GPT-NeoX."""

from checkpoints.small import GROUPED, model


def _bare(found):
    """The names of GPT-2 as OpenAI's is published, with masks."""
    masks = {f"h.{i}.attn.{name}": ("F32", shape) for i in (0, 1) for name, shape in _MASKS.items()}
    return {name.removeprefix("transformer."): entry for name, entry in found.items()} | masks


_MASKS = {"bias": (1, 1, 64, 64), "masked_bias": ()}

MODELS = {
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
    "starcoder": model(
        "gpt_bigcode",
        "GPTBigCodeForCausalLM",
        like={"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "layer_norm_epsilon": 1e-5},
        config={"multi_query": True, "bos_token_id": 90, "eos_token_id": 90},
        tokenizer="gpt-2",
        dtype="F16",
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
    "bloom": model(
        "bloom",
        "BloomForCausalLM",
        like={"hidden_size": 64, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-5, "seq_length": 128},
        config={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
        tokenizer="gpt-2",
        dtype="F16",
    ),
    "nemotron": model(
        "nemotron",
        "NemotronForCausalLM",
        config={"norm_eps": 1e-5, "partial_rotary_factor": 0.5, "num_key_value_heads": 2, "head_dim": 16},
        tokenizer="spm",
        dtype="BF16",
        norm=0,
    ),
}
