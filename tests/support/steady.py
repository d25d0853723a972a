"""Random numbers that are the same on every machine and with every version of NumPy. Needs no code of quantreg."""

from zlib import crc32

import numpy as np

__all__ = ["integers", "random"]


def random(name, shape):
    """float32 numbers of mean 0 and deviation 1, roughly normal: sums of four 16-bit numbers."""
    raw = _words(name, int(np.prod(shape)))
    total = sum(((raw >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.int64) for k in range(4)) - 2 * 0xFFFF
    return (total * (3**0.5 / 0x10000)).astype(np.float32).reshape(shape)


def integers(name, below, shape):
    """int64 numbers from 0 up to but not including ``below``."""
    return (_words(name, int(np.prod(shape))) % np.uint64(below)).astype(np.int64).reshape(shape)


def _words(name, n):
    return np.random.PCG64(crc32(name.encode())).random_raw(n)
