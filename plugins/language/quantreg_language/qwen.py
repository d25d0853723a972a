"""Qwen."""

from quantreg import Architecture, Graph

ARCHITECTURES = (
    Architecture("qwen2", "Qwen 1.5, 2 and 2.5", graph=Graph(rope="halves")),
    Architecture("qwen3", "Qwen 3", graph=Graph(rope="halves")),
)
