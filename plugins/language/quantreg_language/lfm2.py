"""LFM2: short convolutions between a few layers of attention."""

from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, Graph
from quantreg.inference.attention import attention
from quantreg.inference.facts import Facts
from quantreg.inference.graph import Router
from quantreg_language import lfm2_checkpoint as published
from quantreg_language.delta_net import convolve
from quantreg_language.routers import score_by_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass


def first_half(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """Attention or, in layers without keys, a convolution between two gates."""
    if layer.kv_heads:
        return attention(layer, x, run)
    width, length = layer.facts.width, layer.facts.whole("shortconv.l_cache", least=1)
    into = layer.linear("shortconv.in_proj", x, run, 3 * width).reshape(run.sequences, run.tokens, 3 * width)
    before, after, value = into[..., :width], into[..., width : 2 * width], into[..., 2 * width :]
    tail = None if run.cache is None else run.cache.states.get(layer.index)
    out, tail = convolve(before * value, layer.small("shortconv.conv", width, length), tail)
    if run.cache is not None:
        run.cache.states[layer.index] = tail
    out *= after
    return layer.linear("shortconv.out_proj", out.reshape(len(x), width), run, width)


def windows(facts: Facts, layer: int) -> int:
    """All layers with attention have the window of the key, if there is one."""
    return facts.whole("attention.sliding_window", 0) if facts.kv_heads[layer] else 0


ARCHITECTURES = (
    Architecture(
        "lfm2",
        "LFM2",
        graph=Graph(
            rope="halves",
            attention=first_half,
            windows=windows,
            output_norm="token_embd_norm",
        ),
        checkpoints=published.LFM_2,
    ),
    Architecture(
        "lfm2moe",
        "LFM2 with experts",
        graph=Graph(
            rope="halves",
            attention=first_half,
            router=Router(score_by_key("sigmoid")),
            output_norm="token_embd_norm",
        ),
        checkpoints=published.LFM_2_MOE,
    ),
)
