"""Models with layer norms, most of them with GELU: the family of GPT-2 and GPT-NeoX."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from quantreg import Architecture, Graph
from quantreg.inference.facts import Facts
from quantreg.inference.feed_forward import gated
from quantreg_language import gpt_checkpoint as published
from quantreg_language.slopes import slopes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass


def _two_norms(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """Falcon: both halves read the same norm, but in the model of 40 B attention has one of its own."""
    shared = layer.norm("attn_norm", x, run)
    own = layer.norm("attn_norm_2", x, run) if layer.has("attn_norm_2") else shared
    attended = layer.graph.attention(layer, own, run)
    return x + attended + layer.graph.feed_forward(layer, shared, run)


def _divided(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """MPT: what comes out of GELU may be divided by scales (AWQ, Lin et al. 2024, arXiv:2306.00978)."""
    up = gated(layer, None, layer.linear("ffn_up", x, run), run)
    if layer.has("ffn.act", "scales"):
        up /= layer.small("ffn.act", up.shape[-1], kind="scales")
    return layer.linear("ffn_down", up, run, layer.facts.width)


def _alibi(default: float) -> "Callable[[Facts, int], NDArray[np.float32] | None]":
    """Slopes whose largest exponent is in the metadata, or else this; 0 means that there are none."""

    def found(facts: Facts, heads: int) -> "NDArray[np.float32] | None":
        largest = facts.number("attention.max_alibi_bias", default)
        return slopes(heads, largest) if largest else None

    return found


GPT = Graph(norm="layer", activation="gelu", rope=None)
GPT_2 = replace(GPT, positions=True)
NEOX = replace(GPT, rope="halves")
LAYER_NORM = Graph(norm="layer", rope=None)

ARCHITECTURES = (
    Architecture("gpt2", "GPT-2", graph=GPT_2, checkpoints=published.GPT_2),
    Architecture("starcoder", "StarCoder", graph=GPT_2, checkpoints=published.STARCODER),
    Architecture("starcoder2", "StarCoder 2", graph=NEOX, checkpoints=published.STARCODER_2),
    Architecture("codeshell", "CodeShell", graph=NEOX),
    Architecture(
        "gptneox",
        "GPT-NeoX, Pythia, Dolly and RedPajama",
        graph=replace(NEOX, parallel=lambda layer: layer.facts.flag("use_parallel_residual")),
        checkpoints=published.GPT_NEOX,
    ),
    Architecture(
        "falcon", "Falcon 7B, 40B and 180B", graph=replace(NEOX, layer=_two_norms), checkpoints=published.FALCON
    ),
    Architecture(
        "bloom",
        "BLOOM",
        graph=replace(GPT, slopes=_alibi(8.0), embedding_norm="token_embd_norm"),
        checkpoints=published.BLOOM,
    ),
    Architecture("mpt", "MPT", graph=replace(GPT, slopes=_alibi(0.0), positions=None, feed_forward=_divided)),
    Architecture("refact", "Refact", graph=Graph(rope=None, slopes=_alibi(8.0))),
    Architecture(
        "jais",
        "Jais",
        graph=replace(LAYER_NORM, slopes=_alibi(0.0), attention_scale=lambda facts, layer: 1 / facts.key_length),
    ),
    Architecture(
        "nemotron",
        "Nemotron",
        graph=replace(LAYER_NORM, rope="halves", activation="relu_squared"),
        checkpoints=published.NEMOTRON,
    ),
)
