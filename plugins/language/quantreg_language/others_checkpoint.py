"""How EXAONE 4 is published."""

from quantreg.checkpoints import Checkpoint, Config, Described, Key, Row, common, named


def _pattern(config: Config) -> list[bool] | None:
    """Which layers have a window: as "layer_types" says it, or a word such as "LLLG", or every how manieth has none."""
    if config.get("sliding_window") is None:
        return None
    kinds, pattern, n = config.get("layer_types"), config.get("sliding_window_pattern"), config.n_layers
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds]
    if isinstance(pattern, str) and pattern:
        return [pattern[i % len(pattern)] == "L" for i in range(n)]
    return [(i + 1) % pattern != 0 for i in range(n)] if pattern else None


def _layer_types(model: Described) -> list[str]:
    pattern = model.get("attention.sliding_window_pattern") or [False] * model.number("block_count")
    return ["sliding_attention" if windowed else "full_attention" for windowed in pattern]


EXAONE_4 = (
    Checkpoint(
        classes=("Exaone4ForCausalLM",),
        rows=(
            *common.OUTER,
            Row("rope_freqs.weight", (), common.llama3_factors),
            *named(
                {
                    "attn_q_norm": "self_attn.q_norm",
                    "attn_k_norm": "self_attn.k_norm",
                    "post_attention_norm": "post_attention_layernorm",
                    "post_ffw_norm": "post_feedforward_layernorm",
                },
                bias=False,
            ),
            *common.ATTENTION_WEIGHTS,
            *common.DENSE_WEIGHTS,
        ),
        keys=(
            *common.DECODER_KEYS,
            Key("vocab_size", "vocab_size", needed=True),
            Key("attention.sliding_window", "sliding_window"),
            Key("attention.sliding_window_pattern", _pattern, "array[bool]"),
        ),
        model_type="exaone4",
        restored=(
            ("layer_types", _layer_types),
            ("sliding_window_pattern", None),
            ("sliding_window", common.value_of("attention.sliding_window")),
        ),
        vocabulary="bpe",
        defaults=(("sliding_window", 4096), ("sliding_window_pattern", 4)),
    ),
)
