"""Qwen 3.5 and Qwen3-Next: layers of a gated delta net between layers of gated attention."""

from quantreg import Architecture, Graph
from quantreg_language import qwen_next_checkpoint as published
from quantreg_language.delta_net import hybrid_attention

GRAPH = Graph(ffn_norm="post_attention_norm", rope="halves", attention=hybrid_attention)

ARCHITECTURES = (
    Architecture("qwen35", "Qwen 3.5", graph=GRAPH, checkpoints=published.QWEN35),
    Architecture("qwen35moe", "Qwen 3.5 with experts", graph=GRAPH, checkpoints=published.QWEN35_MOE),
    Architecture("qwen3next", "Qwen3-Next", graph=GRAPH, checkpoints=published.QWEN3_NEXT),
)
