"""OLMo."""

from dataclasses import replace
from typing import TYPE_CHECKING

from quantreg import Architecture, Graph
from quantreg.inference.graph import Router
from quantreg_language.windows import windowed

if TYPE_CHECKING:
    from quantreg.inference.rope import Rope


def _plain(rope: "Rope") -> "Rope":
    """Layers with a window need no scaling for long texts."""
    return replace(rope, scale=1.0, yarn=None, magnitude=1.0)


ARCHITECTURES = (
    Architecture("olmo", "OLMo", graph=Graph(norm="layer", norm_weights=False)),
    Architecture(
        "olmo2",
        "OLMo 2 and 3",
        graph=Graph(
            rope="halves",
            attention_norm=None,
            ffn_norm=None,
            after_attention="post_attention_norm",
            after_ffn="post_ffw_norm",
            windows=windowed(4),
            window_rope=_plain,
        ),
    ),
    Architecture("olmoe", "OLMoE", graph=Graph(rope="halves", router=Router(norm=False))),
)
