"""What a text shows of a model: perplexity, the KL divergence from another model, and the importance of columns."""

from quantreg.quality.base import BaseFile
from quantreg.quality.calibration import collect_imatrix
from quantreg.quality.chunks import Chunks, batches, opened, read_ids, read_text, token_ids
from quantreg.quality.measure import kl_divergence, perplexity
from quantreg.quality.results import ChunkDone, Divergence, Perplexity, Started
from quantreg.quality.saving import Saved

__all__ = [
    "BaseFile",
    "ChunkDone",
    "Chunks",
    "Divergence",
    "Perplexity",
    "Saved",
    "Started",
    "batches",
    "collect_imatrix",
    "kl_divergence",
    "opened",
    "perplexity",
    "read_ids",
    "read_text",
    "token_ids",
]
