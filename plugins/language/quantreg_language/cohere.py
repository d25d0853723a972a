"""Command R and StableLM: layer norms, gates, and often both halves of a layer side by side."""

from dataclasses import replace

from quantreg import Architecture, Graph
from quantreg_language import cohere_checkpoint as published
from quantreg_language.windows import windowed

COMMAND_R = Graph(norm="layer", parallel=True, logit_scale=lambda facts: facts.number("logit_scale", 0.0) or 1.0)
WINDOWS = windowed(4)

ARCHITECTURES = (
    Architecture("command-r", "Command R and R+, Aya 23", graph=COMMAND_R, checkpoints=published.COMMAND_R),
    Architecture(
        "cohere2",
        "Command R7B and A",
        graph=replace(COMMAND_R, windows=WINDOWS, rotates=lambda facts, layer: WINDOWS(facts, layer) > 0),
        checkpoints=published.COHERE_2,
    ),
    Architecture(
        "stablelm",
        "StableLM",
        graph=Graph(norm="layer", rope="halves", parallel=lambda layer: not layer.has("ffn_norm")),
        checkpoints=published.STABLELM,
    ),
)
