"""Mixtures of experts that differ from Llama's in the router, or in which layers rotate and look far back."""

from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, Graph
from quantreg.inference.attention import attend, attention, queries_keys_values, settings
from quantreg.inference.facts import Facts
from quantreg.inference.feed_forward import choose, routed
from quantreg.inference.graph import Router
from quantreg_language import mixtures_checkpoint as published
from quantreg_language.routers import score_by_key
from quantreg_language.windows import windowed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Array = NDArray[np.float32]

_EXAONE = windowed(4, size=128)
_SMALL = 4096  # tokens of the window of SmallThinker, a constant


def gated_attention(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """Attention whose output is multiplied by sigmoid(gate), as in the models of Arcee."""
    q, k, v = queries_keys_values(layer, x, run)
    q, k = layer.graph.prepare(layer, q, k, run)
    out = attend(q, k, v, settings(layer), run, layer.index)
    with np.errstate(over="ignore"):
        out /= 1 + np.exp(-layer.linear("attn_gate", x, run, out.shape[1]))
    return layer.linear("attn_output", out, run, layer.facts.width)


def scaled_attention(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """Attention whose output is multiplied by the key ``attention.value_scale``."""
    return attention(layer, x, run) * np.float32(layer.facts.number("attention.value_scale", 0.0) or 1.0)


def early_router(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A layer of SmallThinker, whose router looks at what goes into the layer."""
    graph = layer.graph
    logits = layer.linear("ffn_gate_inp", x, run, layer.facts.n_experts)
    x = x + graph.attention(layer, layer.norm("attn_norm", x, run), run)
    return x + routed(layer, layer.norm("ffn_norm", x, run), *choose(layer, logits), run)


def small_window(facts: Facts, layer: int) -> int:
    """A window of a fixed size if the key names any."""
    return _SMALL if windowed(4, first=True)(facts, layer) else 0


ARCHITECTURES = (
    Architecture(
        "mimo2",
        "MiMo 2",
        graph=Graph(
            router=Router("sigmoid"),
            rope="halves",
            windows=windowed(1),
            window_base=lambda facts, base: facts.number("rope.freq_base_swa", 10000.0),
            window_scale=lambda facts, scale: 1.0,
            attention=scaled_attention,
        ),
    ),
    Architecture(
        "dots1",
        "dots.llm1",
        graph=Graph(rope="halves", router=Router(score_by_key("sigmoid"), norm=None)),
        checkpoints=published.DOTS_1,
    ),
    Architecture(
        "bailingmoe2",
        "Ling 2 and Ring 2",
        graph=Graph(rope="halves", router=Router(score_by_key("sigmoid"), norm=None)),
    ),
    Architecture(
        "minimax-m2",
        "MiniMax M2",
        graph=Graph(rope="halves", router=Router(score_by_key("sigmoid"))),
        checkpoints=published.MINIMAX_M2,
    ),
    Architecture(
        "exaone-moe",
        "EXAONE with experts",
        graph=Graph(
            rope="halves",
            windows=_EXAONE,
            rotates=lambda facts, layer: _EXAONE(facts, layer) > 0,
            router=Router(score_by_key("sigmoid"), norm=None),
        ),
    ),
    Architecture(
        "afmoe",
        "Trinity, by Arcee",
        graph=Graph(
            after_attention="post_attention_norm",
            after_ffn="post_ffw_norm",
            router=Router(score_by_key("sigmoid"), norm=None),
            rope="halves",
            rotates=lambda facts, layer: (layer + 1) % 4 != 0,
            windows=windowed(4),
            window_base=lambda facts, base: facts.number("rope.freq_base_swa", base),
            embedding_scale=lambda facts: facts.width**0.5,
            attention=gated_attention,
        ),
        checkpoints=published.AFMOE,
    ),
    Architecture(
        "smallthinker",
        "SmallThinker",
        graph=Graph(
            activation="relu",
            router=Router(score_by_key("softmax")),
            rope="halves",
            rotates=lambda facts, layer: not facts.get("attention.sliding_window") or layer % 4 != 0,
            windows=small_window,
            window_base=lambda facts, base: facts.number("rope.freq_base_swa", base),
            layer=early_router,
        ),
    ),
)
