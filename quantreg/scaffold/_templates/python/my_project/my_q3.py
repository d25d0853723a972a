"""MY_Q3: blocks of 32 weights of 3 bits with one scale. 3.5 bits per weight.

bytes 0-1   scale  float16                        x = scale * (q - 4)
bytes 2-13  q, 3 bits each, from the low bits up
"""

import numpy as np

import quantreg

BLOCK, BYTES = 32, 14

MY_Q3 = quantreg.QuantType(
    "MY_Q3",
    type_id=4242,
    block_size=BLOCK,
    type_size=BYTES,
    codec=lambda: quantreg.PythonCodec(MY_Q3, encode, decode),
)


def encode(rows, importance):
    """Encode float32 (rows, cols), with error weights (rows, cols) or None, as uint8 (rows, bytes per row)."""
    x = rows.reshape(len(rows), -1, BLOCK)
    weights = np.ones_like(x) if importance is None else importance.reshape(x.shape)
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=2)[..., None], axis=2)
    scale = largest / -4  # -4 is the level furthest from zero, so the largest weight takes it
    q = nearest(x, scale)
    total = in_order(weights * q * q)
    scale = np.where(total > 0, in_order(weights * x * q) / total, scale)  # least squares
    scale = scale.astype(np.float16)
    q = nearest(x, scale.astype(np.float32))  # again, under the scale as the decoder will see it
    bits = (q[..., None] + 4).astype(np.uint8) >> np.arange(3) & 1
    packed = np.packbits(bits.reshape(*x.shape[:2], 3 * BLOCK), axis=2, bitorder="little")
    return np.concatenate([scale.view(np.uint8), packed], axis=2).reshape(len(rows), -1)


def nearest(x, scale):
    """Return the level nearest to each weight, -4 to 3."""
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-30)
    return np.clip(np.rint(x * inverse), -4, 3)


def in_order(products):
    """Return the sum of each block, added from the first to the last, as a compiled codec adds. np.sum does not."""
    return np.cumsum(products, axis=2)[..., -1:]


def decode(blocks):
    """Decode uint8 (rows, bytes per row), which may hold any bytes, to float32 (rows, cols)."""
    blocks = blocks.reshape(len(blocks), -1, BYTES)
    scale = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    bits = np.unpackbits(blocks[..., 2:], axis=2, bitorder="little").reshape(*blocks.shape[:2], BLOCK, 3)
    q = (bits << np.arange(3)).sum(axis=3).astype(np.float32) - 4
    return (scale * q).reshape(len(blocks), -1)


@quantreg.hookimpl
def register_types(register):
    register(MY_Q3)
