"""A reader of protobuf messages, as far as a `tokenizer.model` needs it. No size in the file is trusted."""

import struct
from collections.abc import Iterator

from quantreg.errors import TokenizerError

__all__ = ["fields"]

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
