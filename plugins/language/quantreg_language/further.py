"""Models of small families, which differ from Llama in little."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, Graph
from quantreg.errors import ModelError
from quantreg.inference.graph import Router
from quantreg_language import glm_checkpoint as published
from quantreg_language.routers import score_by_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass


def _xielu_parameter(layer: "Layer", name: str) -> np.float32:
    """A parameter of the activation: one number in the metadata, or one for each layer."""
    found = layer.facts.metadata.get(f"xielu.{name}")
    if found is None:
        raise ModelError(f"the metadata key xielu.{name} is missing, and the model cannot run without it")
    return np.float32(found if isinstance(found, (int, float)) else found[layer.index])


def _xielu(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """A feed-forward network whose activation has parameters (Huang and Schlag 2024, arXiv:2411.13010)."""
    names = ("alpha_p", "alpha_n", "beta", "eps")
    positive, negative, beta, eps = (_xielu_parameter(layer, name) for name in names)
    positive, negative = np.logaddexp(0, positive), beta + np.logaddexp(0, negative)
    up = layer.linear("ffn_up", x, run)

    def work(part: slice) -> None:
        y = up[part]
        below = (np.expm1(np.minimum(y, eps)) - y) * negative
        up[part] = np.where(y > 0, positive * y * y, below) + beta * y

    run.by_rows(work, up.shape)
    return layer.linear("ffn_down", up, run, layer.facts.width)


HALVES = Graph(rope="halves")
SIGMOID = Router(score_by_key("sigmoid"), norm=None)

ARCHITECTURES = (
    Architecture("apertus", "Apertus", graph=replace(HALVES, feed_forward=_xielu)),
    Architecture("bitnet", "BitNet b1.58", graph=HALVES),
    Architecture(
        "chatglm", "ChatGLM 3, GLM-4 9B and GLM Edge", graph=Graph(fused_gate=True), checkpoints=published.GLM
    ),
    Architecture("dbrx", "DBRX", graph=replace(HALVES, norm="layer", ffn_norm="attn_output_norm")),
    Architecture("jais2", "Jais 2", graph=replace(HALVES, norm="layer", activation="relu_squared")),
    Architecture("openelm", "OpenELM", graph=HALVES),
    Architecture("plamo", "PLaMo", graph=replace(HALVES, parallel=True)),
)
