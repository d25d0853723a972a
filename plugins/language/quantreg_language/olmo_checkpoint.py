"""How OLMo is published."""

from typing import Any

from quantreg.checkpoints import Checkpoint, Config, Key, common, named


def _window(config: Config) -> Any:
    return config.get("sliding_window")


def _pattern(config: Config) -> list[bool] | None:
    """Which layers have a window."""
    if config.get("sliding_window") is None:
        return None
    kinds = config.get("layer_types")
    if kinds is None:
        return [(i + 1) % 4 != 0 for i in range(config.n_layers)]
    return [kind == "sliding_attention" for kind in kinds]


OLMO_2 = (
    Checkpoint(
        classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        rows=(
            *common.OUTER,
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
            Key("attention.sliding_window", _window),
            Key("attention.sliding_window_pattern", _pattern, "array[bool]"),
        ),
        model_type="olmo2",
        defaults=(*common.DEFAULTS[:1], ("rms_norm_eps", 1e-5), common.DEFAULTS[2]),
    ),
)
