"""Models that make embeddings: attention to both sides, norms after each half of a layer, and no next token."""

from typing import TYPE_CHECKING

from quantreg import Architecture, Graph
from quantreg.inference.feed_forward import feed_forward, gated
from quantreg.inference.graph import Router
from quantreg_language import encoders_checkpoint as published
from quantreg_language.slopes import slopes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass


def normed_after(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """A layer as in BERT: each half adds to its input, and the sum is normed. Some norm the first sum once more."""
    graph = layer.graph
    first = layer.norm("attn_output_norm", x + graph.attention(layer, x, run), run)
    if layer.has("attn_norm_2"):
        first = layer.norm("attn_norm_2", first + x, run)
    return layer.norm("layer_output_norm", first + graph.feed_forward(layer, first, run), run)


def maybe_gated(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """The feed-forward network of Jina's models, whose ``ffn_up`` may hold the gate in its first half."""
    length = int(layer.facts.feed_forward[layer.index])
    if layer.has("ffn_gate") or layer.weights[layer.name("ffn_up")].shape[0] == length:
        return feed_forward(layer, x, run)
    up = layer.linear("ffn_up", x, run, 2 * length)
    return layer.linear("ffn_down", gated(layer, up[:, :length], up[:, length:], run), run, layer.facts.width)


def _graph(**differences: object) -> Graph:
    table = {"norm": "layer", "embedding_norm": "token_embd_norm", "output_norm": None, "layer": normed_after}
    return Graph(**(table | {"causal": False, "generates": False} | differences))  # type: ignore[arg-type]


ARCHITECTURES = (
    Architecture(
        "bert",
        "BERT and models of its shape",
        graph=_graph(activation="gelu", rope=None, positions=True),
        checkpoints=published.BERT,
    ),
    Architecture("nomic-bert", "Nomic Embed", graph=_graph(rope="halves"), checkpoints=published.NOMIC_BERT),
    Architecture(
        "nomic-bert-moe",
        "Nomic Embed 2",
        graph=_graph(activation="gelu", rope="halves", router=Router(norm=False)),
    ),
    Architecture(
        "jina-bert-v2",
        "Jina Embeddings 2",
        graph=_graph(
            activation="gelu",
            rope=None,
            slopes=lambda facts, heads: slopes(heads),
            feed_forward=maybe_gated,
        ),
    ),
    Architecture("llama-embed", "Llama that makes embeddings", graph=Graph(causal=False, generates=False)),
)
