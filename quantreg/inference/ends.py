"""What stands before the first layer of a model and after the last: the embeddings, their norm, the logits."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from quantreg.errors import ModelError
from quantreg.inference.facts import Facts
from quantreg.inference.graph import Graph
from quantreg.inference.norms import normalise
from quantreg.inference.passes import Pass
from quantreg.inference.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Ends"]


class Ends(NamedTuple):
    """The two ends of a model. Hidden states are float32 (tokens, width)."""

    weights: Weights
    graph: Graph
    facts: Facts

    def embed(self, run: Pass) -> "NDArray[np.float32]":
        """The hidden states of the tokens of a pass before the first layer. Raises ModelError."""
        assert run.ids is not None
        weights, graph, width = self.weights, self.graph, self.facts.width
        x = weights.rows("token_embd.weight", run.ids.reshape(-1), run, width)
        if graph.embedding_scale is not None:
            x *= np.float32(graph.embedding_scale(self.facts))
        if "token_types.weight" in weights:  # all tokens are of the first type
            x = x + weights.rows("token_types.weight", np.zeros(1, np.intp), run, width)
        if "position_embd.weight" in weights if graph.positions is None else graph.positions:
            places, count = np.tile(run.positions, run.sequences), weights["position_embd.weight"].shape[0]
            if run.dry and count != self.facts.context:
                raise ModelError(
                    f"the tensor position_embd.weight has {count} rows: expected {self.facts.context}, one for each "
                    f"position by {self.facts.architecture}.context_length"
                )
            x = x + weights.rows("position_embd.weight", places, run, width)
        return x if graph.embedding_norm is None else self.norm(graph.embedding_norm, x, run)

    def norm(self, name: str, x: "NDArray[np.float32]", run: Pass) -> "NDArray[np.float32]":
        """Normalise hidden states with the weights and the bias of this name, where the model has them."""
        weight = self.weights.small(f"{name}.weight", x.shape[-1]) if self.graph.norm_weights else None
        bias = self.weights.small(f"{name}.bias", x.shape[-1]) if f"{name}.bias" in self.weights else None
        return normalise(x, weight, bias, self.graph.norm, self.facts.eps, run)

    def logits(self, name: str, states: "NDArray[np.float32]", run: Pass) -> "NDArray[np.float32]":
        """The logits of hidden states after the last norm, float32 (tokens, vocabulary), by the matrix of this name."""
        found = self.weights.multiply(name, states, run, self.weights["token_embd.weight"].shape[0])
        if "output.bias" in self.weights:
            found += self.weights.small("output.bias", found.shape[-1])
        if self.graph.logit_scale is not None:
            found *= np.float32(self.graph.logit_scale(self.facts))
        if self.graph.logit_softcap is not None:
            cap = np.float32(self.facts.number("final_logit_softcapping", self.graph.logit_softcap))
            found = cap * np.tanh(found / cap) if cap else found
        return found
