"""OLMo."""

from quantreg import Architecture, Graph
from quantreg.inference.graph import Router
from quantreg_language import olmo_checkpoint as published
from quantreg_language.windows import unscaled, windowed

ARCHITECTURES = (
    Architecture("olmo", "OLMo", graph=Graph(norm="layer", norm_weights=False), checkpoints=published.OLMO),
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
            window_rope=unscaled,
            window_base=lambda facts, base: facts.number("rope.freq_base_swa", base),
        ),
        checkpoints=published.OLMO_2,
    ),
    Architecture("olmoe", "OLMoE", graph=Graph(rope="halves", router=Router(norm=False)), checkpoints=published.OLMOE),
)
