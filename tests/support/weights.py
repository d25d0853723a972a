"""Hypothesis strategies for rows of weights."""

import numpy as np
from hypothesis import strategies as st

KINDS = (
    "normal",
    "heavy",
    "uniform",
    "positive",
    "negative",
    "sparse",
    "lattice",
    "constant",
    "zero",
    "denormal",
    "ramp",
)


def make_rows(kind, rows, cols, scale, seed):
    rng = np.random.default_rng(seed)
    shape = (rows, cols)
    x = {
        "normal": lambda: rng.standard_normal(shape),
        "heavy": lambda: rng.standard_t(2, shape),
        "uniform": lambda: rng.uniform(-1, 1, shape),
        "positive": lambda: np.abs(rng.standard_normal(shape)) + 0.1,
        "negative": lambda: -np.abs(rng.standard_normal(shape)) - 0.1,
        "sparse": lambda: rng.standard_normal(shape) * (rng.random(shape) < 0.03),
        "lattice": lambda: rng.integers(-8, 8, shape) / 8.0,
        "constant": lambda: np.broadcast_to(rng.standard_normal((rows, 1)), shape),
        "zero": lambda: np.zeros(shape),
        "denormal": lambda: rng.standard_normal(shape) * 1e-39 / scale,
        "ramp": lambda: np.broadcast_to(np.linspace(-1, 1, cols), shape),
    }[kind]()
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(x * scale, dtype=np.float32)


@st.composite
def rows(draw, block_size, max_blocks=6, scales=(-30, 4)):
    """float32 (rows, cols): blocks of several kinds side by side, cols a multiple of block_size."""
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
def importance(draw, cols):
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
