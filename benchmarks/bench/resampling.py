"""Intervals of ratios, by drawing chunks of text again and again."""

import numpy as np

__all__ = ["geometric_mean", "ratio"]

DRAWS, SEED = 4000, 0


def ratio(ours, theirs, draws=DRAWS, seed=SEED):
    """Return (ratio of the means, low, high): the ends of a 95 % interval by a paired bootstrap over chunks.

    ``ours`` and ``theirs`` hold one figure per chunk, of the same chunks in the same order. A draw takes as many chunks
    as there are, each with all its figures, so that a hard chunk weighs on both sides.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(f"figures of shapes {ours.shape} and {theirs.shape}: expected two rows of the same chunks")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(ours), (draws, len(ours)))
    low, high = np.quantile(ours[drawn].mean(axis=1) / theirs[drawn].mean(axis=1), (0.025, 0.975))
    return float(ours.mean() / theirs.mean()), float(low), float(high)


def geometric_mean(values):
    """Return the geometric mean of positive numbers."""
    return float(np.exp(np.mean(np.log(list(values)))))
