"""MY_Q3: rows with one unit, and blocks of 32 weights of 3 bits with one scale. 3.25 bits per weight.

A row begins with a header of 4848 bytes:
bytes 0-3   unit   float32                        The other bytes of the header are free; here they are zero.

The blocks follow:
byte 0      scale  int8                           x = unit * scale * (q - 4)
bytes 1-12  q, 3 bits each, from the low bits up
"""

import numpy as np

import quantreg

HEADER, BLOCK, BYTES = 4848, 32, 13

MY_Q3 = quantreg.QuantType(
    "MY_Q3",
    type_id=4242,
    block_size=BLOCK,
    type_size=BYTES,
    row_header_size=HEADER,
    codec=lambda: quantreg.PythonCodec(MY_Q3, encode, decode),
)


def encode(rows, importance):
    """Encode float32 (rows, cols), with error weights (rows, cols) or None, as uint8 (rows, bytes per row)."""
    unit = np.abs(rows).max(axis=1, keepdims=True) / np.float32(508)  # 4 * 127: the largest weight gets scale 127
    header = np.zeros((len(rows), HEADER), np.uint8)
    header[:, :4] = unit.view(np.uint8)
    x = (rows * invert(unit)).reshape(len(rows), -1, BLOCK)
    weights = np.ones_like(x) if importance is None else importance.reshape(x.shape)
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=2)[..., None], axis=2)
    scale = largest / -4  # -4 is the level furthest from zero, so the largest weight takes it
    q = nearest(x, scale)
    fitted = in_order(weights * x * q) / in_order(weights * q * q)  # least squares
    scale = np.rint(np.where(np.abs(fitted) <= 127, fitted, scale))
    q = nearest(x, scale)  # again, under the scale as the decoder will see it
    bits = (q[..., None] + 4).astype(np.uint8) >> np.arange(3) & 1
    packed = np.packbits(bits.reshape(*x.shape[:2], 3 * BLOCK), axis=2, bitorder="little")
    body = np.concatenate([scale.astype(np.int8).view(np.uint8), packed], axis=2)
    return np.concatenate([header, body.reshape(len(rows), -1)], axis=1)


def nearest(x, scale):
    """Return the level nearest to each weight, -4 to 3."""
    return np.clip(np.rint(x * invert(scale)), -4, 3)


def invert(scale):
    """Return 1 / scale, and 0 for scales near zero."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-30)


def in_order(products):
    """Return the sum of each block, added from the first to the last, as a compiled codec adds. np.sum does not."""
    return np.cumsum(products, axis=2)[..., -1:]


def decode(blocks):
    """Decode uint8 (rows, bytes per row), which may hold any bytes, to float32 (rows, cols)."""
    unit = blocks[:, :4].copy().view(np.float32)
    body = blocks[:, HEADER:].reshape(len(blocks), -1, BYTES)
    scale = body[..., :1].view(np.int8).astype(np.float32)
    bits = np.unpackbits(body[..., 1:], axis=2, bitorder="little").reshape(*body.shape[:2], BLOCK, 3)
    q = (bits << np.arange(3)).sum(axis=3).astype(np.float32) - 4
    return unit * (scale * q).reshape(len(blocks), -1)


@quantreg.hookimpl
def register_types(register):
    register(MY_Q3)
