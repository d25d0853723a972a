"""How the models of an architecture are computed, as a table. The defaults describe llama."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from quantreg.errors import PluginError
from quantreg.inference.attention import attention, norm_and_rotate
from quantreg.inference.facts import Facts
from quantreg.inference.feed_forward import ACTIVATIONS, feed_forward
from quantreg.inference.norms import Norm
from quantreg.inference.rope import Pairs, Rope

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Part = Callable[[Layer, NDArray[np.float32], Pass], NDArray[np.float32]]

__all__ = ["Graph", "Router", "whole_layer"]

Score = Literal["softmax", "sigmoid", "softmax of chosen"]


@dataclass(frozen=True, slots=True)
class Router:
    """How experts are chosen and weighted.

    ``score`` turns the router's logits into scores, or is a function of the facts that says how; the best are chosen,
    and their scores are their weights. ``norm`` says whether these weights are divided by their sum; None asks the key
    ``expert_weights_norm``. ``before``: whether the weights multiply what goes into the experts, not what comes out.
    """

    score: Score | Callable[[Facts], Score] = "softmax"
    norm: bool | None = True
    before: bool = False

    def normalise(self, facts: Facts) -> bool:
        """Whether the weights of the chosen experts are divided by their sum."""
        return bool(facts.get("expert_weights_norm", False)) if self.norm is None else self.norm

    def score_of(self, facts: Facts) -> Score:
        """How logits become scores in this model."""
        return self.score(facts) if callable(self.score) else self.score


@dataclass(frozen=True, slots=True)
class Graph:
    """How a model is computed. A row of this table is a difference from llama.

    Much follows from the tensors that a model has, and needs no entry: biases, scales, norms of queries and keys and
    before the last matrix of either half, one matrix for queries, keys and values, a gate, a router and experts,
    attention sinks, factors of the rotation, an output matrix or the embeddings in its place. Parts of names are the
    middle of ``blk.0.PART.weight``.

    - ``norm``: "rms" or "layer". ``norm_weights``: whether norms multiply by weights.
    - ``attention_norm``, ``ffn_norm``: the norms before either half of a layer, or None.
    - ``after_attention``, ``after_ffn``: the norms after it, before the residual is added, or None.
    - ``parallel``: whether both halves see the input of the layer (True), or a function of the layer that says so. If
      the layer has no ``ffn_norm`` tensor, the second half then shares the first one's norm.
    - ``activation``: "silu", "gelu", "relu", "relu_squared", or a function that may overwrite its argument.
    - ``combine``: a function of gate and up that gives what goes into ``ffn_down``; None means activation(gate) * up.
    - ``fused_gate``: whether ``ffn_up`` holds the gate in its first half, if there is no ``ffn_gate``.
    - ``router``: how experts are chosen.
    - ``rope``: which values turn together: "adjacent", "halves", or None for no rotation, or a function of the facts
      that says so. ``rotates``: a function of the facts and the layer's number that says whether this layer does.
    - ``windows``: a function of the facts and the layer's number that gives the number of tokens that a layer looks
      back, or 0 for all. ``chunked``: whether it looks back to a multiple of this number instead. ``window_base`` and
      ``window_scale``: the rotation's base and scale in layers with a window; ``window_rope`` changes all of it.
    - ``yarn_magnitude``: how much larger YaRN makes rotated values, as a function of the facts and the scale.
    - ``attention_scale``: a function of the facts and the layer's number; None means the key ``attention.scale`` or
      1 / sqrt(key length). ``attention_softcap``, ``logit_softcap``: the defaults of the keys
      ``attn_logit_softcapping`` and ``final_logit_softcapping``; 0 means that there is no cap, and None that the model
      does not ask these keys.
    - ``embedding_scale``, ``residual_scale``, ``logit_scale``: what embeddings, the output of each half of a layer and
      logits are multiplied by, as functions of the facts.
    - ``positions``: whether the model adds learned embeddings of positions, ``position_embd``; None means that it does
      if it has them.
    - ``embedding_norm``: the norm of the embeddings, such as "token_embd_norm", or None.
    - ``output_norm``: the norm after the last layer, or None.
    - ``causal``: whether a token sees no later ones. ``generates``: whether the model predicts the next token; models
      that only make embeddings do not.
    - ``slopes``: the slopes of ALiBi as a function of the facts and the number of heads, float32 (heads,), or None.
    - ``prepare``: what happens to queries and keys before they meet: ``prepare(layer, q, k, run)``.
    - ``attention``, ``feed_forward``, ``layer``: functions ``f(layer, x, run)`` from float32 (rows, width) to the same
      shape. They replace a half of the layer, or all of it with norms and residuals.
    """

    norm: Norm = "rms"
    norm_weights: bool = True
    attention_norm: str | None = "attn_norm"
    ffn_norm: str | None = "ffn_norm"
    after_attention: str | None = None
    after_ffn: str | None = None
    parallel: "bool | Callable[[Layer], bool]" = False
    activation: "str | Callable[[NDArray[np.float32]], NDArray[np.float32]]" = "silu"
    combine: "Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]] | None" = None
    fused_gate: bool = False
    router: Router = field(default_factory=Router)
    rope: Pairs | Callable[[Facts], Pairs | None] | None = "adjacent"
    rotates: Callable[[Facts, int], bool] = lambda facts, layer: True
    windows: Callable[[Facts, int], int] | None = None
    chunked: bool = False
    window_base: Callable[[Facts, float], float] = lambda facts, base: base
    window_scale: Callable[[Facts, float], float] = lambda facts, scale: scale
    window_rope: Callable[[Rope], Rope] = lambda rope: rope
    yarn_magnitude: Callable[[Facts, float], float] | None = None
    attention_scale: Callable[[Facts, int], float] | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: Callable[[Facts], float] | None = None
    residual_scale: Callable[[Facts], float] | None = None
    logit_scale: Callable[[Facts], float] | None = None
    positions: bool | None = False
    embedding_norm: str | None = None
    output_norm: str | None = "output_norm"
    causal: bool = True
    generates: bool = True
    slopes: "Callable[[Facts, int], NDArray[np.float32] | None] | None" = None
    prepare: Callable[..., Any] = norm_and_rotate
    attention: "Part" = attention
    feed_forward: "Part" = feed_forward
    layer: "Part | None" = None

    def __post_init__(self) -> None:
        """Raise PluginError for a word that means nothing here."""
        for name, value, known in (
            ("norm", self.norm, get_args(Norm)),
            ("rope", self.rope, (*get_args(Pairs), None)),
            ("activation", self.activation, tuple(ACTIVATIONS)),
            ("router.score", self.router.score, get_args(Score)),
        ):
            if not callable(value) and value not in known:
                raise PluginError(f"a graph's {name} is {value!r}: expected one of {', '.join(map(repr, known))}")

    def window_of(self, facts: Facts, layer: int) -> int:
        """How many tokens a layer looks back, or 0 for all."""
        return 0 if self.windows is None else int(self.windows(facts, layer))

    @property
    def activate(self) -> "Callable[[NDArray[np.float32]], NDArray[np.float32]]":
        """The activation as a function."""
        return ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation


def whole_layer(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """A layer: attention and feed-forward network, each with its norms and its residual, one after the other or not."""
    graph = layer.graph
    if graph.layer is not None:
        return graph.layer(layer, x, run)
    scale = None if graph.residual_scale is None else np.float32(graph.residual_scale(layer.facts))
    normed = x if graph.attention_norm is None else layer.norm(graph.attention_norm, x, run)
    first = graph.attention(layer, normed, run)
    if graph.after_attention is not None:
        first = layer.norm(graph.after_attention, first, run)
    if scale is not None:
        first *= scale
    parallel = graph.parallel(layer) if callable(graph.parallel) else graph.parallel
    if parallel:
        if graph.ffn_norm is not None and layer.has(graph.ffn_norm):
            normed = layer.norm(graph.ffn_norm, x, run)
        first += x
    else:
        first += x
        normed = first if graph.ffn_norm is None else layer.norm(graph.ffn_norm, first, run)
    second = graph.feed_forward(layer, normed, run)
    if graph.after_ffn is not None:
        second = layer.norm(graph.after_ffn, second, run)
    if scale is not None:
        second *= scale
    second += first
    return second
