"""Decoders that differ from Llama in the order of norms and rotation, in their layers, or in their experts."""

from typing import TYPE_CHECKING

from quantreg import Architecture, Graph
from quantreg.inference.attention import attention
from quantreg.inference.facts import Facts
from quantreg.inference.feed_forward import feed_forward
from quantreg.inference.graph import Router
from quantreg_language import others_checkpoint as published
from quantreg_language.hunyuan import prepare
from quantreg_language.mixtures_checkpoint import ERNIE_4_5_MOE
from quantreg_language.windows import unscaled, windowed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass


_EXAONE4_WINDOWS = windowed(4, size=4096)


def _exaone4_window(facts: Facts, layer: int) -> int:
    return _EXAONE4_WINDOWS(facts, layer) if facts.n_layers == 64 else 0  # the file of the small model has a size, too


def _exaone4_rotates(facts: Facts, layer: int) -> bool:
    return facts.n_layers != 64 or _exaone4_window(facts, layer) > 0


def _deci_layer(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """A layer without a feed-forward network does nothing. Attention may be one matrix alone, or absent."""
    if not layer.facts.feed_forward[layer.index]:
        layer.skip()
        return x
    if layer.heads:
        normed = layer.norm("attn_norm", x, run)
        if layer.kv_heads:
            x = x + attention(layer, normed, run)
        else:
            x = x + layer.linear("attn_output", normed, run, layer.facts.width)
    return x + feed_forward(layer, layer.norm("ffn_norm", x, run), run)


ARCHITECTURES = (
    Architecture("deci", "DeciLM and Llama-Nemotron", graph=Graph(layer=_deci_layer)),
    Architecture("pangu-embedded", "openPangu", graph=Graph(rope="halves")),
    Architecture("maincoder", "Maincoder", graph=Graph(prepare=prepare)),
    Architecture("ernie4_5-moe", "ERNIE 4.5 with experts", graph=Graph(), checkpoints=ERNIE_4_5_MOE),
    Architecture("bailingmoe", "Ling", graph=Graph(router=Router(norm=None))),
    Architecture("mellum", "Mellum", graph=Graph(rope="halves", windows=windowed(4), window_rope=unscaled)),
    Architecture(
        "exaone4",
        "EXAONE 4",
        graph=Graph(
            rope="halves",
            attention_norm=None,
            ffn_norm=None,
            after_attention="post_attention_norm",
            after_ffn="post_ffw_norm",
            windows=_exaone4_window,
            rotates=_exaone4_rotates,
        ),
        checkpoints=published.EXAONE_4,
    ),
)
