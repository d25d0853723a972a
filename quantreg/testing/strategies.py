"""Hypothesis strategies for rows of weights and their importance."""

import numpy as np
from hypothesis import strategies as st

from quantreg.testing.samples import KINDS, make_rows

__all__ = ["importances", "rows"]


@st.composite
def rows(draw, block_size, max_blocks=6, scales=(-30, 4)):
    """float32 (1-5 rows, cols): blocks of several kinds side by side, cols a multiple of block_size, at most 1e4."""
    n_rows = draw(st.integers(1, 5))
    cols = block_size * draw(st.integers(1, max_blocks))
    scale = 10.0 ** draw(st.floats(*scales))
    seed = draw(st.integers(0, 2**32 - 1))
    x = make_rows(draw(st.sampled_from(KINDS)), n_rows, cols, scale, seed)
    if draw(st.booleans()):  # another kind in a few blocks
        other = make_rows(draw(st.sampled_from(KINDS)), n_rows, cols, scale * 10.0 ** draw(st.floats(-4, 1)), seed + 1)
        mask = np.random.default_rng(seed + 2).random((n_rows, cols // block_size)) < 0.5
        x = np.where(np.repeat(mask, block_size, axis=1), other, x)
    return np.clip(x, -1e4, 1e4)


@st.composite
def importances(draw, cols):
    """float32 (cols,): as calibration gives it, constant, wide in range, or with zeros."""
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
