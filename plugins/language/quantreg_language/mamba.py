"""State spaces: Mamba (Gu and Dao 2023, arXiv:2312.00752) and Mamba 2 (Dao and Gu 2024, arXiv:2405.21060)."""

from typing import TYPE_CHECKING

import numpy as np

from quantreg.inference.feed_forward import silu
from quantreg.inference.norms import normalise
from quantreg_language.delta_net import CHUNK, convolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Array = NDArray[np.float32]

__all__ = ["mamba", "mamba2", "scan_channels", "scan_heads"]


def mamba(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A layer of Mamba: each channel has a state of its own, and each of its values fades at a rate of its own."""
    facts, shape = layer.facts, (run.sequences, run.tokens)
    inner, size = facts.whole("ssm.inner_size", least=1), facts.whole("ssm.state_size", least=1)
    rank = facts.whole("ssm.time_step_rank", least=1)
    both = layer.linear("ssm_in", x, run, 2 * inner)
    values, state = _convolved(layer, both[:, :inner], run, inner)
    rates = layer.linear("ssm_x", values, run, rank + 2 * size)
    step, into, out_of = (np.ascontiguousarray(p) for p in np.split(rates, [rank, rank + size], axis=1))
    if facts.get("ssm.dt_b_c_rms", False) or layer.has("ssm_dt_norm"):
        step, into, out_of = (
            normalise(each, layer.small(part) if layer.has(part) else None, None, "rms", facts.eps, run)
            for each, part in ((step, "ssm_dt_norm"), (into, "ssm_b_norm"), (out_of, "ssm_c_norm"))
        )
    step = _softplus(layer.linear("ssm_dt", step, run, inner)).reshape(*shape, inner)
    found, state = scan_channels(
        values.reshape(*shape, inner),
        step,
        _whole(layer, "ssm_a", inner, size),
        into.reshape(*shape, size),
        out_of.reshape(*shape, size),
        state,
        run,
    )
    _keep(layer, run, state)
    found = found.reshape(len(x), inner) + values * _whole(layer, "ssm_d", inner)
    return layer.linear("ssm_out", found * silu(both[:, inner:].copy()), run, facts.width)


def mamba2(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A layer of Mamba 2: each head has a matrix for a state, which fades as a whole."""
    facts, shape = layer.facts, (run.sequences, run.tokens)
    inner, size = facts.whole("ssm.inner_size", least=1), facts.whole("ssm.state_size", least=1)
    heads, groups = facts.whole("ssm.time_step_rank", least=1), facts.whole("ssm.group_count", least=1)
    channels, length = inner + 2 * groups * size, inner // heads
    z, mixed, step = np.split(layer.linear("ssm_in", x, run, inner + channels + heads), [inner, inner + channels], 1)
    mixed, state = _convolved(layer, mixed, run, channels)
    values = mixed[:, :inner].reshape(*shape, heads, length)
    into, out_of = (p.reshape(*shape, groups, size) for p in np.split(mixed[:, inner:], 2, axis=1))
    step = _softplus(step + layer.small("ssm_dt", heads, kind="bias")).reshape(*shape, heads)
    found, state = scan_heads(values, step, _whole(layer, "ssm_a", heads, 1)[:, 0], into, out_of, state, run)
    _keep(layer, run, state)
    found += values * _whole(layer, "ssm_d", heads, 1)
    found = found.reshape(len(x), inner) * silu(z.copy())
    if layer.has("ssm_norm"):
        parts = normalise(found.reshape(len(x), groups, -1), None, None, "rms", facts.eps, run)
        found = (parts * layer.small("ssm_norm", groups, inner // groups)).reshape(len(x), inner)
    return layer.linear("ssm_out", found, run, facts.width)


def scan_channels(
    x: "Array", step: "Array", rate: "Array", into: "Array", out_of: "Array", state: "Array | None", run: "Pass"
) -> "tuple[Array, Array]":
    """What the states of all channels give at each token, and the states after the last token.

    Shapes: x and step (sequences, tokens, channels), rate (channels, size), into and out_of (sequences, tokens, size),
    the state (sequences, channels, size) or None at the beginning. At each token the state becomes
    state * exp(step * rate) + step * x * into, and gives state @ out_of.
    """
    sequences, tokens, channels = x.shape
    out = np.empty_like(x)
    last = np.zeros((sequences, *rate.shape), np.float32) if state is None else state.copy()
    given = step * x

    def work(mine: slice) -> None:
        now = last[:, mine]
        for t in range(tokens):
            now *= np.exp(step[:, t, mine, None] * rate[mine])
            now += given[:, t, mine, None] * into[:, t, None]
            out[:, t, mine] = np.matmul(now, out_of[:, t, :, None])[..., 0]

    run.run(work, [slice(a, a + 1024) for a in range(0, channels, 1024)])
    return out, last


def scan_heads(
    x: "Array", step: "Array", rate: "Array", into: "Array", out_of: "Array", state: "Array | None", run: "Pass"
) -> "tuple[Array, Array]":
    """What the states of all heads give at each token, and the states after the last token.

    Shapes: x (sequences, tokens, heads, length), step (sequences, tokens, heads), rate (heads,), into and out_of
    (sequences, tokens, groups, size), the state (sequences, heads, size, length) or None at the beginning. At each
    token the state becomes state * exp(step * rate) + the outer product of into and step * x, and gives
    out_of @ state. Tokens are computed in chunks, as products of matrices (see section 6 of the paper on Mamba 2).
    """
    sequences, tokens, heads, length = x.shape
    groups, size = into.shape[2:]
    out = np.empty_like(x)
    last = np.zeros((sequences, heads, size, length), np.float32) if state is None else state.copy()
    fade, given = step * rate, step[..., None] * x
    each = heads // groups

    def work(item: tuple[int, int]) -> None:
        s, group = item
        mine = slice(group * each, (group + 1) * each)
        for first in range(0, tokens, CHUNK):
            part = slice(first, min(first + CHUNK, tokens))
            b, c = into[s, part, group], out_of[s, part, group]
            v = np.ascontiguousarray(given[s, part, mine].transpose(1, 0, 2))
            total = np.cumsum(fade[s, part, mine].T, axis=1)[..., None]  # of the logarithms, up to each token
            apart = np.exp(np.minimum(total - total.transpose(0, 2, 1), 0))
            found = np.matmul(np.tril(apart * np.matmul(c, b.T)), v)
            found += np.exp(total) * np.matmul(c, last[s, mine])
            out[s, part, mine] = found.transpose(1, 0, 2)
            last[s, mine] *= np.exp(total[:, -1:])
            last[s, mine] += np.matmul(b.T, np.exp(total[:, -1:] - total) * v)

    run.run(work, [(s, group) for s in range(sequences) for group in range(groups)])
    return out, last


def _convolved(layer: "Layer", x: "Array", run: "Pass", channels: int) -> "tuple[Array, Array | None]":
    """The convolution of a layer and its activation, float32 (rows, channels); and the state that the cache holds."""
    kernel = layer.small("ssm_conv1d", channels, layer.facts.whole("ssm.conv_kernel", least=1))
    tail, state = (None, None) if run.cache is None else run.cache.states.get(layer.index, (None, None))
    out, tail = convolve(x.reshape(run.sequences, run.tokens, channels), kernel, tail)
    if run.cache is not None:
        run.cache.states[layer.index] = tail, state
    if layer.has("ssm_conv1d", "bias"):
        out += layer.small("ssm_conv1d", channels, kind="bias")
    return silu(out).reshape(-1, channels), state


def _keep(layer: "Layer", run: "Pass", state: "Array") -> None:
    if run.cache is not None:
        run.cache.states[layer.index] = run.cache.states[layer.index][0], state


def _whole(layer: "Layer", part: str, *shape: int) -> "Array":
    """A tensor whose name has no ending."""
    return layer.weights.small(f"blk.{layer.index}.{part}", *shape)


def _softplus(x: "Array") -> "Array":
    return np.logaddexp(np.float32(0), x)
