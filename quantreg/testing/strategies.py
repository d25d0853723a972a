"""Hypothesis strategies for rows of weights and their importance."""

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from quantreg.testing.samples import KINDS, make_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["importances", "rows"]


@st.composite
def rows(
    draw: st.DrawFn, block_size: int, max_blocks: int = 6, scales: tuple[float, float] = (-30, 4)
) -> "NDArray[np.float32]":
    """Draw 1 to 5 rows of float32 weights.

    Each row has 1 to ``max_blocks`` blocks of ``block_size`` weights, of one kind or of two. ``scales`` is the range of
    the power of ten that multiplies the weights. No weight is larger than 1e4.
    """
    n_rows = draw(st.integers(1, 5))
    cols = block_size * draw(st.integers(1, max_blocks))
    scale = 10.0 ** draw(st.floats(*scales))
    seed = draw(st.integers(0, 2**32 - 1))
    x = make_rows(draw(st.sampled_from(KINDS)), n_rows, cols, scale, seed)
    if draw(st.booleans()):  # another kind in about half of the blocks
        other = make_rows(draw(st.sampled_from(KINDS)), n_rows, cols, scale * 10.0 ** draw(st.floats(-4, 1)), seed + 1)
        mask = np.random.default_rng(seed + 2).random((n_rows, cols // block_size)) < 0.5
        x = np.where(np.repeat(mask, block_size, axis=1), other, x)
    return np.clip(x, np.float32(-1e4), np.float32(1e4))


@st.composite
def importances(draw: st.DrawFn, cols: int) -> "NDArray[np.float32]":
    """Draw column statistics, float32 (cols,): typical ones, ones, a wide range, or some zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(("typical", "ones", "wide", "some zero")))
    values = rng.random(cols) + 0.01
    if kind == "ones":
        values = np.ones(cols)
    elif kind == "wide":
        values = 10.0 ** rng.uniform(-8, 4, cols)
    elif kind == "some zero":
        values[rng.random(cols) < 0.2] = 0
    return values.astype(np.float32)
