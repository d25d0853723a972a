"""Tensors of a model that its graph does not use, although one would expect it."""

import re

from quantreg.inference.graph import Graph
from quantreg.inference.weights import Weights

__all__ = ["unused_tensors"]


def unused_tensors(weights: Weights, graph: Graph, n_layers: int) -> list[str]:
    """The names of the tensors that no pass has asked for, without those that a model may have and not need."""
    used = weights.used.union(*map(weights.parameters, weights.used))
    return [name for name in weights.tensors if name not in used and not _is_spare(name, graph, n_layers)]


def _is_spare(name: str, graph: Graph, n_layers: int) -> bool:
    """Whether a model may have this tensor and not need it for its logits."""
    layer = re.match(r"blk\.(\d+)\.", name, re.ASCII)
    if layer and int(layer[1]) >= n_layers:  # they predict further tokens
        return True
    if name.startswith("output.") and not graph.generates:
        return True
    # Factors for another length of context, scales of quantized activations, and heads of other tasks.
    return name.startswith(("rope_", "cls", "dense_")) or name.endswith(".input_scale")
