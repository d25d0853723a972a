"""Token ids to calibrate the small models on: each mostly follows from the one before, by a rule."""

import hashlib
from pathlib import Path

import numpy as np

N_CTX = 32
TEXT = {"n_ctx": N_CTX, "chunks": 40}


def ids(n, seed=0):
    """Tokens that follow each other by a rule, with some noise."""
    rng = np.random.default_rng(seed)
    found = [1]
    for _ in range(n - 1):
        found.append((7 * found[-1] + 3) % 90 if rng.random() < 0.7 else int(rng.integers(0, 90)))
    return np.array(found, np.int32)


CALIBRATION = ids(40 * N_CTX)
OTHER = ids(20 * N_CTX, seed=1)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def left_over(folder):
    """What an unfinished run has left beside its output."""
    return [path.name for path in folder.iterdir() if path.suffix in (".tuning", ".partial", ".journal", ".tmp")]
