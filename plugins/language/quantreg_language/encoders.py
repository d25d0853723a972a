"""Models that make embeddings: attention to both sides, norms after each half of a layer, and no next token."""

from typing import TYPE_CHECKING

from quantreg import Architecture, Graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass


def normed_after(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """A layer as in BERT: each half adds to its input, and the sum is normed."""
    graph = layer.graph
    x = layer.norm("attn_output_norm", x + graph.attention(layer, x, run), run)
    return layer.norm("layer_output_norm", x + graph.feed_forward(layer, x, run), run)


def _graph(**differences: object) -> Graph:
    table = {"norm": "layer", "embedding_norm": "token_embd_norm", "output_norm": None, "layer": normed_after}
    return Graph(**(table | {"causal": False, "generates": False} | differences))  # type: ignore[arg-type]


ARCHITECTURES = (
    Architecture("bert", "BERT and models of its shape", graph=_graph(activation="gelu", rope=None, positions=True)),
    Architecture("nomic-bert", "Nomic Embed", graph=_graph(rope="halves")),
)
