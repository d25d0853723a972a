"""Qwen."""

from quantreg import Architecture, Graph
from quantreg.inference.graph import Router

ARCHITECTURES = (
    Architecture("qwen2", "Qwen 1.5, 2 and 2.5", graph=Graph(rope="halves")),
    Architecture("qwen2moe", "Qwen 1.5 and 2 with experts", graph=Graph(rope="halves", router=Router(norm=False))),
    Architecture("qwen3", "Qwen 3", graph=Graph(rope="halves")),
    Architecture("qwen3moe", "Qwen 3 with experts", graph=Graph(rope="halves")),
)
