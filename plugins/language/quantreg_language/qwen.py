"""Qwen."""

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, Graph
from quantreg.inference.attention import head_norm
from quantreg.inference.graph import Router
from quantreg.inference.rope import rotate
from quantreg_language import qwen_checkpoint as published

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass


@cache
def _still(sections: tuple[int, ...], half: int) -> "NDArray[np.float32]":
    """Infinite for pairs of a head that belong to none of the three positions of text, and 1 for the others.

    Qwen3-VL takes the angles of its pairs in turn from the time, the row and the column of a token. Text has these
    three at the same place. Pairs beyond the numbers of a section use a fourth position, which text does not have.
    """
    pairs = np.arange(half) % sum(sections)
    turns = pairs < 3 * np.array(sections)[pairs % 3]
    return np.where(turns, 1, np.inf).astype(np.float32)


def _prepare_qwen3vl(
    layer: "Layer", q: "NDArray[np.float32]", k: "NDArray[np.float32]", run: "Pass"
) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """As in Qwen 3, with pairs that do not turn."""
    q, k = head_norm(layer, "attn_q_norm", q, run), head_norm(layer, "attn_k_norm", k, run)
    rope = layer.rope(run)
    assert rope is not None
    sections = tuple(int(n) for n in layer.facts.get("rope.dimension_sections", (rope.dims,) * 3))
    tables = run.tables(replace(rope, factors=_still(sections, rope.dims // 2)))
    return rotate(np.ascontiguousarray(q), rope, tables), rotate(np.ascontiguousarray(k), rope, tables)


_QWEN3VL = Graph(rope="halves", prepare=_prepare_qwen3vl)

ARCHITECTURES = (
    Architecture("qwen", "The first Qwen", graph=Graph(rope="halves")),
    Architecture("qwen2", "Qwen 1.5, 2 and 2.5", graph=Graph(rope="halves"), checkpoints=published.QWEN2),
    Architecture(
        "qwen2moe",
        "Qwen 1.5 and 2 with experts",
        graph=Graph(rope="halves", router=Router(norm=False)),
        checkpoints=published.QWEN2_MOE,
    ),
    Architecture(
        "qwen2vl",
        "the language model of Qwen2-VL and Qwen2.5-VL",
        graph=Graph(rope="halves"),
        checkpoints=published.QWEN2_VL,
    ),
    Architecture("qwen3", "Qwen 3", graph=Graph(rope="halves"), checkpoints=published.QWEN3),
    Architecture("qwen3moe", "Qwen 3 with experts", graph=Graph(rope="halves"), checkpoints=published.QWEN3_MOE),
    Architecture("qwen3vl", "the language model of Qwen3-VL", graph=_QWEN3VL, checkpoints=published.QWEN3_VL),
    Architecture(
        "qwen3vlmoe",
        "the language model of Qwen3-VL with experts",
        graph=_QWEN3VL,
        checkpoints=published.QWEN3_VL_MOE,
    ),
)
