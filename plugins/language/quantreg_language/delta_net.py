"""The gated delta net (Yang et al. 2024, arXiv:2412.06464), in chunks of tokens, and attention with a gated output."""

import math
from typing import TYPE_CHECKING

import numpy as np

from quantreg.inference.attention import attend, norm_and_rotate, settings
from quantreg.inference.feed_forward import silu
from quantreg.inference.norms import normalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Array = NDArray[np.float32]
    Chunk = Callable[..., tuple[Array, Array]]

__all__ = ["convolve", "corrections", "delta_rule", "hybrid_attention", "in_chunks", "sigmoid", "unit"]

CHUNK = 64  # tokens that are computed at once: a longer chunk costs more than it saves


def hybrid_attention(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """The first half of a layer: a delta net if it has a convolution, else attention with a gated output."""
    return delta_net(layer, x, run) if layer.has("ssm_conv1d") else gated_attention(layer, x, run)


def gated_attention(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """Attention whose output is multiplied by sigmoid(gate). Each head's gate follows its query in ``attn_q``."""
    heads, length, kv = layer.heads, layer.key_length, layer.kv_heads * layer.key_length
    shape = run.sequences, run.tokens
    if layer.has("attn_qkv"):
        fused = layer.linear("attn_qkv", x, run, 2 * heads * length + 2 * kv)
        both, k, v = fused[:, : -2 * kv], fused[:, -2 * kv : -kv], fused[:, -kv:]
    else:
        both = layer.linear("attn_q", x, run, 2 * heads * length)
        k, v = (layer.linear(f"attn_{part}", x, run, kv) for part in ("k", "v"))
    both = both.reshape(*shape, heads, 2, length)
    k, v = (each.reshape(*shape, layer.kv_heads, length) for each in (k, v))
    q, k = norm_and_rotate(layer, np.ascontiguousarray(both[..., 0, :]), k, run)
    out = attend(q, k, v, settings(layer), run, layer.index)
    out *= sigmoid(both[..., 1, :].reshape(out.shape))
    return layer.linear("attn_output", out, run, layer.facts.width)


def delta_net(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A layer whose memory is a matrix for each head, that each token fades and corrects. float32 (rows, width)."""
    facts = layer.facts
    length, n_keys = facts.whole("ssm.state_size", least=1), facts.whole("ssm.group_count", least=1)
    n_values = facts.whole("ssm.time_step_rank", least=1)
    mixed = not layer.has("ssm_alpha")  # Qwen3-Next holds what belongs to a head of keys together
    values, z = _inputs(layer, x, run, length, n_keys, n_values)
    beta, alpha = _rates(layer, x, run, n_keys, n_values, mixed)
    shape = run.sequences, run.tokens
    tail, memory = (None, None) if run.cache is None else run.cache.states.get(layer.index, (None, None))
    values = values.reshape(*shape, -1)
    values, tail = convolve(values, layer.small("ssm_conv1d", values.shape[-1], _kernel(layer)), tail)
    values = silu(values)
    split = length * n_keys
    q, k = (values[..., a : a + split].reshape(*shape, n_keys, length) for a in (0, split))
    v = values[..., 2 * split :].reshape(*shape, n_values, length)
    order = np.arange(n_values) // (n_values // n_keys) if mixed else np.arange(n_values) % n_keys
    q, k = (unit(each, facts.eps)[..., order, :] for each in (q, k))
    fade = layer.weights.small(f"blk.{layer.index}.ssm_a", n_values) * np.logaddexp(
        0, alpha + layer.small("ssm_dt", n_values, kind="bias")
    )
    out, memory = delta_rule(q, k, v, fade.reshape(*shape, -1), sigmoid(beta).reshape(*shape, -1), memory, run)
    if run.cache is not None:
        run.cache.states[layer.index] = tail, memory
    out = normalise(out, layer.small("ssm_norm", length), None, "rms", facts.eps, run).reshape(len(x), -1)
    out *= silu(z.reshape(out.shape).copy())
    return layer.linear("ssm_out", out, run, facts.width)


def convolve(x: "Array", kernel: "Array", tail: "Array | None") -> "tuple[Array, Array]":
    """Convolve each channel of (sequences, tokens, channels) with its row of ``kernel``, backwards in time.

    ``tail`` holds the inputs of the tokens before, (sequences, kernel length - 1, channels), or is None at the
    beginning. Returns the result and the next tail.
    """
    n = kernel.shape[1]
    if tail is None:
        tail = np.zeros((x.shape[0], n - 1, x.shape[2]), np.float32)
    whole = np.concatenate((tail, x), axis=1)
    out = whole[:, : x.shape[1]] * kernel[:, 0]
    for i in range(1, n):
        out += whole[:, i : i + x.shape[1]] * kernel[:, i]
    return out, whole[:, x.shape[1] :].copy()


def delta_rule(
    q: "Array", k: "Array", v: "Array", fade: "Array", beta: "Array", memory: "Array | None", run: "Pass"
) -> "tuple[Array, Array]":
    """What the memory answers to each query, and the memory after the last token.

    Shapes: q, k and v (sequences, tokens, heads, length), fade and beta (sequences, tokens, heads), the memory
    (sequences, heads, length, length) or None at the beginning. Each token multiplies the memory by exp(fade), adds
    the outer product of k and u = beta * (v - k @ memory), and gets q @ memory / sqrt(length). Within a chunk the u are
    the solution of a triangular system (see section 3.3 of the paper), so that all else are products of matrices.
    """
    return in_chunks(_chunk, CHUNK, q, k, v, fade, beta, memory, run)


def _chunk(q: "Array", k: "Array", v: "Array", total: "Array", rate: "Array", before: "Array") -> "tuple[Array, Array]":
    total = total[..., None]
    grown = np.exp(total)
    apart = np.exp(np.minimum(total - total.transpose(0, 2, 1), 0))
    keys = k.transpose(0, 2, 1)
    new = corrections(apart * np.matmul(k, keys), rate, v - grown * np.matmul(k, before))
    found = grown * np.matmul(q, before)
    found += np.matmul(np.tril(apart * np.matmul(q, keys)), new)
    return found, grown[:, -1:] * before + np.matmul(keys, np.exp(total[:, -1:] - total) * new)


def in_chunks(
    chunk: "Chunk",
    size: int,
    q: "Array",
    k: "Array",
    v: "Array",
    fade: "Array",
    beta: "Array",
    memory: "Array | None",
    run: "Pass",
) -> "tuple[Array, Array]":
    """Take a memory through all tokens, ``size`` of them at once; return the answers and the last memory.

    ``chunk(q, k, v, total, rate, before)`` returns q @ memory for the tokens of a chunk, and the memory after it. It
    gets arrays that begin with (heads, tokens): ``total`` are the sums of ``fade`` up to each token, and ``rate`` is
    ``beta``, (heads, tokens, 1).
    """
    sequences, tokens, heads, length = q.shape
    out = np.empty((sequences, tokens, heads, length), np.float32)
    last = np.zeros((sequences, heads, length, length), np.float32) if memory is None else memory.copy()
    scale = np.float32(1 / math.sqrt(length))

    def work(item: tuple[int, slice]) -> None:
        s, mine = item
        for first in range(0, tokens, size):
            part = slice(first, min(first + size, tokens))
            qs, ks, vs, fs, rate = (
                np.ascontiguousarray(each[s, part, mine].swapaxes(0, 1)) for each in (q, k, v, fade, beta)
            )
            found, last[s, mine] = chunk(qs, ks, vs, np.cumsum(fs, axis=1), rate[..., None], last[s, mine])
            out[s, part, mine] = (found * scale).transpose(1, 0, 2)

    run.run(work, [(s, slice(a, a + 4)) for s in range(sequences) for a in range(0, heads, 4)])
    return out, last


def corrections(products: "Array", rate: "Array", wrong: "Array") -> "Array":
    """The u of a chunk: u + rate * tril(products, -1) @ u = rate * wrong."""
    system = np.tril(products, -1) * rate
    system += np.eye(products.shape[-1], dtype=np.float32)
    return np.linalg.solve(system, rate * wrong)


def _inputs(layer: "Layer", x: "Array", run: "Pass", length: int, n_keys: int, n_values: int) -> "tuple[Array, Array]":
    """Queries, keys and values side by side, (rows, channels), and the gates of the output, (rows, values)."""
    keys, values = length * n_keys, length * n_values
    if layer.has("attn_qkv"):
        return layer.linear("attn_qkv", x, run, 2 * keys + values), layer.linear("attn_gate", x, run, values)
    each = values // n_keys  # old files hold all that belongs to a head of keys together
    whole = layer.linear("ssm_in", x, run, 2 * keys + 2 * values).reshape(len(x), n_keys, -1)
    ends = np.cumsum([length, length, each])
    q, k, v, z = (part.reshape(len(x), -1) for part in np.split(whole, ends, axis=2))
    return np.concatenate((q, k, v), axis=1), z


def _rates(layer: "Layer", x: "Array", run: "Pass", n_keys: int, n_values: int, mixed: bool) -> "tuple[Array, Array]":
    """What decides how much a token corrects and how much it fades: float32 (rows, heads of values) each."""
    if not mixed:
        return layer.linear("ssm_beta", x, run, n_values), layer.linear("ssm_alpha", x, run, n_values)
    both = layer.linear("ssm_ba", x, run, 2 * n_values).reshape(len(x), n_keys, 2, n_values // n_keys)
    return both[:, :, 0].reshape(len(x), -1), both[:, :, 1].reshape(len(x), -1)


def _kernel(layer: "Layer") -> int:
    return layer.facts.whole("ssm.conv_kernel", least=1)


def unit(x: "Array", eps: float) -> "Array":
    """Each row divided by its length."""
    return x / np.sqrt(np.einsum("...i,...i->...", x, x) + np.float32(eps))[..., None]


def sigmoid(x: "Array") -> "Array":
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):
        return np.reciprocal(1 + np.exp(-x))
