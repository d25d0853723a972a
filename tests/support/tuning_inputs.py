"""Inputs and matrices for the tests of error feedback."""

import numpy as np

import quantreg
from quantreg import types
from quantreg.dispatch import decode_slab
from quantreg.tuning.choice import Chooser

ENCODED = [
    name
    for name, qtype in types.items()
    if qtype.block_size > 1 and qtype.codec.can_encode and name not in ("F32", "F16", "BF16", "F64")
]


def correlated(seed, tokens, cols):
    """Inputs that depend on each other, as those of a model do: float32 (tokens, cols)."""
    rng = np.random.default_rng(seed)
    few = max(1, cols // 4)
    x = rng.standard_normal((tokens, few)) @ rng.standard_normal((few, cols)) / few**0.5
    x += 0.5 * rng.standard_normal((tokens, cols))
    return (x * np.exp(0.5 * np.random.default_rng(5).standard_normal(cols))).astype(np.float32)


def inputs(cols, tokens=2048, seed=1):
    """H of some tokens, the importance, and inputs of other tokens of the same kind."""
    x = correlated(seed, tokens + 256, cols)
    # All of them come from one mixture: the first fit, the others are held out.
    h = x[:tokens].T @ x[:tokens]
    return h, np.ascontiguousarray(np.diagonal(h)) / np.float32(tokens), x[tokens:]


def weights(rows, cols, seed=2):
    return (0.03 * np.random.default_rng(seed).standard_normal((rows, cols))).astype(np.float32)


def encoded_blocks(qtype, n, seed=3):
    """n blocks of a type as its encoder writes them: the weights, and uint8 (n, type_size)."""
    x = weights(n, qtype.block_size, seed)
    given = np.ones(qtype.block_size, np.float32) if qtype.requires_importance else None
    return x, np.ascontiguousarray(quantreg.quantize(x, qtype, given, threads=1))


def decoder(qtype):
    def decode(blocks):
        out = np.empty((len(blocks), qtype.block_size), np.float32)
        with np.errstate(all="ignore"):
            decode_slab(qtype, qtype.codec, np.ascontiguousarray(blocks), out)
        return out

    return decode


def chooser_of(qtype):
    return Chooser.of(decoder(qtype), qtype.type_size, qtype.block_size, encoded_blocks(qtype, 12, 0)[1])
