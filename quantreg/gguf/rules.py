"""The rules that a GGUF header must satisfy beyond its structure, for reading and for writing.

Every check raises GGUFFormatError and passes ``where`` (``offset``, ``path``) on to it.
"""

import math
from collections.abc import Callable
from typing import Any

from quantreg.errors import GGUFFormatError
from quantreg.ggml import REMOVED_TYPES, TypeLayout
from quantreg_kernels._gguf import MAX_NAME_BYTES

__all__ = ["DEFAULT_ALIGNMENT", "MAX_SIZE", "padded"]

DEFAULT_ALIGNMENT: int = 32
MAX_ALIGNMENT: int = 1 << 20
MAX_DIMS: int = 4
# llama.cpp refuses tensor names of this many bytes or more: its buffers hold 64 bytes, the terminating NUL included.
LONG_TENSOR_NAME: int = 64
# File positions and NumPy's sizes are signed 64-bit integers.
MAX_SIZE: int = (1 << 63) - 1

MAX_TYPE_ID: int = (1 << 31) - 1

WELL_KNOWN_ARRAYS: dict[str, str] = {
    "tokenizer.ggml.tokens": "array[string]",
    "tokenizer.ggml.merges": "array[string]",
    "tokenizer.ggml.scores": "array[f32]",
}


def padded(size: int, alignment: int) -> int:
    """Round size up to a multiple of alignment."""
    return -(-size // alignment) * alignment


def shown(name: str | bytes) -> str:
    """Quote a name for a one-line message, and cut it if it is long."""
    return repr(name) if len(name) <= 80 else repr(name[:80]) + "..."


def decode_name(raw: bytes, what: str, **where: Any) -> str:
    """Decode and check the name of a key (``what`` is "key") or of a tensor ("tensor name")."""
    if not raw:
        message = f"a {what} is empty: give it at least one character"
        raise GGUFFormatError(f"empty-{what.replace(' ', '-')}", message, field=what, found="", **where)
    if len(raw) > MAX_NAME_BYTES:
        message = f"a {what} has {len(raw)} bytes, but the limit is {MAX_NAME_BYTES}: shorten it"
        raise GGUFFormatError("name-too-long", message, field=what, found=len(raw), limit=MAX_NAME_BYTES, **where)
    if 0 in raw:
        message = f"{what} {shown(raw)} contains a NUL byte: remove it"
        raise GGUFFormatError("nul-byte", message, field=what, found=raw, **where)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        message = f"{what} {shown(raw)} is not valid UTF-8 ({error.reason}): encode it as UTF-8"
        raise GGUFFormatError("bad-utf8", message, field=what, found=raw, **where) from None


def check_value_type(key: str, value_type: str, **where: Any) -> None:
    """Check the type of arrays that every loader reads without checking it."""
    expected = WELL_KNOWN_ARRAYS.get(key, value_type)
    if value_type != expected:
        message = f"{key} has type {value_type}, but must have type {expected}: store it with that type"
        raise GGUFFormatError("bad-array-type", message, field=key, found=value_type, limit=expected, **where)


def check_alignment(value_type: str, value: Any, **where: Any) -> int:
    """Check and return the value of general.alignment."""
    if value_type != "u32" or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        message = (
            f"general.alignment is {value!r} ({value_type}), but must be a u32 and a power of two up to "
            f"{MAX_ALIGNMENT}: use {DEFAULT_ALIGNMENT}, or leave the key out"
        )
        raise GGUFFormatError(
            "bad-alignment", message, field="general.alignment", found=value, limit=MAX_ALIGNMENT, **where
        )
    return value


def check_type_id(name: str, type_id: int, **where: Any) -> None:
    """Check the number of a tensor's type, which is a signed 32-bit integer in ggml."""
    if type_id > MAX_TYPE_ID:
        message = (
            f"tensor {shown(name)} has type {type_id - (1 << 32)}, but a type is a number from 0 to {MAX_TYPE_ID}: "
            "download or create the file again"
        )
        raise GGUFFormatError("bad-type", message, found=type_id - (1 << 32), limit=MAX_TYPE_ID, **where)


def tensor_size(
    name: str,
    dims: tuple[int, ...],
    type_id: int,
    layout: Callable[[int], TypeLayout | None],
    alignment: int,
    max_dims: int = MAX_DIMS,
    **where: Any,
) -> tuple[int, int] | None:
    """Return (bytes per row, bytes in all) of a tensor with these dims, in ne order; None if its type is unknown."""
    where["field"] = f"dimensions of tensor {shown(name)}"
    if len(dims) > max_dims:
        message = (
            f"tensor {shown(name)} has {len(dims)} dimensions, but the limit is {MAX_DIMS}: reshape the "
            "array, or fold the tensors of a file with `quantreg quantize IN OUT COPY`"
        )
        raise GGUFFormatError("too-many-dims", message, found=len(dims), limit=MAX_DIMS, **where)

    def check(size: int, what: str) -> None:
        if not 0 <= size <= MAX_SIZE:
            message = (
                f"tensor {shown(name)} of shape {dims}: {what} is {size}, but must be from 0 to {MAX_SIZE}: correct "
                "its shape"
            )
            raise GGUFFormatError("size-overflow", message, found=size, limit=MAX_SIZE, **where)

    for dim in dims:
        check(dim, "a dimension")
    # A zero must not hide an overflow of the other dimensions: NumPy and C multiply them in any order.
    check(math.prod(filter(None, dims)), "the number of elements")

    known = layout(type_id)
    if known is None:
        if type_id in REMOVED_TYPES:
            message = (
                f"tensor {shown(name)} has type {type_id} ({REMOVED_TYPES[type_id]}), which ggml has removed: quantize "
                "the original model again"
            )
            raise GGUFFormatError("removed-type", message, found=type_id, **where)
        return None
    columns = dims[0] if dims else 1
    if columns % known.block_size:
        unit = known.block_size
        message = (
            f"tensor {shown(name)} has rows of {columns} values, but {known.name} needs a multiple of {unit}: use "
            "another type for this tensor"
        )
        raise GGUFFormatError("partial-block", message, found=columns, limit=unit, **where)
    row_bytes = known.row_bytes(columns)
    check(padded(row_bytes * math.prod(filter(None, dims[1:])), alignment), "the number of bytes")
    return row_bytes, row_bytes * math.prod(dims[1:])
