"""Q4_1 in NumPy, by plain rounding: a plugin that replaces the built-in type, and what the test holds it against."""

import numpy as np

import quantreg

Q4_1 = quantreg.QuantType(
    "Q4_1",
    type_id=3,
    block_size=32,
    type_size=20,
    fallback="F16",
    codec=lambda: quantreg.PythonCodec(Q4_1, encode, decode),
)


def encode(rows):
    x = rows.reshape(len(rows), -1, 32)
    low, high = x.min(axis=2, keepdims=True), x.max(axis=2, keepdims=True)
    scale, low = ((high - low) / 15).astype(np.float16), low.astype(np.float16)
    q = np.divide(x - low, scale, out=np.zeros_like(x), where=scale > 0)
    q = np.clip(np.rint(q), 0, 15).astype(np.uint8)
    return np.concatenate([scale.view(np.uint8), low.view(np.uint8), q[..., :16] | q[..., 16:] << 4], axis=2).reshape(
        len(rows), -1
    )


def decode(blocks):
    blocks = blocks.reshape(len(blocks), -1, 20)
    scale, low = (blocks[..., i : i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
    q = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=2).astype(np.float32)
    return (scale * q + low).reshape(len(blocks), -1)


@quantreg.hookimpl
def register_types(register):
    register(Q4_1, replace=True)
