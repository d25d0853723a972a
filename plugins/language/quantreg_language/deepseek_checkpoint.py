"""How DeepSeek 2 and 3 are published: latent attention, and experts behind a few dense layers."""

from dataclasses import replace
from typing import Any

from quantreg.checkpoints import Checkpoint, Config, Described, Heads, Key, Row, Transposed, common, named

_MLP = "model.layers.{i}.mlp."


def _keys_of_heads(config: Config) -> tuple[Heads, Transposed]:
    """The matrix that makes keys of latents, turned: it is multiplied with queries instead."""
    nope, value = config.number("qk_nope_head_dim"), config.number("v_head_dim")
    return Heads(config.heads, nope + value, 0, nope), Transposed()


def _values_of_heads(config: Config) -> Heads:
    nope, value = config.number("qk_nope_head_dim"), config.number("v_head_dim")
    return Heads(config.heads, nope + value, nope, value)


def _latent(config: Config) -> int:
    return config.number("kv_lora_rank", default=512)


def _dense(config: Config) -> int:
    """How many layers come before the first one with experts."""
    return int(config.get("first_k_dense_replace", 0))


def _log_multiplier(config: Config) -> float | None:
    found = config.rope.get("mscale_all_dim")
    return None if found is None else 0.1 * found


def _unless_false(name: str) -> Any:
    return lambda config: config.get(name) or None


_CHANGED = {
    "attention.head_count_kv": Key("attention.head_count_kv", lambda config: 1),  # GGUF has one head of latents
    "attention.key_length": Key("attention.key_length", lambda config: _latent(config) + config["qk_rope_head_dim"]),
    "attention.value_length": Key("attention.value_length", _latent),
}


def _is_third(model: Described) -> bool:
    """Whether it is DeepSeek 3, which scores experts with a sigmoid, and not DeepSeek 2."""
    return bool(model.get("expert_gating_func") == 2)


def _method(model: Described) -> str:
    if _is_third(model):
        return "noaux_tc"
    return "group_limited_greedy" if (model.get("expert_group_count") or 1) > 1 else "greedy"


def _rope_scaling(model: Described) -> dict[str, Any] | None:
    if model.get("rope.scaling.type") != "yarn":
        return None
    found = {
        "type": "yarn",
        "factor": model.get("rope.scaling.factor"),
        "original_max_position_embeddings": model.get("rope.scaling.original_context_length"),
        "beta_fast": model.get("rope.scaling.yarn_beta_fast"),
        "beta_slow": model.get("rope.scaling.yarn_beta_slow"),
    }
    multiplier = model.get("rope.scaling.yarn_log_multiplier")
    if multiplier is not None:  # published models have the same number twice
        found |= dict.fromkeys(("mscale", "mscale_all_dim"), float(f"{10 * multiplier:.6g}"))
    return {name: value for name, value in found.items() if value is not None}


def _is_second(config: Config) -> bool:
    """Whether it is DeepSeek 2, whose experts have no bias."""
    return "DeepseekV2ForCausalLM" in config.classes


_DEEPSEEK = (
    Checkpoint(
        classes=("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *named({"attn_q": "self_attn.q_proj"}, bias=False, unless="attn_q_a"),
            *named(
                {
                    "attn_q_a": "self_attn.q_a_proj",
                    "attn_q_a_norm": "self_attn.q_a_layernorm",
                    "attn_q_b": "self_attn.q_b_proj",
                },
                bias=False,
                unless="attn_q",
            ),
            *named(
                {
                    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
                    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
                    "attn_output": "self_attn.o_proj",
                },
                bias=False,
            ),
            Row("blk.{i}.attn_k_b.weight", "model.layers.{i}.self_attn.kv_b_proj.weight", _keys_of_heads),
            Row("blk.{i}.attn_v_b.weight", "model.layers.{i}.self_attn.kv_b_proj.weight", _values_of_heads),
            *common.SPARSE_OR_DENSE,
            Row(
                "blk.{i}.exp_probs_b.bias",
                f"{_MLP}gate.e_score_correction_bias",
                optional=_is_second,
                unless="blk.{i}.ffn_gate.weight",
            ),
            *common.SHARED_EXPERTS,
        ),
        keys=(
            *(_CHANGED.get(key.new, key) for key in common.DECODER_KEYS),
            Key("leading_dense_block_count", _dense),
            Key("vocab_size", "vocab_size", needed=True),
            Key("attention.q_lora_rank", "q_lora_rank"),
            Key("attention.kv_lora_rank", _latent),
            Key("attention.key_length_mla", lambda config: config["qk_nope_head_dim"] + config["qk_rope_head_dim"]),
            Key("attention.value_length_mla", "v_head_dim"),
            Key("expert_feed_forward_length", ("moe_intermediate_size", "intermediate_size")),
            Key("expert_shared_count", lambda config: config.get("n_shared_experts", 0)),
            Key("expert_weights_scale", "routed_scaling_factor", "f32"),
            Key("expert_weights_norm", _unless_false("norm_topk_prob"), "bool"),
            Key("rope.dimension_count", "qk_rope_head_dim", needed=True),
            Key("rope.scaling.yarn_log_multiplier", _log_multiplier, "f32"),
        ),
        ignored=("model.layers.{layers}.*",),  # it predicts the token after the next, and GGUF has no place for it
        model_type="deepseek_v2",
        restored=(
            ("architectures", lambda model: [f"DeepseekV{3 if _is_third(model) else 2}ForCausalLM"]),
            ("model_type", lambda model: f"deepseek_v{3 if _is_third(model) else 2}"),
            ("num_key_value_heads", common.value_of("attention.head_count")),
            ("n_routed_experts", common.value_of("expert_count")),
            ("n_shared_experts", lambda model: model.get("expert_shared_count") or None),
            ("first_k_dense_replace", common.value_of("leading_dense_block_count", 0)),
            ("kv_lora_rank", common.value_of("attention.kv_lora_rank")),
            ("q_lora_rank", common.value_of("attention.q_lora_rank")),
            ("qk_rope_head_dim", common.value_of("rope.dimension_count")),
            (
                "qk_nope_head_dim",
                lambda model: model.number("attention.key_length_mla") - model.number("rope.dimension_count"),
            ),
            ("norm_topk_prob", common.value_of("expert_weights_norm", False)),
            ("scoring_func", lambda model: "sigmoid" if _is_third(model) else None),
            ("topk_method", _method),
            ("rope_scaling", _rope_scaling),
        ),
        vocabulary="bpe",
        defaults=(("rope_theta", 10000.0),),
    ),
)

_LENGTHS = tuple(_CHANGED[name] for name in ("attention.key_length", "attention.value_length"))
_KEYS_LITE = tuple(
    each
    for key in common.without(_DEEPSEEK[0].keys, *(key.new for key in _LENGTHS))
    for each in ((key, *_LENGTHS) if key.new == "attention.kv_lora_rank" else (key,))
)

DEEPSEEK_2 = (
    *_DEEPSEEK,
    replace(  # GLM 4.7 Flash
        _DEEPSEEK[0],
        classes=("Glm4MoeLiteForCausalLM",),
        rows=(*_DEEPSEEK[0].rows, *common.further_rows(), *common.FURTHER_ENDS),
        keys=(*_KEYS_LITE, Key("nextn_predict_layers", common.further_layers)),
        ignored=(),
        further=True,
        model_type="glm4_moe_lite",
        restored=(
            *(pair for pair in _DEEPSEEK[0].restored if pair[0] not in ("architectures", "model_type")),
            ("num_hidden_layers", common.trunk_layers),
            ("num_nextn_predict_layers", common.value_of("nextn_predict_layers", 0)),
        ),
        vocabulary="glm4moe",
    ),
)
