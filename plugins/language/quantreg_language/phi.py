"""Phi."""

from quantreg import Architecture, Graph

PHI3 = Graph(rope="halves", fused_gate=True)  # the key of a window is there, but llama.cpp does not use it

ARCHITECTURES = (
    Architecture("phi2", "Phi 1.5 and 2", graph=Graph(norm="layer", rope="halves", activation="gelu", parallel=True)),
    Architecture("phi3", "Phi 3, 3.5 and 4", graph=PHI3),
    Architecture("phimoe", "Phi 3.5 MoE", graph=PHI3),
)
