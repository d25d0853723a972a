"""A 3-bit format in plain NumPy. Tests replace parts of it to test the conformance kit."""

import numpy as np

import quantreg
from quantreg.registry import registry

BLOCK, BYTES = 32, 14  # float16 scale, then 32 x 3 bits


def encode(rows, importance):
    x = rows.reshape(len(rows), -1, BLOCK)
    w = np.ones_like(x) if importance is None else importance.reshape(x.shape)
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=2)[..., None], axis=2)
    scale = peak / -4
    q = nearest(x, scale)
    weight = (w * q * q).sum(axis=2, keepdims=True)
    scale = np.where(weight > 0, (w * x * q).sum(axis=2, keepdims=True) / weight, scale).astype(np.float16)
    q = nearest(x, scale.astype(np.float32))
    packed = np.packbits((q[..., None] + 4).astype(np.uint8) >> np.arange(3) & 1, axis=None, bitorder="little")
    packed = packed.reshape(len(rows), -1, BYTES - 2)
    return np.concatenate([scale.view(np.uint8), packed], axis=2).reshape(len(rows), -1)


def nearest(x, scale):
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-30)
    return np.clip(np.rint(x * inverse), -4, 3)


def decode(blocks):
    blocks = blocks.reshape(len(blocks), -1, BYTES)
    scale = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    bits = np.unpackbits(blocks[..., 2:], axis=2, bitorder="little").reshape(*blocks.shape[:2], BLOCK, 3)
    q = (bits << np.arange(3)).sum(axis=3).astype(np.float32) - 4
    return (scale * q).reshape(len(blocks), -1)


def make(encode=encode, decode=decode, score=None, codec=None, name="TOY3", type_id=4203, **layout):
    """Return a QuantType with these functions. ``codec`` replaces PythonCodec."""
    layout = {"block_size": BLOCK, "type_size": BYTES, **layout}
    make_codec = codec or quantreg.PythonCodec
    qtype = quantreg.QuantType(name, type_id=type_id, codec=lambda: make_codec(qtype, encode, decode, score), **layout)
    return qtype


def make_with_header(**parts):
    """Return a similar type. Each row is divided by its largest absolute value, a float32 in the row header."""

    def encode_row(rows, importance):
        top = np.abs(rows).max(axis=1, keepdims=True)
        body = encode(np.divide(rows, top, out=np.zeros_like(rows), where=top > 0), importance)
        return np.concatenate([top.view(np.uint8), body], axis=1)

    def decode_row(blocks):
        return decode(blocks[:, 4:]) * blocks[:, :4].copy().view(np.float32)

    return make(
        **{"encode": encode_row, "decode": decode_row, "row_header_size": 4, "name": "TOY3R", "type_id": 4204, **parts}
    )


class Plugin:
    """A plugin that registers these types."""

    __distribution__ = "toy-dist"

    def __init__(self, *qtypes):
        self.qtypes = qtypes

    @quantreg.hookimpl
    def register_types(self, register):
        for qtype in self.qtypes:
            register(qtype)


def register_by_hand():
    """Register the type in this process, as the initializer of a pool may do."""
    registry.register_plugin(Plugin(make()))
