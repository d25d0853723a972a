"""Feed-forward networks: one or two matrices up, an activation, one matrix down; and mixtures of experts."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

__all__ = ["ACTIVATIONS", "choose", "experts", "feed_forward", "gated", "gelu", "routed", "shared_expert", "silu"]


def silu(x: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """x * sigmoid(x), in place."""
    y = np.negative(x)
    with np.errstate(over="ignore"):
        np.exp(y, out=y)
    y += 1
    x /= y
    return x


def gelu(x: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """GELU by its approximation with tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415), in place."""
    y = x * x
    y *= np.float32(0.044715)
    y += 1
    y *= x
    y *= np.float32(0.7978845608028654)  # sqrt(2 / pi)
    np.tanh(y, out=y)
    y += 1
    y *= np.float32(0.5)
    x *= y
    return x


def relu(x: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """max(x, 0), in place."""
    return np.maximum(x, 0, out=x)


def relu_squared(x: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """max(x, 0) squared, in place."""
    relu(x)
    x *= x
    return x


ACTIVATIONS: Mapping[str, Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]] = {
    "silu": silu,
    "gelu": gelu,
    "relu": relu,
    "relu_squared": relu_squared,
}


def feed_forward(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """The feed-forward network of a layer: float32 (rows, width) in and out. It may have experts."""
    if layer.has("ffn_gate_inp") or layer.has("ffn_down_exps"):
        return experts(layer, x, run)
    up = layer.linear("ffn_up", x, run)
    gate = layer.linear("ffn_gate", x, run) if layer.has("ffn_gate") else None
    up = gated(layer, gate, up, run)
    if layer.has("ffn_sub_norm"):
        up = layer.norm("ffn_sub_norm", up, run)
    return layer.linear("ffn_down", up, run, layer.facts.width)


def gated(
    layer: "Layer", gate: "NDArray[np.float32] | None", up: "NDArray[np.float32]", run: "Pass"
) -> "NDArray[np.float32]":
    """activation(gate) * up, or activation(up) if there is no gate, or what ``combine`` of the graph makes of the two.

    May overwrite its arguments. With ``fused_gate`` in the graph, the first half of the rows of ``up`` is the gate.
    """
    shape = up.shape
    if gate is None and layer.graph.fused_gate:
        half = shape[-1] // 2
        gate, up, shape = up[..., :half], up[..., half:], (*shape[:-1], half)
    act, combine = layer.graph.activate, layer.graph.combine
    up = up.reshape(-1, shape[-1])
    if gate is None:
        run.by_rows(lambda part: _store(up, part, act(up[part])), up.shape)
        return up.reshape(shape)
    gate = gate.reshape(-1, shape[-1])
    out = np.empty(up.shape, np.float32)

    def work(part: slice) -> None:
        if combine is not None:
            out[part] = combine(gate[part], up[part])
        else:
            np.multiply(act(gate[part].copy()), up[part], out=out[part])

    run.by_rows(work, up.shape)
    return out.reshape(shape)


def _store(x: "NDArray[np.float32]", part: slice, values: "NDArray[np.float32]") -> None:
    x[part] = values


def experts(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """A mixture of experts: each row goes through those that the router chose, and through the shared one if any."""
    out = routed(layer, x, *route(layer, x, run), run)
    if layer.has("ffn_up_shexp"):
        out += shared_expert(layer, x, run)
    return out


def shared_expert(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """What the expert that every row goes through makes of it, times a gate of the row if the model has one."""
    gate = layer.linear("ffn_gate_shexp", x, run) if layer.has("ffn_gate_shexp") else None
    up = gated(layer, gate, layer.linear("ffn_up_shexp", x, run), run)
    out = layer.linear("ffn_down_shexp", up, run, layer.facts.width)
    if layer.has("ffn_gate_inp_shexp"):
        weight = layer.small("ffn_gate_inp_shexp").reshape(-1, 1)
        if run.observe is not None:
            run.observe(layer.name("ffn_gate_inp_shexp"), x, None)
        out *= 1 / (1 + np.exp(-np.matmul(x, weight)))
    return out


def routed(
    layer: "Layer", x: "NDArray[np.float32]", chosen: "NDArray[np.intp]", weights: "NDArray[np.float32]", run: "Pass"
) -> "NDArray[np.float32]":
    """The weighted sum of what the chosen experts (rows, k) make of each row: float32 of the shape of ``x``."""
    gate, before, width = None, layer.graph.router.before, x.shape[-1]
    if before:
        x = x[:, None] * weights[..., None]
    if layer.has("ffn_gate_up_exps"):
        both = layer.experts("ffn_gate_up_exps", x, chosen, run)
        half = both.shape[-1] // 2
        gate, up = both[..., :half], both[..., half:]
    else:
        up = layer.experts("ffn_up_exps", x, chosen, run)
        if layer.has("ffn_gate_exps"):
            gate = layer.experts("ffn_gate_exps", x, chosen, run)
    down = layer.experts("ffn_down_exps", gated(layer, gate, up, run), chosen, run, width)
    out: NDArray[np.float32] = down.sum(axis=1) if before else np.einsum("ikw,ik->iw", down, weights)
    return out


def route(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "tuple[NDArray[np.intp], NDArray[np.float32]]":
    """The experts that the router chose, intp (rows, k), best first, and their weights, float32 (rows, k)."""
    return choose(layer, layer.linear("ffn_gate_inp", x, run, layer.facts.n_experts))


def choose(layer: "Layer", logits: "NDArray[np.float32]") -> "tuple[NDArray[np.intp], NDArray[np.float32]]":
    """The same by the router's logits, float32 (rows, experts)."""
    facts, how = layer.facts, layer.graph.router
    k, score = int(facts.experts_used[layer.index]), how.score_of(facts)
    scores = logits
    if score == "softmax":
        scores = softmax(logits)
    elif score == "sigmoid":
        scores = np.reciprocal(1 + np.exp(-logits))
    wanted = scores
    if layer.has("exp_probs_b", "bias"):  # it decides who is chosen, and has no part in the weights
        wanted = scores + layer.small("exp_probs_b", facts.n_experts, kind="bias")
    groups = facts.whole("expert_group_count", 0)
    if groups > 1:
        wanted = _best_groups(wanted, groups, facts.whole("expert_group_used_count"))
    chosen = np.argsort(-wanted, axis=1, kind="stable")[:, :k]
    weights = np.take_along_axis(scores, chosen, axis=1)
    if score == "softmax of chosen":
        weights = softmax(weights)
    if how.normalise(facts):
        weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.float32(2**-14))
    scale = facts.number("expert_weights_scale", 0.0)
    return chosen, (weights * np.float32(scale) if scale else weights).astype(np.float32)


def _best_groups(wanted: "NDArray[np.float32]", groups: int, used: int) -> "NDArray[np.float32]":
    """Leave only the experts of the groups whose two best experts add up to most (DeepSeek-V3, section 2.1.2)."""
    parts = wanted.reshape(len(wanted), groups, -1)
    sums = np.sort(parts, axis=2)[:, :, -2:].sum(axis=2)
    best = np.argsort(-sums, axis=1, kind="stable")[:, :used]
    keep = np.zeros(sums.shape, bool)
    np.put_along_axis(keep, best, True, axis=1)
    return np.where(keep[:, :, None], parts, -np.inf).reshape(wanted.shape)


def softmax(x: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """exp(x) over its sum along the last axis."""
    y = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y
