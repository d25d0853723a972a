"""A model as it is published: a folder with config.json, the files of a tokenizer, and weights in safetensors files."""

from quantreg.checkpoints.checkpoint import Checkpoint, Key, Row, named
from quantreg.checkpoints.config import Config
from quantreg.checkpoints.described import Described
from quantreg.checkpoints.transforms import (
    Apart,
    Behind,
    Generated,
    Grouped,
    Heads,
    MinusExp,
    Mxfp4,
    Pairs,
    Plus,
    Share,
    Squeezed,
    Tiled,
    Transform,
    Transposed,
)
from quantreg.checkpoints.vocabulary_hint import Vocabulary

__all__ = [
    "Apart",
    "Behind",
    "Checkpoint",
    "Config",
    "Described",
    "Generated",
    "Grouped",
    "Heads",
    "Key",
    "MinusExp",
    "Mxfp4",
    "Pairs",
    "Plus",
    "Row",
    "Share",
    "Squeezed",
    "Tiled",
    "Transform",
    "Transposed",
    "Vocabulary",
    "named",
]
