"""How Nemotron-H is published: each layer is a state space, attention, or a feed-forward network."""

from collections.abc import Callable
from typing import Any

from quantreg.checkpoints import (
    Checkpoint,
    Config,
    Described,
    Grouped,
    Key,
    MinusExp,
    Pairs,
    Row,
    Squeezed,
    common,
    named,
)

_LAYER = "backbone.layers.{i}."
_MIXER = f"{_LAYER}mixer."
_LETTERS = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E"}


def _pattern(config: Config) -> str:
    """The kinds of the layers, a letter for each."""
    found = config.get("hybrid_override_pattern")
    return str(found) if found else "".join(_LETTERS[kind] for kind in config["layers_block_type"])


def _others(*letters: str) -> Callable[[Config], set[int]]:
    """A function of Config: the layers that are of another kind."""
    return lambda config: {i for i, letter in enumerate(_pattern(config)) if letter not in letters}


def _each(letters: str, value: Callable[[Config], int]) -> Callable[[Config], list[int]]:
    """A function of Config: a number for each layer, 0 for those of other kinds."""
    return lambda config: [value(config) if letter in letters else 0 for letter in _pattern(config)]


def _has_experts(config: Config) -> bool:
    return "E" in _pattern(config)


# transformers 5 saves the kinds of the layers, and not their number.
_DEPTH: tuple[str, Callable[[Config], int]] = ("num_hidden_layers", lambda config: len(_pattern(config)))
_SHARED = (
    Row("token_embd.weight", "backbone.embeddings.weight"),
    Row("output_norm.weight", "backbone.norm_f.weight"),
    Row("output.weight", "lm_head.weight", optional=common.tied),
    Row("blk.{i}.attn_norm.weight", f"{_LAYER}norm.weight"),
    # in pairs, as for models whose GGUF rotates neighbours, although nothing is rotated
    Row("blk.{i}.attn_q.weight", f"{_MIXER}q_proj.weight", lambda config: Pairs(config.heads), _others("*")),
    Row("blk.{i}.attn_k.weight", f"{_MIXER}k_proj.weight", lambda config: Pairs(config.kv_heads), _others("*")),
    *named({"attn_v": "mixer.v_proj", "attn_output": "mixer.o_proj"}, _LAYER, bias=False, optional=_others("*")),
    *named({"ssm_in": "mixer.in_proj", "ssm_out": "mixer.out_proj"}, _LAYER, bias=False, optional=_others("M")),
    Row("blk.{i}.ssm_conv1d.weight", f"{_MIXER}conv1d.weight", Squeezed(1), optional=_others("M")),
    Row("blk.{i}.ssm_conv1d.bias", f"{_MIXER}conv1d.bias", optional=_others("M")),
    Row("blk.{i}.ssm_dt.bias", f"{_MIXER}dt_bias", optional=_others("M")),
    Row(
        "blk.{i}.ssm_a",
        f"{_MIXER}A_log",
        lambda config: (MinusExp(), Grouped(config.number("mamba_num_heads"))),
        optional=_others("M"),
    ),
    Row("blk.{i}.ssm_d", f"{_MIXER}D", lambda config: Grouped(config.number("mamba_num_heads")), optional=_others("M")),
    Row(
        "blk.{i}.ssm_norm.weight",
        f"{_MIXER}norm.weight",
        lambda config: Grouped(config.number("n_groups")),
        optional=_others("M"),
    ),
)


def _keys(letters: str, name: str) -> tuple[Key, ...]:
    changed = {
        "context_length": Key("context_length", lambda config: 1 << 20, back="max_position_embeddings"),
        "feed_forward_length": Key("feed_forward_length", _each(letters, lambda config: config.number(name))),
        "attention.head_count_kv": Key("attention.head_count_kv", _each("*", lambda config: config.kv_heads)),
    }
    shared = common.without(common.DECODER_KEYS, "attention.key_length", "attention.value_length")
    return (
        *(changed.get(key.new, key) for key in shared),
        Key("vocab_size", "vocab_size", needed=True),
        Key("rope.dimension_count", lambda config: config.width // config.heads),
        Key("ssm.conv_kernel", "conv_kernel", needed=True),
        Key("ssm.state_size", "ssm_state_size", needed=True),
        Key("ssm.group_count", "n_groups", needed=True),
        Key("ssm.inner_size", lambda config: config["mamba_num_heads"] * config["mamba_head_dim"]),
        Key("ssm.time_step_rank", "mamba_num_heads", needed=True),
        Key("rope.scaling.finetuned", lambda config: False, "bool"),
        Key("attention.key_length", "head_dim", needed=True),
        Key("attention.value_length", "head_dim", needed=True),
    )


def _restored_pattern(model: Described) -> str:
    kv, ff = model.get("attention.head_count_kv"), model.get("feed_forward_length")
    last = "E" if model.get("expert_count") else "-"
    return "".join("*" if heads else last if length else "M" for heads, length in zip(kv, ff, strict=True))


_RESTORED: tuple[tuple[str, Any], ...] = (
    ("hybrid_override_pattern", _restored_pattern),
    ("num_hidden_layers", common.value_of("block_count")),
    ("intermediate_size", lambda model: max(model.get("feed_forward_length"))),
    ("num_key_value_heads", lambda model: max(model.get("attention.head_count_kv"))),
    ("mamba_head_dim", lambda model: model.number("ssm.inner_size") // model.number("ssm.time_step_rank")),
    ("layer_norm_epsilon", common.value_of("attention.layer_norm_epsilon")),
    ("use_conv_bias", True),
)

NEMOTRON_H = (
    Checkpoint(
        classes=("NemotronHForCausalLM",),
        rows=(
            *_SHARED,
            *named(
                {"ffn_up": "mixer.up_proj", "ffn_down": "mixer.down_proj"}, _LAYER, bias=False, optional=_others("-")
            ),
        ),
        keys=_keys("-", "intermediate_size"),
        when=lambda config: not _has_experts(config),
        model_type="nemotron_h",
        restored=_RESTORED,
        vocabulary="bpe",
        defaults=(_DEPTH,),
    ),
)
NEMOTRON_H_MOE = (
    Checkpoint(
        classes=("NemotronHForCausalLM",),
        rows=(
            *_SHARED,
            Row("blk.{i}.ffn_gate_inp.weight", f"{_MIXER}gate.weight", optional=_others("E")),
            Row("blk.{i}.exp_probs_b.bias", f"{_MIXER}gate.e_score_correction_bias", optional=_others("E")),
            Row("blk.{i}.ffn_up_exps.weight", f"{_MIXER}experts.{{e}}.up_proj.weight", optional=_others("E")),
            Row("blk.{i}.ffn_down_exps.weight", f"{_MIXER}experts.{{e}}.down_proj.weight", optional=_others("E")),
            *named(
                {"ffn_up_shexp": "mixer.shared_experts.up_proj", "ffn_down_shexp": "mixer.shared_experts.down_proj"},
                _LAYER,
                bias=False,
                optional=_others("E"),
            ),
        ),
        keys=(
            *_keys("E", "moe_intermediate_size"),
            Key("expert_feed_forward_length", "moe_intermediate_size", needed=True),
            Key("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size", needed=True),
            Key("expert_shared_count", "n_shared_experts"),
            Key("expert_weights_norm", "norm_topk_prob", "bool"),
            Key("expert_weights_scale", "routed_scaling_factor", "f32"),
        ),
        when=_has_experts,
        model_type="nemotron_h",
        restored=(*_RESTORED, ("n_routed_experts", common.value_of("expert_count"))),
        vocabulary="bpe",
        defaults=(("layer_norm_epsilon", 1e-5), _DEPTH),
    ),
)
