"""How Phi is published: queries, keys and values in one matrix, and gate and up in one."""

import math
from typing import Any

from quantreg.checkpoints import Checkpoint, Config, Described, Generated, Key, Row, common, named
from quantreg.errors import CheckpointError


def _trained(config: Config) -> int:
    """The length of the texts of training, before the model was stretched."""
    return int(config.rope.get("original_max_position_embeddings") or config.number("max_position_embeddings"))


def _factors(name: str) -> Any:
    """A function of Config that makes the tensor of the factors for long or short texts, if config.json has them."""

    def make(config: Config) -> Generated | None:
        found = config.rope.get(name)
        if not found:
            return None
        pairs = _rotated(config) // 2
        if len(found) != pairs:
            raise CheckpointError(
                f"{config.path}: rope_scaling has {len(found)} numbers in {name}, but expected {pairs}, "
                "one for each pair that rotates: download the file again"
            )
        return Generated(tuple(map(float, found)))

    return make


def _magnitude(config: Config) -> float | None:
    """By how much queries and keys grow in a stretched model (LongRoPE, Ding et al. 2024, arXiv:2402.13753)."""
    rope, trained = config.rope, _trained(config)
    if not rope.get("long_factor"):
        return None
    scale = config.number("max_position_embeddings") / trained
    if scale <= 1:
        return 1.0
    if rope.get("rope_type") == "yarn":
        return 0.1 * math.log(scale) + 1
    return math.sqrt(1 + math.log(scale) / math.log(trained))


def _rotated(config: Config) -> int:
    return int(config.rope.get("partial_rotary_factor", 1.0) * config.width) // config.heads


def _long_rope(model: Described) -> dict[str, Any] | None:
    factors = {f"{kind}_factor": model.values(f"rope_factors_{kind}.weight") for kind in ("short", "long")}
    return None if None in factors.values() else {"type": "longrope", **factors}


PHI_3 = (
    Checkpoint(
        classes=("Phi3ForCausalLM",),
        rows=(
            *common.OUTER,
            Row("rope_factors_long.weight", (), _factors("long_factor")),
            Row("rope_factors_short.weight", (), _factors("short_factor")),
            *common.LAYER_NORMS,
            *named(
                {
                    "attn_qkv": "self_attn.qkv_proj",
                    "attn_output": "self_attn.o_proj",
                    "ffn_up": "mlp.gate_up_proj",
                    "ffn_down": "mlp.down_proj",
                },
                bias=False,
            ),
        ),
        keys=(
            Key("rope.scaling.attn_factor", _magnitude, "f32"),
            Key("context_length", "max_position_embeddings"),
            Key("rope.scaling.original_context_length", _trained),
            Key("embedding_length", "hidden_size", needed=True),
            Key("feed_forward_length", "intermediate_size", needed=True),
            common.BLOCK_COUNT,
            Key("attention.head_count", "num_attention_heads", needed=True),
            Key("attention.head_count_kv", lambda config: config.kv_heads),
            Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", "f32"),
            Key("rope.dimension_count", _rotated),
            Key("rope.freq_base", lambda config: config.rope["rope_theta"], "f32"),
            common.FILE_TYPE,
            Key("attention.sliding_window", lambda config: config.get("sliding_window", 0)),
        ),
        model_type="phi3",
        restored=(
            ("num_key_value_heads", common.value_of("attention.head_count_kv")),
            ("original_max_position_embeddings", common.value_of("rope.scaling.original_context_length")),
            ("sliding_window", lambda model: model.get("attention.sliding_window") or None),
            ("partial_rotary_factor", common.rotated_share),
            ("rope_scaling", _long_rope),
        ),
        vocabulary="phi3",
        defaults=(("rope_theta", 10000.0), ("rms_norm_eps", 1e-5), ("max_position_embeddings", 4096)),
    ),
)


def _phi_2_rotated(config: Config) -> int:
    return int(config.rope.get("partial_rotary_factor", 0.5) * config.width) // config.heads


PHI_2 = (
    Checkpoint(
        classes=("PhiForCausalLM",),
        rows=(
            Row("token_embd.weight", "model.embed_tokens.weight"),
            *named({"output_norm": "model.final_layernorm", "output": "lm_head"}, ""),
            *named(
                {
                    "attn_norm": "input_layernorm",
                    "attn_q": "self_attn.q_proj",
                    "attn_k": "self_attn.k_proj",
                    "attn_v": "self_attn.v_proj",
                    "attn_output": "self_attn.dense",
                    "ffn_up": "mlp.fc1",
                    "ffn_down": "mlp.fc2",
                }
            ),
        ),
        keys=(
            Key("context_length", ("n_positions", "max_position_embeddings")),
            Key("embedding_length", "hidden_size", needed=True),
            Key("feed_forward_length", lambda config: 4 * config.width),
            common.BLOCK_COUNT,
            Key("attention.head_count", lambda config: config.heads),
            Key("attention.head_count_kv", lambda config: config.heads),
            Key("attention.layer_norm_epsilon", ("layer_norm_epsilon", "layer_norm_eps"), "f32"),
            Key("rope.dimension_count", _phi_2_rotated),
            common.FILE_TYPE,
            Key("=tokenizer.ggml.add_bos_token", lambda config: False, "bool"),
        ),
        model_type="phi",
        restored=(
            ("max_position_embeddings", common.value_of("context_length")),
            ("intermediate_size", common.value_of("feed_forward_length")),
            ("num_attention_heads", common.value_of("attention.head_count")),
            ("num_key_value_heads", common.value_of("attention.head_count_kv")),
            ("layer_norm_eps", common.value_of("attention.layer_norm_epsilon")),
            ("partial_rotary_factor", common.rotated_share),
        ),
        vocabulary="bpe",
        defaults=(("layer_norm_eps", 1e-5), ("max_position_embeddings", 2048)),
    ),
)
