"""Protobuf messages, as far as a `tokenizer.model` needs them. No size in a file is trusted."""

import struct
from collections.abc import Iterable, Iterator

from quantreg.errors import TokenizerError

__all__ = ["encoded", "fields"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(message: memoryview) -> Iterator[tuple[int, int | float | memoryview]]:
    """Iterate over the fields of a message as (number, value).

    A value is a whole number for a varint, a float for four bytes, a whole number for eight, and a view of the bytes
    for a text or a message within. Raises TokenizerError where the message breaks off or is none.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise _damaged(f"a field with the number 0 at byte {at}")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        if kind == _BYTES:
            size, at = _varint(message, at)
        if size < 0:
            raise _damaged(f"a field of the unknown kind {kind} at byte {at}")
        if size > end - at:
            raise _damaged(f"a field of {size} bytes at byte {at}, where {end - at} are left")
        part = message[at : at + size]
        at += size
        if kind == _BYTES:
            yield number, part
        else:
            yield number, struct.unpack("<f" if kind == _FIXED32 else "<Q", part)[0]


def encoded(values: Iterable[tuple[int, int | float | bytes]]) -> bytes:
    """Encode the fields of a message: whole numbers from 0 on, float32 numbers, and texts or messages as bytes."""
    parts = []
    for number, value in values:
        if isinstance(value, bytes):
            parts += [_number(number << 3 | _BYTES), _number(len(value)), value]
        elif isinstance(value, float):
            parts += [_number(number << 3 | _FIXED32), struct.pack("<f", value)]
        else:
            parts += [_number(number << 3 | _VARINT), _number(value)]
    return b"".join(parts)


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _damaged("it breaks off within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise _damaged(f"a number of more than ten bytes at byte {at}")


def _damaged(what: str) -> TokenizerError:
    return TokenizerError(f"no protobuf message: {what}")
