"""How Granite is published."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quantreg.checkpoints import Checkpoint, Config, Described, Key, Row, Share, common


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

GRANITE = (
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


GRANITE_MOE = (
    replace(
        GRANITE[0],
        classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *common.PAIRED_WEIGHTS,
            Row("blk.{i}.ffn_gate_inp.weight", f"{_EXPERTS}router.layer.weight"),
            Row("blk.{i}.ffn_gate_exps.weight", f"{_EXPERTS}input_linear.weight", Share(0, 2, -2)),
            Row("blk.{i}.ffn_up_exps.weight", f"{_EXPERTS}input_linear.weight", Share(1, 2, -2)),
            Row("blk.{i}.ffn_down_exps.weight", f"{_EXPERTS}output_linear.weight"),
            Row("blk.{i}.ffn_gate_shexp.weight", f"{_SHARED}input_linear.weight", Share(0, 2), optional=_unshared),
            Row("blk.{i}.ffn_up_shexp.weight", f"{_SHARED}input_linear.weight", Share(1, 2), optional=_unshared),
            Row("blk.{i}.ffn_down_shexp.weight", f"{_SHARED}output_linear.weight", optional=_unshared),
        ),
        keys=(
            *GRANITE[0].keys,
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
