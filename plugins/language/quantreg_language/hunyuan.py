"""Hunyuan: queries and keys are rotated first, and normed then."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, Graph
from quantreg.inference.attention import head_norm
from quantreg.inference.rope import rotate
from quantreg_language import hunyuan_checkpoint as published

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Array = NDArray[np.float32]


def prepare(layer: "Layer", q: "Array", k: "Array", run: "Pass") -> "tuple[Array, Array]":
    """The dense models may have a larger base for longer contexts: base * alpha^(length / (length - 2))."""
    rope = layer.rope(run)
    assert rope is not None
    alpha = layer.facts.number("rope.scaling.alpha", 0.0)
    if alpha > 0 and layer.facts.architecture != "hunyuan-moe":
        length = layer.key_length
        rope = replace(rope, base=rope.base * alpha ** (length / (length - 2)))
    tables = run.tables(rope)
    q, k = (rotate(np.ascontiguousarray(each), rope, tables) for each in (q, k))
    return head_norm(layer, "attn_q_norm", q, run), head_norm(layer, "attn_k_norm", k, run)


GRAPH = Graph(rope="halves", prepare=prepare)

ARCHITECTURES = (
    Architecture("hunyuan-dense", "Hunyuan without experts", graph=GRAPH, checkpoints=published.HUNYUAN),
    Architecture("hunyuan-moe", "Hunyuan A13B", graph=GRAPH),
)
