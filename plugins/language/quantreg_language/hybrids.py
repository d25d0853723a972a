"""Models of state spaces, alone or between layers of attention."""

from dataclasses import replace
from typing import TYPE_CHECKING

from quantreg import Architecture, Graph
from quantreg.inference.attention import attention
from quantreg.inference.facts import Facts
from quantreg.inference.feed_forward import choose, routed, shared_expert
from quantreg.inference.graph import Router
from quantreg.inference.norms import normalise
from quantreg_language import nemotron_h_checkpoint as published
from quantreg_language.granite_checkpoint import GRANITE_HYBRID
from quantreg_language.mamba import mamba, mamba2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Array = NDArray[np.float32]


def first_half(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A state space if the layer has one, of either kind, else attention."""
    if not layer.has("ssm_in"):
        return attention(layer, x, run)
    return mamba(layer, x, run) if layer.has("ssm_x") else mamba2(layer, x, run)


def one_part(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A layer of one part only: a state space, attention, or a feed-forward network."""
    into = layer.norm("attn_norm", x, run)
    if not layer.has("ssm_in") and not layer.has("attn_output"):
        return x + layer.graph.feed_forward(layer, into, run)
    return x + first_half(layer, into, run)


def latent_experts(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """Experts that see a shorter form of each row, if the model has matrices for that, and a shared one."""
    logits = layer.linear("ffn_gate_inp", x, run, layer.facts.n_experts)
    short = layer.linear("ffn_latent_down", x, run) if layer.has("ffn_latent_down") else x
    out = routed(layer, short, *choose(layer, logits), run)
    if layer.has("ffn_latent_up"):
        out = layer.linear("ffn_latent_up", out, run, layer.facts.width)
    return out + shared_expert(layer, x, run)


def both(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A layer with attention and a state space side by side."""
    into = layer.norm("attn_norm", x, run)
    x = x + attention(layer, into, run) + mamba2(layer, into, run)
    weight = layer.weights.small(f"blk.{layer.index}.ffn_norm", layer.facts.width)  # a name without an ending
    return x + layer.graph.feed_forward(layer, normalise(x, weight, None, "rms", layer.facts.eps, run), run)


def _or_one(facts: Facts, key: str) -> float:
    return facts.number(key, 0.0) or 1.0  # 0 means that there is no factor


_NEMOTRON = Graph(rope=None, layer=one_part, activation="relu_squared")
_NEMOTRON_EXPERTS = replace(_NEMOTRON, feed_forward=latent_experts, router=Router("sigmoid", norm=None))

ARCHITECTURES = (
    Architecture("mamba", "Mamba, Falcon Mamba", graph=Graph(layer=one_part)),
    Architecture("mamba2", "Mamba 2", graph=Graph(layer=one_part)),
    Architecture("jamba", "Jamba", graph=Graph(rope=None, attention=first_half, router=Router(norm=False))),
    Architecture(
        "granitehybrid",
        "Granite 4",
        graph=Graph(
            attention=first_half,
            embedding_scale=lambda facts: _or_one(facts, "embedding_scale"),
            residual_scale=lambda facts: _or_one(facts, "residual_scale"),
            logit_scale=lambda facts: 1 / _or_one(facts, "logit_scale"),
            rotates=lambda facts, layer: bool(facts.get("rope.scaling.finetuned", True)),
        ),
        checkpoints=GRANITE_HYBRID,
    ),
    Architecture("nemotron_h", "Nemotron-H, Nemotron Nano 2", graph=_NEMOTRON, checkpoints=published.NEMOTRON_H),
    Architecture(
        "nemotron_h_moe",
        "Nemotron 3 with experts",
        graph=_NEMOTRON_EXPERTS,
        checkpoints=published.NEMOTRON_H_MOE,
    ),
    Architecture("falcon-h1", "Falcon-H1", graph=Graph(rope="halves", layer=both)),
)
