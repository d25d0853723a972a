"""How Granite is published."""

from quantreg.checkpoints import Checkpoint, Config, Key, common


def _unless_zero(name: str) -> object:
    """A function of Config that returns a factor, or None if it is 0, which means that there is none."""
    return lambda config: config.get(name) or None


def _head(config: Config) -> int:
    """Granite has no length of a head of its own."""
    return config.width // config.heads


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
    ),
)
