"""One layer of a model: its tensors by short names, and what the graph says about it."""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from quantreg.errors import ModelError
from quantreg.inference.facts import Facts
from quantreg.inference.norms import normalise
from quantreg.inference.passes import Pass
from quantreg.inference.rope import Rope, yarn_magnitude
from quantreg.inference.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from quantreg.inference.graph import Graph

__all__ = ["Layer"]

Found = TypeVar("Found")

# By which angles are divided: for all contexts, for one longer than in training, and for one as in training.
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


class Layer:
    """A layer, as the functions of a graph see it.

    ``part`` is always the middle of a tensor's name: "attn_q" stands for ``blk.3.attn_q.weight`` in layer 3.

    - ``index``, ``facts``, ``graph``: its number, and the numbers and the table of the model.
    - ``heads``, ``kv_heads``, ``key_length``, ``value_length``: of its attention.
    - ``window``: how many tokens it looks back, itself included, or 0 for all.
    """

    index: int
    facts: Facts
    graph: "Graph"
    weights: Weights
    heads: int
    kv_heads: int
    window: int
    key_length: int
    value_length: int

    def __init__(self, index: int, facts: Facts, graph: "Graph", weights: Weights) -> None:
        self.index, self.facts, self.graph, self.weights = index, facts, graph, weights
        self.heads, self.kv_heads = facts.heads[index], facts.kv_heads[index]
        self.window = graph.window_of(facts, index)
        self.key_length, self.value_length = facts.key_length, facts.value_length
        if self.window:  # some models have other heads in the layers with a window
            self.key_length = facts.whole("attention.key_length_swa", self.key_length)
            self.value_length = facts.whole("attention.value_length_swa", self.value_length)
        self._once: dict[Any, Any] = {}

    def once(self, key: object, make: "Callable[[Layer], Found]") -> "Found":
        """What ``make`` returns for this layer: it is called the first time, and the result is kept under ``key``."""
        try:
            found: Found = self._once[key]
        except KeyError:
            found = self._once[key] = make(self)
        return found

    def name(self, part: str, kind: str = "weight") -> str:
        """The full name of a tensor of this layer."""
        return f"blk.{self.index}.{part}.{kind}"

    def has(self, part: str, kind: str = "weight") -> bool:
        """Whether the model has this tensor."""
        return self.name(part, kind) in self.weights

    def small(self, part: str, *shape: int, kind: str = "weight") -> "NDArray[np.float32]":
        """A small tensor, decoded. Raises ModelError if it is missing or has another shape."""
        return self.weights.small(self.name(part, kind), *shape)

    def skip(self, *parts: str) -> None:
        """Say that these parts of the layer are not computed, or nothing of it, whatever tensors it has."""
        begins = tuple(f"blk.{self.index}.{part}." for part in parts) or f"blk.{self.index}."
        self.weights.used.update(name for name in self.weights.tensors if name.startswith(begins))

    def linear(self, part: str, x: "NDArray[np.float32]", run: Pass, rows: int | None = None) -> "NDArray[np.float32]":
        """``x @ weight.T + bias``, with the bias if the model has one: float32 (..., rows)."""
        y = self.weights.multiply(self.name(part), x, run, rows)
        if self.has(part, "bias"):
            y += self.small(part, y.shape[-1], kind="bias")
        return y

    def experts(
        self, part: str, x: "NDArray[np.float32]", chosen: "NDArray[np.intp]", run: Pass, rows: int | None = None
    ) -> "NDArray[np.float32]":
        """The same with the matrix that ``chosen`` names for each row: float32 chosen.shape + (rows,)."""
        y = self.weights.multiply(self.name(part), x, run, rows, chosen, count=self.facts.n_experts)
        if self.has(part, "bias"):
            y += self.small(part, self.facts.n_experts, y.shape[-1], kind="bias")[chosen]
        return y

    def each(self, part: str, x: "NDArray[np.float32]", run: Pass, rows: int) -> "NDArray[np.float32]":
        """``x[:, i] @ weight[i].T`` for every matrix i of a stack: float32 (rows of x, n, rows)."""
        return self.weights.multiply_each(self.name(part), x, run, rows)

    def norm(self, part: str, x: "NDArray[np.float32]", run: Pass) -> "NDArray[np.float32]":
        """The norm of the graph over the last axis, times the weight ``part``, plus its bias if there is one."""
        weight = self.small(part, x.shape[-1]) if self.graph.norm_weights else None
        bias = self.small(part, x.shape[-1], kind="bias") if self.has(part, "bias") else None
        return normalise(x, weight, bias, self.graph.norm, self.facts.eps, run)

    def rope(self, run: Pass) -> Rope | None:
        """How this layer rotates its heads in this pass, or None if it does not."""
        name = ROPE_FACTORS[0]
        if name not in self.weights:
            longest = run.start + run.tokens if run.cache is None else max(run.cache.limit or 0, run.start + run.tokens)
            name = ROPE_FACTORS[1 if longest > self.once("trained", _trained) else 2]
        return self.once(("rope", name), lambda layer: layer._rope(name))

    def _rope(self, factors: str) -> Rope | None:
        facts, graph = self.facts, self.graph
        pairs = graph.rope(facts) if callable(graph.rope) else graph.rope
        if pairs is None or not graph.rotates(facts, self.index):
            return None
        base, scale = facts.number("rope.freq_base", 10000.0), _scale(facts)
        if self.window:
            base, scale = graph.window_base(facts, base), graph.window_scale(facts, scale)
        kind = facts.get("rope.scaling.type", "linear")
        yarn, magnitude = None, facts.number("rope.scaling.attn_factor", 1.0)
        if kind == "yarn":
            context = int(facts.number("rope.scaling.original_context_length", facts.context))
            fast = facts.number("rope.scaling.yarn_beta_fast", 32.0)
            yarn = context, fast, facts.number("rope.scaling.yarn_beta_slow", 1.0)
            magnitude *= graph.yarn_magnitude(facts, scale) if graph.yarn_magnitude else yarn_magnitude(scale)
        elif kind == "none":
            scale = 1.0
        dims = facts.whole("rope.dimension_count_swa", facts.rope_dims) if self.window else facts.rope_dims
        if dims % 2 or dims > max(self.key_length, facts.key_length):
            raise ModelError(
                f"by the metadata of the model, {dims} values of a head rotate, but a head has {self.key_length}: "
                f"correct {facts.architecture}.rope.dimension_count, which must be even"
            )
        divisors = None
        for name in ROPE_FACTORS:  # all are checked, whichever this pass needs
            if name in self.weights:
                found = self.weights.small(name, facts.rope_dims // 2)
                divisors = found if name == factors else divisors
        rope = Rope(pairs, dims, base, scale, divisors, yarn, magnitude)
        return graph.window_rope(rope) if self.window else rope


def _trained(layer: Layer) -> float:
    """The context that the model was trained on before it was extended."""
    return layer.facts.number("rope.scaling.original_context_length", layer.facts.context)


def _scale(facts: Facts) -> float:
    factor = facts.number("rope.scaling.factor", facts.number("rope.scale_linear", 0.0))
    return 1 / factor if factor else 1.0
