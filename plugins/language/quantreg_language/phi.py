"""Phi. The files of Phi 3 have the key of a window, but llama.cpp does not use it, so neither does quantreg."""

from quantreg import Architecture, Graph

ARCHITECTURES = (
    Architecture("phi2", "Phi 1.5 and 2", graph=Graph(norm="layer", rope="halves", activation="gelu", parallel=True)),
    Architecture("phi3", "Phi 3, 3.5 and 4", graph=Graph(rope="halves", fused_gate=True)),
    Architecture("phimoe", "Phi 3.5 MoE", graph=Graph(rope="halves")),
)
