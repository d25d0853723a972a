"""Attention with linear biases (Press et al. 2021, arXiv:2108.12409)."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["slopes"]


def slopes(heads: int, largest: float = 8.0) -> "NDArray[np.float32]":
    """The slopes of ALiBi, float32 (heads,): 2^(-largest * i / n) for head i, n being the power of two below.

    Heads beyond the power of two get those between, as the authors of ALiBi do.
    """
    n = 1 << (heads.bit_length() - 1)
    steps = [i + 1 if i < n else i - n + 0.5 for i in range(heads)]
    return np.exp2(np.array(steps) * (-largest / n)).astype(np.float32)
