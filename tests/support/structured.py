"""Builds GGUF files with any keys and tensors, and records where every number is, so that it can be broken."""

import struct
from typing import NamedTuple

import gguf_files as gf

__all__ = ["ELEMENTS", "LAYOUTS", "Key", "Structured", "Tensor", "breakages", "build"]

# Element type -> struct format, or None for strings.
ELEMENTS = dict(zip(range(13), "BbHhIif?--Qqd", strict=True)) | {gf.STRING: None}
del ELEMENTS[gf.ARRAY]

# Type id -> (block size, bytes per block). Written down again on purpose: the tests have their own view of the format.
LAYOUTS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip


class Key(NamedTuple):
    """A metadata key. ``kind`` is an element type; ``value`` is one such element, or a list of them for an array."""

    name: str
    kind: int
    value: object


class Tensor(NamedTuple):
    """A tensor. ``dims`` are in ne order, and ``data`` has as many bytes as they take."""

    name: str
    dims: tuple
    type_id: int
    data: bytes


class Structured(NamedTuple):
    """The bytes of a file, and (offset, width) of every count, length, type, dimension and value in its header."""

    raw: bytes
    fields: list


def build(keys, tensors, *, alignment=32, version=3) -> Structured:
    """Build a file. For another alignment the caller must also add the key that states it."""
    out, fields = bytearray(b"GGUF"), []

    def number(form, value):
        raw = struct.pack(f"<{form}", value)
        fields.append((len(out), len(raw)))
        out.extend(raw)

    def string(text):
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        number("Q", len(raw))
        if raw:
            fields.append((len(out), min(len(raw), 8)))
        out.extend(raw)

    def value(kind, item):
        if kind == gf.STRING:
            string(item)
        else:
            number(ELEMENTS[kind], item)

    number("I", version)
    number("Q", len(tensors))
    number("Q", len(keys))
    for name, kind, content in keys:
        string(name)
        if isinstance(content, list):
            number("I", gf.ARRAY)
            number("I", kind)
            number("Q", len(content))
            for item in content:
                value(kind, item)
        else:
            number("I", kind)
            value(kind, content)
    offset = 0
    for name, dims, type_id, data in tensors:
        string(name)
        number("I", len(dims))
        for dim in dims:
            number("Q", dim)
        number("I", type_id)
        number("Q", offset)
        offset += -(-len(data) // alignment) * alignment
    out.extend(bytes(-len(out) % alignment))
    for *_, data in tensors:
        out.extend(data)
        out.extend(bytes(-len(data) % alignment))
    return Structured(bytes(out), fields)


def breakages(width):
    """Return values that may break a field of this many bytes: the edges of integer types, type ids, small numbers."""
    edges = [0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 31, 32, 64, 127, 128, 255, 256, 999, 32767, 65535, 65536]
    edges += [
        1 << 20,
        (1 << 20) + 1,
        1 << 30,
        (1 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        1 << 40,
        1 << 61,
        1 << 62,
    ]
    edges += [(1 << 63) - 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 32, (1 << 64) - 8, (1 << 64) - 1]
    return [value.to_bytes(8, "little")[:width] for value in edges if value < 1 << (8 * width)]
