"""Gemma: embeddings scaled by the root of the width, GELU, and norms on both sides of each half of a layer."""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

from quantreg import Architecture, Graph
from quantreg.inference.facts import Facts
from quantreg_language import gemma_checkpoint as published
from quantreg_language.windows import windowed


def _scale(layers_27b: int) -> Callable[[Facts, int], float]:
    """The scale of attention. The model of 27 B, known by its number of layers, has one of its own."""

    def scale(facts: Facts, layer: int) -> float:
        head = facts.width // facts.heads[0] if facts.n_layers == layers_27b else facts.key_length
        return 1 / sqrt(head)

    return scale


GEMMA = Graph(rope="halves", activation="gelu", embedding_scale=lambda facts: sqrt(facts.width))
BOTH_SIDES = replace(GEMMA, after_attention="post_attention_norm", after_ffn="post_ffw_norm")

GEMMA_3 = replace(
    BOTH_SIDES,
    windows=windowed(6),
    window_base=lambda facts, base: facts.number("rope.freq_base_swa", 10000.0),
    window_scale=lambda facts, scale: 1.0,
)

ARCHITECTURES = (
    Architecture("gemma", "Gemma", graph=GEMMA, checkpoints=published.GEMMA),
    Architecture(
        "gemma2",
        "Gemma 2",
        graph=replace(
            BOTH_SIDES,
            windows=windowed(2, size=4096),
            window_base=lambda facts, base: facts.number("rope.freq_base_swa", base),
            attention_scale=_scale(46),
            attention_softcap=50.0,
            logit_softcap=30.0,
        ),
        checkpoints=published.GEMMA_2,
    ),
    Architecture(
        "gemma3",
        "Gemma 3",
        graph=replace(GEMMA_3, attention_scale=_scale(62), logit_softcap=0.0),
        checkpoints=published.GEMMA_3,
    ),
    Architecture(
        "gemma-embedding",
        "EmbeddingGemma",
        graph=replace(GEMMA_3, causal=False, generates=False),
        checkpoints=published.GEMMA_EMBEDDING,
    ),
)
