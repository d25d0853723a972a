"""Queries that grow with the position, so that long contexts do not flatten attention."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.passes import Pass

__all__ = ["temperatures"]


def temperatures(run: "Pass", scale: float, length: float, offset: float = 0.0) -> "NDArray[np.float32]":
    """What queries of shape (sequences, tokens, heads, length) are multiplied by: float32 (tokens, 1, 1).

    1 + scale * log(1 + floor((position + offset) / length)), as in Llama 4.
    """
    steps = np.floor((run.positions + offset) / length)
    return (1 + scale * np.log(steps + 1)).astype(np.float32)[:, None, None]
