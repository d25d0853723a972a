"""What a GGUF header must satisfy beyond its structure: the same rules for what is read and for what is written.

Every function raises GGUFFormatError; `where` is passed on to it (`offset`, `path`).
"""

import math

from quantreg.errors import GGUFFormatError
from quantreg.ggml import REMOVED_TYPES
from quantreg_kernels._gguf import MAX_NAME_BYTES

__all__ = ["DEFAULT_ALIGNMENT", "MAX_SIZE", "padded"]

DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
MAX_DIMS = 4
# From here on llama.cpp refuses a tensor name (its names are 64 bytes with the terminator).
LONG_TENSOR_NAME = 64
# File positions and NumPy's sizes are signed 64-bit integers.
MAX_SIZE = (1 << 63) - 1

WELL_KNOWN_ARRAYS = {
    "tokenizer.ggml.tokens": "array[string]",
    "tokenizer.ggml.merges": "array[string]",
    "tokenizer.ggml.scores": "array[f32]",
}


def padded(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


def shown(name) -> str:
    """A name as it may stand in a one-line message."""
    return repr(name) if len(name) <= 80 else repr(name[:80]) + "..."


def decode_name(raw: bytes, what: str, **where) -> str:
    """Text of a key ("key") or of a tensor's name ("tensor name")."""
    if not raw:
        raise GGUFFormatError(f"empty-{what.replace(' ', '-')}", f"a {what} is empty", field=what, found="", **where)
    if len(raw) > MAX_NAME_BYTES:
        message = f"a {what} has {len(raw)} bytes, the limit is {MAX_NAME_BYTES}"
        raise GGUFFormatError("name-too-long", message, field=what, found=len(raw), limit=MAX_NAME_BYTES, **where)
    if 0 in raw:
        raise GGUFFormatError("nul-byte", f"{what} {shown(raw)} holds a NUL byte", field=what, found=raw, **where)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        message = f"{what} {shown(raw)} is not UTF-8: {error.reason}"
        raise GGUFFormatError("bad-utf8", message, field=what, found=raw, **where) from None


def check_value_type(key: str, value_type: str, **where) -> None:
    """Arrays that every loader reads without asking must have the type that loaders expect."""
    expected = WELL_KNOWN_ARRAYS.get(key, value_type)
    if value_type != expected:
        message = f"{key} is {value_type}, it must be {expected}"
        raise GGUFFormatError("bad-array-type", message, field=key, found=value_type, limit=expected, **where)


def check_alignment(value_type: str, value, **where) -> int:
    if value_type != "u32" or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        message = f"general.alignment is {value!r} ({value_type}), it must be a u32 power of two up to {MAX_ALIGNMENT}"
        raise GGUFFormatError(
            "bad-alignment", message, field="general.alignment", found=value, limit=MAX_ALIGNMENT, **where
        )
    return value


def tensor_size(name: str, dims: tuple[int, ...], type_id: int, layout, alignment: int, **where):
    """(row bytes, all bytes) of a tensor with `dims` in ne order; None for a type id that `layout` does not know."""
    where["field"] = f"dimensions of tensor {shown(name)}"
    if len(dims) > MAX_DIMS:
        message = f"tensor {shown(name)} has {len(dims)} dimensions, the limit is {MAX_DIMS}"
        raise GGUFFormatError("too-many-dims", message, found=len(dims), limit=MAX_DIMS, **where)

    def check(size, what):
        if not 0 <= size <= MAX_SIZE:
            message = f"tensor {shown(name)} of shape {dims}: {what} is {size}, the limit is {MAX_SIZE}"
            raise GGUFFormatError("size-overflow", message, found=size, limit=MAX_SIZE, **where)

    for dim in dims:
        check(dim, "a dimension")
    # A zero must not hide that the other dimensions overflow: NumPy and C multiply them in any order.
    check(math.prod(filter(None, dims)), "the number of elements")

    rules = layout(type_id)
    if rules is None:
        if type_id in REMOVED_TYPES:
            message = f"tensor {shown(name)} has type {type_id} ({REMOVED_TYPES[type_id]}), which ggml has removed"
            raise GGUFFormatError("removed-type", message, found=type_id, **where)
        return None
    columns = dims[0] if dims else 1
    if columns % rules.block_size:
        unit = rules.block_size
        message = f"tensor {shown(name)} has rows of {columns} values, but {rules.name} needs a multiple of {unit}"
        raise GGUFFormatError("partial-block", message, found=columns, limit=unit, **where)
    row_bytes = rules.row_bytes(columns)
    check(padded(row_bytes * math.prod(filter(None, dims[1:])), alignment), "the number of bytes")
    return row_bytes, row_bytes * math.prod(dims[1:])
