"""Gemma 3n: four streams of hidden states, of which a layer computes one (AltUp, Baykal et al., arXiv:2301.13310)."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, ModelError
from quantreg.inference.feed_forward import gated
from quantreg_language.gemma import GEMMA_3
from quantreg_language.gemma4 import attention, of_layers
from quantreg_language.windows import windowed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Array = NDArray[np.float32]

SPARSE = 10  # the first layers, in which only one of twenty values of the gate stays
SHARE = np.float32(1.6448533535003662)  # 95 % of a normal distribution lie below this many deviations
HALF = np.float32(0.5**0.5)


def whole(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A layer. ``x`` is (rows, width) before the first layer, and (streams, rows, width) between layers."""
    if layer.index >= layer.facts.n_layers - layer.facts.whole("attention.shared_kv_layers", 0):
        layer.skip("attn_k", "attn_v", "attn_k_norm")
    extra = of_layers(layer, x, run)
    if extra is None:
        raise ModelError("gemma3n.embedding_length_per_layer_input is missing or 0: these models have such embeddings")
    streams = x if layer.index else _spread(layer, x, run)
    predicted = _predicted(layer, streams, run)
    active = predicted[0]
    normed = layer.norm("attn_norm", active, run)
    low = layer.linear("laurel_r", layer.linear("laurel_l", normed, run), run, layer.facts.width)
    first = layer.norm("post_attention_norm", attention(layer, normed, run), run) + active
    first = (first + layer.norm("laurel_post_norm", low, run) + normed) * HALF
    out = layer.norm("post_ffw_norm", _second_half(layer, layer.norm("ffn_norm", first, run), run), run) + first
    corrected = _corrected(layer, predicted, out, run)
    gate = layer.linear("inp_gate", corrected[0] * layer.small("altup_correct_scale", layer.facts.width), run)
    gate = layer.graph.activate(gate) * extra[:, layer.index]
    corrected[1:] += layer.norm("post_norm", layer.linear("proj", gate, run, layer.facts.width), run)
    return corrected if layer.index < layer.facts.n_layers - 1 else _merged(layer, corrected, run)


def _second_half(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    gate, up = layer.linear("ffn_gate", x, run), layer.linear("ffn_up", x, run)
    if layer.index < SPARSE:
        least = gate.mean(axis=1, keepdims=True) + SHARE * gate.std(axis=1, ddof=1, keepdims=True)
        gate = np.maximum(gate - least, 0)
    return layer.linear("ffn_down", gated(layer, gate, up, run), run, layer.facts.width)


def _mixing(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """What decides how streams mix: float32 (rows, streams), between -1 and 1."""
    normed = layer.norm("altup_router_norm", x, run) / np.float32(layer.facts.width)
    return np.tanh(layer.linear("altup_router", normed, run))


def _predicted(layer: "Layer", streams: "Array", run: "Pass") -> "Array":
    n = len(streams)
    mix = layer.linear("altup_predict_coef", _mixing(layer, streams[0], run), run, n * n).reshape(-1, n, n)
    mix = mix + np.eye(n, dtype=np.float32)
    found: Array = np.einsum("rij,jrw->irw", mix, streams)
    return found


def _corrected(layer: "Layer", predicted: "Array", out: "Array", run: "Pass") -> "Array":
    mix = layer.linear("altup_correct_coef", _mixing(layer, out, run), run, len(predicted)) + 1
    return predicted + mix.T[:, :, None] * (out - predicted[0])


def _spread(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """Make the other streams of the first, each as large in every row."""
    n = layer.weights["altup_proj.weight"].shape[0]
    into = np.broadcast_to(x[:, None], (len(x), n, x.shape[1]))
    others = layer.weights.multiply_each("altup_proj.weight", into, run, x.shape[1]).transpose(1, 0, 2)
    return np.concatenate((x[None], _as_large(others, x)))


def _merged(layer: "Layer", streams: "Array", run: "Pass") -> "Array":
    """Make one stream of all: their mean, after each has become as large as the first."""
    into = np.ascontiguousarray(streams[1:].transpose(1, 0, 2))
    others = layer.weights.multiply_each("altup_unembd_proj.weight", into, run, streams.shape[2]).transpose(1, 0, 2)
    merged: Array = (streams[0] + _as_large(others, streams[0]).sum(axis=0)) / np.float32(len(streams))
    return merged


def _as_large(x: "Array", like: "Array") -> "Array":
    """Scale each row to the length of another."""
    has, wanted = (np.sqrt(np.einsum("...w,...w->...", each, each)) for each in (x, like))
    return x * np.divide(wanted, has, out=np.zeros_like(has), where=has > 0)[..., None]


ARCHITECTURES = (
    Architecture(
        "gemma3n",
        "Gemma 3n",
        graph=replace(
            GEMMA_3,
            after_attention=None,
            after_ffn=None,
            windows=windowed(5),
            attention_scale=lambda facts, layer: 1.0,
            logit_softcap=30.0,
            layer=whole,
        ),
    ),
)
