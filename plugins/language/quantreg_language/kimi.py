"""Kimi Linear (arXiv:2510.26692): a delta net whose memory fades at a rate of its own for each value of a key."""

import math
from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, Graph, ModelError
from quantreg.inference.feed_forward import silu
from quantreg.inference.graph import Router
from quantreg.inference.norms import normalise
from quantreg_language.delta_net import convolve, corrections, in_chunks, sigmoid, unit
from quantreg_language.latent import latent_attention, lengths
from quantreg_language.routers import score_by_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Array = NDArray[np.float32]

CHUNK = 16  # tokens that are computed at once: each pair of them needs the fading of every value


def first_half(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """Latent attention without rotation, or a delta net in layers without keys."""
    return latent_attention(layer, x, run) if layer.kv_heads else delta_net(layer, x, run)


def delta_net(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A layer whose memory is a matrix for each head. float32 (rows, width)."""
    facts, heads, shape = layer.facts, layer.heads, (run.sequences, run.tokens)
    length, kernel = facts.whole("kda.head_dim", least=1), facts.whole("ssm.conv_kernel", least=1)
    inner = heads * length
    tails, memory = (None, None) if run.cache is None else run.cache.states.get(layer.index, (None, None))
    if layer.has("attn_qkv"):
        whole = layer.linear("attn_qkv", x, run, 3 * inner)
    else:
        whole = np.concatenate([layer.linear(f"attn_{part}", x, run, inner) for part in "qkv"], axis=1)
    kernels = [_shaped(layer, layer.name(f"ssm_conv1d_{part}"), inner, 1, kernel)[:, 0] for part in "qkv"]
    whole, tails = convolve(whole.reshape(*shape, 3 * inner), np.concatenate(kernels), tails)
    q, k, v = (part.reshape(*shape, heads, length) for part in np.split(silu(whole), 3, axis=2))
    fade = layer.linear("ssm_f_b", layer.linear("ssm_f_a", x, run, length), run, inner)
    fade = np.logaddexp(np.float32(0), fade + layer.small("ssm_dt", inner, kind="bias")).reshape(*shape, heads, length)
    fade *= _shaped(layer, f"blk.{layer.index}.ssm_a", heads, 1)
    beta = sigmoid(layer.linear("ssm_beta", x, run, heads)).reshape(*shape, heads)
    out, memory = delta_rule(unit(q, facts.eps), unit(k, facts.eps), v, fade, beta, memory, run)
    if run.cache is not None:
        run.cache.states[layer.index] = tails, memory
    out = normalise(out, layer.small("ssm_norm", length), None, "rms", facts.eps, run).reshape(len(x), inner)
    out *= sigmoid(layer.linear("ssm_g_b", layer.linear("ssm_g_a", x, run, length), run, inner))
    return layer.linear("attn_output", out, run, facts.width)


def _shaped(layer: "Layer", name: str, *shape: int) -> "Array":
    """A small tensor of this shape, to which some files add dimensions of length 1 in front."""
    found = layer.weights.small(name)
    if found.shape not in (shape, (1,) * (4 - len(shape)) + shape):
        raise ModelError(f"the tensor {name} has shape {found.shape}: expected {shape}")
    return found.reshape(shape)


def delta_rule(
    q: "Array", k: "Array", v: "Array", fade: "Array", beta: "Array", memory: "Array | None", run: "Pass"
) -> "tuple[Array, Array]":
    """What `quantreg_language.delta_net.delta_rule` computes, with ``fade`` of the shape of ``k``: each row of the
    memory, which belongs to a value of the keys, fades by itself.
    """
    return in_chunks(_chunk, CHUNK, q, k, v, fade, beta, memory, run)


def _chunk(q: "Array", k: "Array", v: "Array", total: "Array", rate: "Array", before: "Array") -> "tuple[Array, Array]":
    grown = np.exp(total)
    apart = np.exp(np.minimum(total[:, :, None] - total[:, None], 0))  # (heads, later, earlier, values)
    apart *= k[:, None]
    new = corrections(np.matmul(apart, k[..., None])[..., 0], rate, v - np.matmul(k * grown, before))
    found = np.matmul(q * grown, before)
    found += np.matmul(np.tril(np.matmul(apart, q[..., None])[..., 0]), new)
    faded = (k * np.exp(total[:, -1:] - total)).transpose(0, 2, 1)
    return found, grown[:, -1, :, None] * before + np.matmul(faded, new)


ARCHITECTURES = (
    Architecture(
        "kimi-linear",
        "Kimi Linear",
        graph=Graph(
            rope=None,
            attention=first_half,
            attention_scale=lambda facts, layer: 1 / math.sqrt(lengths(facts)[0]),
            router=Router(score_by_key("sigmoid")),
        ),
    ),
)
