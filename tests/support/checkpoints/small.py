"""What the models of the goldens share: sizes, and values of config.json."""

__all__ = ["EXPERTS", "GROUPED", "LLAMA3", "RMS", "SIZES", "YARN", "model"]

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


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
