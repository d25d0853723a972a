"""Damages bytes and JSON at random."""

import copy
import json

from structured import breakages

__all__ = ["damage", "damage_json"]

BREAKAGES = {width: breakages(width) for width in range(1, 9)}
WORDS = [
    None, True, False, 0, 1, -1, 31, 255, 1 << 31, 1 << 63, -(1 << 63), 1 << 64, 1 << 2000, 0.5, -0.0, float("nan"),
    float("inf"), 1e308, "", "F32", "Q4_K", "Q6_K", "IQ2_XXS", "COPY", "nul\0", "\ud800", "é" * 70, "x" * 70_000,
    "../x", "4", [], {}, [[]], [0], [-1, 0], [1 << 62, 1 << 62, 0], ["a"], {"a": {}},
]  # fmt: skip


def damage(random, raw: bytes, fields=(), others=()) -> bytes:
    """Return `raw` with one to three changes. `fields` are (offset, width) of numbers; `others` supply other pieces."""
    data = bytearray(raw)
    for _ in range(random.randrange(1, 4)):
        kind = random.randrange(10)
        if kind < 5 and fields:
            offset, width = fields[random.randrange(len(fields))]
            data[offset : offset + width] = random.choice(BREAKAGES[width])
            continue
        at = random.randrange(len(data) + 1)
        if kind < 6:
            width = random.choice((1, 2, 4, 8))
            data[at : at + width] = random.choice(BREAKAGES[width])
        elif kind == 6 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 7:
            data[at : at + random.randrange(1, 20)] = random.randbytes(random.randrange(20))
        elif kind == 8:
            del data[at : at + random.choice((1, 4, 8, 32, len(data)))]
        else:
            piece = random.choice(others) if others else raw
            begin = random.randrange(len(piece) + 1)
            data[at:at] = piece[begin : begin + random.randrange(1, 80)]
    return bytes(data)


def damage_json(random, data):
    """Return a JSON value as bytes, with one to three of its nodes changed, and sometimes some bytes as well."""
    data = copy.deepcopy(data)
    for _ in range(random.randrange(1, 4)):
        data = _changed(random, data)
    raw = json.dumps(data).encode()
    if random.randrange(4) == 0:
        raw = damage(random, raw)
    if random.randrange(200) == 0:
        raw = b"[" * 100_000 + raw
    return raw


def _changed(random, node):
    if not isinstance(node, (list, dict)) or not node or random.randrange(8) == 0:
        return copy.deepcopy(random.choice(WORDS))
    keys = list(node) if isinstance(node, dict) else range(len(node))
    key = random.choice(keys)
    kind = random.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[str(random.choice(WORDS))[:80]] = node.pop(key)
    elif kind == 1:
        node.append(node[key])
    elif kind == 2:
        node[key] = copy.deepcopy(node[random.choice(keys)])
    else:
        node[key] = _changed(random, node[key])
    return node
