"""How Granite is published."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quantreg.checkpoints import (
    Checkpoint,
    Config,
    Described,
    Grouped,
    Key,
    MinusExp,
    Row,
    Share,
    Squeezed,
    Transform,
    common,
    named,
)


def _unless_zero(name: str) -> Callable[[Config], Any]:
    """A function of Config that returns a factor, or None if it is 0, which means that there is none."""
    return lambda config: config.get(name) or None


def _head(config: Config) -> int:
    """Granite has no length of a head of its own."""
    return config.width // config.heads


_RESTORED = (
    ("attention_multiplier", common.value_of("attention.scale", 0)),
    ("embedding_multiplier", common.value_of("embedding_scale", 0)),
    ("residual_multiplier", common.value_of("residual_scale", 0)),
    ("logits_scaling", common.value_of("logit_scale", 0)),
    ("attention_bias", common.has("attn_q.bias")),
    ("mlp_bias", common.has("ffn_up.bias")),
)


def _is_shared(model: Described) -> bool:
    """Whether there is an expert that sees every token."""
    return model.has("blk.0.ffn_up_shexp.weight")


_EXPERTS = "model.layers.{i}.block_sparse_moe."
_SHARED = "model.layers.{i}.shared_mlp."

_GRANITE = (
    Checkpoint(
        classes=("GraniteForCausalLM",),
        rows=(*common.OUTER, *common.LAYER_NORMS, *common.PAIRED_ATTENTION, *common.DENSE),
        keys=(
            *common.without(common.DECODER_KEYS, "attention.key_length", "attention.value_length"),
            Key("vocab_size", "vocab_size", needed=True),
            Key("rope.dimension_count", _head),
            Key("attention.scale", _unless_zero("attention_multiplier"), "f32"),
            Key("embedding_scale", _unless_zero("embedding_multiplier"), "f32"),
            Key("residual_scale", _unless_zero("residual_multiplier"), "f32"),
            Key("logit_scale", _unless_zero("logits_scaling"), "f32"),
        ),
        model_type="granite",
        vocabulary="llama",
        defaults=(
            *common.DEFAULTS,
            ("attention_multiplier", 1.0),
            ("embedding_multiplier", 1.0),
            ("residual_multiplier", 1.0),
            ("logits_scaling", 1.0),
        ),
        restored=_RESTORED,
    ),
)


def _unshared(config: Config) -> bool:
    """Whether no expert is one that every token uses."""
    return not config.get("shared_intermediate_size")


_MIXTURE = (
    Row("blk.{i}.ffn_gate_inp.weight", f"{_EXPERTS}router.layer.weight"),
    Row("blk.{i}.ffn_gate_exps.weight", f"{_EXPERTS}input_linear.weight", Share(0, 2, -2)),
    Row("blk.{i}.ffn_up_exps.weight", f"{_EXPERTS}input_linear.weight", Share(1, 2, -2)),
    Row("blk.{i}.ffn_down_exps.weight", f"{_EXPERTS}output_linear.weight"),
    Row("blk.{i}.ffn_gate_shexp.weight", f"{_SHARED}input_linear.weight", Share(0, 2), optional=_unshared),
    Row("blk.{i}.ffn_up_shexp.weight", f"{_SHARED}input_linear.weight", Share(1, 2), optional=_unshared),
    Row("blk.{i}.ffn_down_shexp.weight", f"{_SHARED}output_linear.weight", optional=_unshared),
)
_GRANITE_MOE = (
    replace(
        _GRANITE[0],
        classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *common.PAIRED_WEIGHTS,
            *_MIXTURE,
        ),
        keys=(
            *_GRANITE[0].keys,
            Key("expert_shared_feed_forward_length", _unless_zero("shared_intermediate_size")),
        ),
        model_type="granitemoe",
        restored=(
            *_RESTORED[:5],
            ("shared_intermediate_size", common.value_of("expert_shared_feed_forward_length", 0)),
            ("architectures", lambda model: [f"GraniteMoe{'Shared' if _is_shared(model) else ''}ForCausalLM"]),
            ("model_type", lambda model: f"granitemoe{'shared' if _is_shared(model) else ''}"),
        ),
    ),
)


_ATTENTION = ("attention", "full_attention")  # as published, and as transformers 5 saves it


def _has_states(config: Config) -> bool:
    """Whether some layers have a state space in place of attention."""
    return any(kind not in _ATTENTION for kind in config.get("layer_types") or ())


def _kv_heads(config: Config) -> list[int]:
    return [config.kv_heads if kind in _ATTENTION else 0 for kind in config["layer_types"]]


def _context(config: Config) -> int:
    """The length of a text: as long as one likes for a model that does not rotate."""
    return 1 << 20 if _has_states(config) else config.number("max_position_embeddings")


def _by_head(config: Config) -> tuple[Transform, ...]:
    return (Grouped(config.number("mamba_n_heads")),)


_CHANGED = {
    "context_length": Key("context_length", _context, back="max_position_embeddings"),
    "attention.head_count_kv": Key("attention.head_count_kv", _kv_heads),
}
_KEYS_4 = (
    *(_CHANGED.get(key.new, key) for key in _GRANITE[0].keys),
    Key("expert_shared_feed_forward_length", _unless_zero("shared_intermediate_size")),
    Key("ssm.conv_kernel", "mamba_d_conv", needed=True),
    Key("ssm.state_size", "mamba_d_state", needed=True),
    Key("ssm.group_count", "mamba_n_groups", needed=True),
    Key("ssm.inner_size", lambda config: config["mamba_expand"] * config.width),
    Key("ssm.time_step_rank", "mamba_n_heads", needed=True),
    Key("rope.scaling.finetuned", lambda config: not _has_states(config), "bool"),
)
_MAMBA = "model.layers.{i}.mamba."
_STATES = (
    *named({"ssm_in": "mamba.in_proj", "ssm_out": "mamba.out_proj"}, bias=False, unless="attn_q"),
    Row("blk.{i}.ssm_conv1d.weight", f"{_MAMBA}conv1d.weight", Squeezed(1), unless="blk.{i}.attn_q.weight"),
    Row("blk.{i}.ssm_conv1d.bias", f"{_MAMBA}conv1d.bias", unless="blk.{i}.attn_q.weight"),
    Row("blk.{i}.ssm_dt.bias", f"{_MAMBA}dt_bias", unless="blk.{i}.attn_q.weight"),
    Row(
        "blk.{i}.ssm_a",
        f"{_MAMBA}A_log",
        lambda config: (MinusExp(), *_by_head(config)),
        unless="blk.{i}.attn_q.weight",
    ),
    Row("blk.{i}.ssm_d", f"{_MAMBA}D", _by_head, unless="blk.{i}.attn_q.weight"),
    Row(
        "blk.{i}.ssm_norm.weight",
        f"{_MAMBA}norm.weight",
        lambda config: Grouped(config.number("mamba_n_groups")),
        unless="blk.{i}.attn_q.weight",
    ),
)
_DENSE = (
    Row("blk.{i}.ffn_gate.weight", f"{_SHARED}input_linear.weight", Share(0, 2)),
    Row("blk.{i}.ffn_up.weight", f"{_SHARED}input_linear.weight", Share(1, 2)),
    Row("blk.{i}.ffn_down.weight", f"{_SHARED}output_linear.weight"),
)


def _layer_types(model: Described) -> list[str]:
    return ["attention" if heads else "mamba" for heads in model.get("attention.head_count_kv")]


def _inner(model: Described, key: str) -> int:
    return model.number("ssm.inner_size") // model.number(key)


_RESTORED_4: tuple[tuple[str, Any], ...] = (
    *_RESTORED[:5],
    ("num_key_value_heads", lambda model: max(model.get("attention.head_count_kv"))),
    ("layer_types", _layer_types),
    ("shared_intermediate_size", common.value_of("expert_shared_feed_forward_length", 0)),
    ("position_embedding_type", lambda model: "rope" if model.get("rope.scaling.finetuned") else "nope"),
    ("mamba_expand", lambda model: _inner(model, "embedding_length")),
    ("mamba_d_head", lambda model: _inner(model, "ssm.time_step_rank")),
    ("mamba_conv_bias", True),
    ("mamba_proj_bias", False),
)


def _granite_4(*rows: Row, states: bool, experts: bool) -> Checkpoint:
    """How Granite 4 is published: with state spaces between the layers of attention or without, with experts or not."""
    attention = tuple(replace(row, unless="blk.{i}.ssm_in.weight") for row in common.PAIRED_WEIGHTS)
    return replace(
        _GRANITE[0],
        classes=("GraniteMoeHybridForCausalLM",),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *(attention if states else common.PAIRED_WEIGHTS),
            *(_STATES if states else ()),
            *rows,
        ),
        keys=_KEYS_4,
        when=lambda config: _has_states(config) == states and bool(config.get("num_experts_per_tok")) == experts,
        model_type="granitemoehybrid",
        vocabulary="qwen2",
        restored=_RESTORED_4,
        defaults=(),  # the reference takes none, and published models need none
    )


GRANITE = (*_GRANITE, _granite_4(*_DENSE, states=False, experts=False))
GRANITE_MOE = (*_GRANITE_MOE, _granite_4(*_MIXTURE, states=False, experts=True))
GRANITE_HYBRID = (
    _granite_4(*_DENSE, states=True, experts=False),
    _granite_4(*_MIXTURE, states=True, experts=True),
)
