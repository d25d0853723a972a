"""Encoding a GGUF header."""

import struct

from quantreg.errors import GGUFFormatError
from quantreg.ggml import TypeLayout
from quantreg.gguf import rules
from quantreg.gguf.metadata import Metadata, Value

__all__ = ["HeaderEdit", "encode_header"]

_ANY_SIZE = TypeLayout("", 1, 0)  # the caller knows the size of a tensor's data


class HeaderEdit:
    """Metadata being changed, in the way of the reference: a key that is set moves to the end.

    Starts from a Metadata (its values are copied as bytes) or from any mapping of keys to Python objects or Values.
    """

    def __init__(self, metadata=()):
        pairs = metadata.raw_items() if isinstance(metadata, Metadata) else dict(metadata).items()
        self._values = {key: Value.of(value) for key, value in pairs}

    def set(self, key: str, value) -> None:
        """Remove the key, then append it; a value that is no Value gets the type `Value.of` finds."""
        self._values.pop(key, None)
        self._values[key] = Value.of(value)

    def remove(self, key: str) -> None:
        """Remove the key if it is there."""
        self._values.pop(key, None)

    def items(self):
        """(key, Value) in order: what `encode_header` takes."""
        return self._values.items()

    def get(self, key: str) -> Value | None:
        """The value of a key, None if it is not there."""
        return self._values.get(key)


def encode_header(items, tensors, alignment: int = rules.DEFAULT_ALIGNMENT) -> bytes:
    """A GGUF version 3 header, padded to `alignment`: the data of the first tensor follows it.

    `items` are (key, Value), as `Metadata.raw_items` and `HeaderEdit.items` give; `tensors` are (name, dims in ne
    order, type id, size in bytes without padding). Their offsets are the running sum of the sizes, each padded to
    `alignment`, as the data must be. Raises GGUFFormatError by the same rules as the reader; "bad-alignment" if the
    items say another alignment.
    """
    parts, keys, stated = [], set(), rules.DEFAULT_ALIGNMENT
    for key, value in items:
        raw = _encode_name(key, "key", keys)
        rules.check_value_type(key, value.type)
        if key == "general.alignment":
            stated = rules.check_alignment(value.type, value.data)
        parts += raw, struct.pack("<I", value.type_id), value.raw
    if stated != alignment:
        message = f"the header says general.alignment = {stated}, but the tensors are to be aligned to {alignment}"
        raise GGUFFormatError("bad-alignment", message, field="general.alignment", found=alignment, limit=stated)

    names, offset = set(), 0
    for name, dims, type_id, nbytes in tensors:
        raw = _encode_name(name, "tensor name", names)
        rules.tensor_size(name, tuple(dims), type_id, lambda _: _ANY_SIZE, alignment)
        parts += raw, struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)
        offset += rules.padded(nbytes, alignment)
        if offset > rules.MAX_SIZE:
            raise GGUFFormatError("size-overflow", "the file would be too large", found=offset, limit=rules.MAX_SIZE)
    header = b"".join([b"GGUF", struct.pack("<IQQ", 3, len(names), len(keys)), *parts])
    return header.ljust(rules.padded(len(header), alignment), b"\0")


def _encode_name(name: str, what: str, seen: set) -> bytes:
    raw = name.encode("utf-8", "surrogatepass")
    rules.decode_name(raw, what)
    if name in seen:
        code = "duplicate-key" if what == "key" else "duplicate-tensor"
        raise GGUFFormatError(code, f"{what} {rules.shown(name)} occurs twice", field=name)
    seen.add(name)
    return struct.pack("<Q", len(raw)) + raw
