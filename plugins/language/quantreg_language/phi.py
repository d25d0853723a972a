"""Phi. The files of Phi 3 have the key of a window, but llama.cpp does not use it, so neither does quantreg."""

from quantreg import Architecture, Graph
from quantreg_language import phi_checkpoint as published

ARCHITECTURES = (
    Architecture(
        "phi2",
        "Phi 1.5 and 2",
        graph=Graph(norm="layer", rope="halves", activation="gelu", parallel=True),
        checkpoints=published.PHI_2,
    ),
    Architecture("phi3", "Phi 3, 3.5 and 4", graph=Graph(rope="halves", fused_gate=True), checkpoints=published.PHI_3),
    Architecture("phimoe", "Phi 3.5 MoE", graph=Graph(rope="halves")),
)
