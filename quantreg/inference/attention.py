"""Attention with grouped queries (Ainslie et al. 2023, arXiv:2305.13245), in blocks of queries that fit the cache."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantreg.inference.norms import normalise
from quantreg.inference.rope import rotate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

__all__ = ["Attend", "attend", "attention"]

QUERIES = 128  # per block: no query of a block needs keys beyond its end, and its scores stay small
SCORES = 1 << 14  # heads share a piece of work up to this many scores: a single token needs one call for all heads


@dataclass(frozen=True, slots=True)
class Attend:
    """How queries meet keys.

    - ``scale``: what the scores are multiplied by; ``softcap``: if not 0, they become softcap * tanh(score / softcap).
    - ``window``: how many tokens a query looks back, itself included, or 0 for all; with ``chunked`` it sees the
      tokens of its own chunk of this length. ``causal``: whether it sees no later ones.
    - ``sinks``: float32 (heads,), scores of a token that is not there (see gpt-oss), or None.
    - ``slopes``: float32 (heads,), by which scores fall with the distance (ALiBi), or None.
    """

    scale: float
    softcap: float = 0.0
    window: int = 0
    chunked: bool = False
    causal: bool = True
    sinks: "NDArray[np.float32] | None" = None
    slopes: "NDArray[np.float32] | None" = None


def attention(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """The attention of a layer: float32 (rows, width) in and out."""
    q, k, v = queries_keys_values(layer, x, run)
    q, k = layer.graph.prepare(layer, q, k, run)
    out = attend(q, k, v, settings(layer), run, layer.index)
    if layer.has("attn_sub_norm"):
        out = layer.norm("attn_sub_norm", out, run)
    return layer.linear("attn_output", out, run, layer.facts.width)


def queries_keys_values(
    layer: "Layer", x: "NDArray[np.float32]", run: "Pass"
) -> "tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]":
    """Queries, keys and values of shape (sequences, tokens, heads, length), from three matrices or from one."""
    n_q, n_k = layer.heads * layer.key_length, layer.kv_heads * layer.key_length
    n_v = layer.kv_heads * layer.value_length
    if layer.has("attn_qkv"):
        fused = layer.linear("attn_qkv", x, run, n_q + n_k + n_v)
        if layer.has("attn_q", "bias") and not layer.has("attn_qkv", "bias"):
            sizes = {"attn_q": n_q, "attn_k": n_k, "attn_v": n_v}
            fused += np.concatenate([layer.small(part, size, kind="bias") for part, size in sizes.items()])
        q, k, v = fused[:, :n_q], fused[:, n_q : n_q + n_k], fused[:, n_q + n_k :]
    else:
        q = layer.linear("attn_q", x, run, n_q)
        k = layer.linear("attn_k", x, run, n_k)
        v = layer.linear("attn_v", x, run, n_v)
    clamp = layer.facts.number("attention.clamp_kqv", 0.0)
    if clamp:
        q, k, v = (np.clip(each, -clamp, clamp) for each in (q, k, v))
    shape = run.sequences, run.tokens
    return (
        q.reshape(*shape, layer.heads, layer.key_length),
        k.reshape(*shape, layer.kv_heads, layer.key_length),
        v.reshape(*shape, layer.kv_heads, layer.value_length),
    )


def norm_and_rotate(
    layer: "Layer", q: "NDArray[np.float32]", k: "NDArray[np.float32]", run: "Pass"
) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Norm queries and keys if the model has weights for it, then rotate them."""
    return rotated(layer, head_norm(layer, "attn_q_norm", q, run), head_norm(layer, "attn_k_norm", k, run), run)


def rotated(
    layer: "Layer", q: "NDArray[np.float32]", k: "NDArray[np.float32]", run: "Pass"
) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Rotate queries and keys by their positions, if the layer does."""
    rope = layer.rope(run)
    if rope is None:
        return q, k
    tables = run.tables(rope)
    if run.tokens == 1:  # numbers are few, and calls cost more than they
        both, heads = rotate(np.concatenate([q, k], axis=2), rope, tables), q.shape[2]
        return both[:, :, :heads], both[:, :, heads:]
    return rotate(np.ascontiguousarray(q), rope, tables), rotate(np.ascontiguousarray(k), rope, tables)


def head_norm(layer: "Layer", part: str, x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """Norm heads (..., heads, length) by a weight of one head, of all heads together, or of each; or leave them."""
    if not layer.has(part):
        return x
    weight = layer.small(part)
    if weight.size == x.shape[-1]:
        return layer.norm(part, x, run)
    if weight.ndim == 2:  # a weight of its own for each head
        normed = normalise(x, None, None, layer.graph.norm, layer.facts.eps, run)
        return normed * layer.small(part, *x.shape[-2:])
    whole = np.ascontiguousarray(x).reshape(*x.shape[:-2], -1)
    return layer.norm(part, whole, run).reshape(x.shape)


def settings(layer: "Layer") -> Attend:
    """How the queries and keys of a layer meet, by its graph and metadata."""
    return layer.once("settings", _settings)


def _settings(layer: "Layer") -> Attend:
    facts, graph = layer.facts, layer.graph
    scale = facts.number("attention.scale", 0.0)
    if graph.attention_scale is not None:
        scale = graph.attention_scale(facts, layer.index)
    cap = graph.attention_softcap
    softcap = 0.0 if cap is None else facts.number("attn_logit_softcapping", cap)
    sinks = layer.small("attn_sinks", layer.heads) if layer.has("attn_sinks") else None
    return Attend(
        scale=scale or 1 / math.sqrt(layer.key_length),
        softcap=softcap,
        window=layer.window,
        chunked=graph.chunked,
        causal=graph.causal,
        sinks=sinks,
        slopes=None if graph.slopes is None else graph.slopes(facts, layer.heads),
    )


def attend(
    q: "NDArray[np.float32]",
    k: "NDArray[np.float32]",
    v: "NDArray[np.float32]",
    how: Attend,
    run: "Pass",
    layer: int,
) -> "NDArray[np.float32]":
    """The values that queries find: float32 (sequences * tokens, heads * value length).

    Shapes: q (sequences, tokens, heads, length), k and v (sequences, tokens, kv_heads, length). Each key-value head
    serves heads / kv_heads queries. With a cache in ``run``, the keys and values of earlier tokens of this layer count.
    """
    sequences, tokens, heads, _ = q.shape
    kv_heads, length = v.shape[2:]
    out = np.empty((sequences, tokens, heads, length), np.float32)
    if run.dry:
        return np.zeros((sequences * tokens, heads * length), np.float32)
    past = run.start
    if run.cache is not None:
        all_k, all_v = run.cache.extend(layer, k[0], v[0])
        k, v = all_k[None], all_v[None]
    group = heads // kv_heads
    at_once = max(1, SCORES // (group * min(tokens, QUERIES) * k.shape[1]))  # heads that one piece of work takes

    def work(item: tuple[int, int, int]) -> None:
        s, head, first = item
        last, end = min(first + QUERIES, tokens), min(head + at_once, kv_heads)
        mine, n, block = slice(head * group, end * group), end - head, last - first
        low, high, hidden = _span(first + past, last + past, k.shape[1], how)
        queries = q[s, first:last, mine].transpose(1, 0, 2).reshape(n, group * block, -1)
        scores = np.matmul(queries, k[s, low:high, head:end].transpose(1, 2, 0)).reshape(n * group, block, high - low)
        scores *= how.scale
        if how.softcap:
            scores /= how.softcap
            np.tanh(scores, out=scores)
            scores *= how.softcap
        if how.slopes is not None:
            distance = np.arange(low, high)[None] - np.arange(first + past, last + past)[:, None]
            distance = distance if how.causal else -abs(distance)
            scores += how.slopes[mine, None, None] * distance.astype(np.float32)
        if hidden is not None:
            scores[:, hidden] = -np.inf
        top = scores.max(axis=2, keepdims=True)
        if how.sinks is not None:
            top = np.maximum(top, how.sinks[mine, None, None])
        scores -= top
        np.exp(scores, out=scores)
        total = scores.sum(axis=2, keepdims=True)
        if how.sinks is not None:
            total += np.exp(how.sinks[mine, None, None] - top)
        scores = scores.reshape(n, group * block, -1)
        found = np.matmul(scores, v[s, low:high, head:end].transpose(1, 0, 2)).reshape(n * group, block, length)
        found /= total
        out[s, first:last, mine] = found.transpose(1, 0, 2)

    heads_first, blocks = range(0, kv_heads, at_once), range(0, tokens, QUERIES)
    run.run(work, [(s, head, first) for s in range(sequences) for head in heads_first for first in blocks])
    return out.reshape(sequences * tokens, heads * length)


def _span(first: int, last: int, n_keys: int, how: Attend) -> "tuple[int, int, NDArray[np.bool_] | None]":
    """Which keys queries at positions [first, last) need: [low, high), and a mask of what a query must not see."""
    low, high = 0, last if how.causal else n_keys
    if last - first == 1 and how.causal and not how.window:
        return low, high, None
    at, keys = np.arange(first, last)[:, None], np.arange(n_keys)[None]
    if how.window:
        if not how.causal:
            seen = abs(at - keys) <= how.window // 2
            return 0, n_keys, ~seen
        low = first // how.window * how.window if how.chunked else max(0, first - how.window + 1)
    if not how.causal:
        return 0, n_keys, None
    keys = keys[:, low:high]
    hidden = keys > at
    if how.window:
        hidden |= keys < at // how.window * how.window if how.chunked else at - keys >= how.window
    return low, high, hidden if hidden.any() else None
