"""How well a model predicts a text: perplexity, and the KL divergence from another model."""

from quantreg.quality.base import BaseFile
from quantreg.quality.chunks import Chunks, batches, opened, read_ids, read_text, token_ids
from quantreg.quality.measure import kl_divergence, perplexity
from quantreg.quality.results import ChunkDone, Divergence, Perplexity, Started

__all__ = [
    "BaseFile",
    "ChunkDone",
    "Chunks",
    "Divergence",
    "Perplexity",
    "Started",
    "batches",
    "kl_divergence",
    "opened",
    "perplexity",
    "read_ids",
    "read_text",
    "token_ids",
]
