"""Granite, and MiniCPM, which has the same factors under the same keys."""

import math

from quantreg import Architecture, Graph
from quantreg.inference.facts import Facts
from quantreg_language import granite_checkpoint as published


def _or_one(facts: Facts, key: str) -> float:
    return facts.number(key, 0.0) or 1.0  # 0 means that there is no factor


_GRANITE = Graph(
    embedding_scale=lambda facts: _or_one(facts, "embedding_scale"),
    residual_scale=lambda facts: _or_one(facts, "residual_scale"),
    logit_scale=lambda facts: 1 / facts.number("logit_scale"),
    rotates=lambda facts, layer: bool(facts.get("rope.scaling.finetuned", True)),
)
_GRANITE_EXPERTS = Graph(
    embedding_scale=_GRANITE.embedding_scale, residual_scale=_GRANITE.residual_scale, logit_scale=_GRANITE.logit_scale
)
_MINICPM = Graph(
    embedding_scale=lambda facts: facts.number("embedding_scale", 12.0),
    residual_scale=lambda facts: facts.number("residual_scale", 1.4 / math.sqrt(facts.n_layers)),
    logit_scale=lambda facts: 1 / facts.number("logit_scale", 256 / facts.width),
)

ARCHITECTURES = (
    Architecture("granite", "Granite", graph=_GRANITE, checkpoints=published.GRANITE),
    Architecture("granitemoe", "Granite with experts", graph=_GRANITE_EXPERTS, checkpoints=published.GRANITE_MOE),
    Architecture("minicpm", "MiniCPM 1 and 2", graph=_MINICPM),
)
