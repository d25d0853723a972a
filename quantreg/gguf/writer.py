"""Encoding a GGUF header."""

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence

from quantreg.errors import GGUFFormatError
from quantreg.ggml import TypeLayout
from quantreg.gguf import rules
from quantreg.gguf.metadata import Metadata, Value

__all__ = ["HeaderEdit", "encode_header"]

_ANY_SIZE = TypeLayout("", 1, 0)  # the caller gives the size of a tensor's data


class HeaderEdit:
    """Metadata that can be changed. As in the reference, a key that is set moves to the end.

    Starts from a Metadata, whose values are copied as bytes, or from any mapping of keys to Python objects or Values.
    Raises GGUFFormatError ("bad-value") for an object without a metadata type.
    """

    def __init__(self, metadata: Mapping[str, object] | Iterable[tuple[str, object]] = ()) -> None:
        try:
            pairs = metadata.raw_items() if isinstance(metadata, Metadata) else dict(metadata).items()
        except (TypeError, ValueError):
            kind = type(metadata).__name__
            raise TypeError(f"metadata is a {kind}: pass a mapping of keys to values, such as {{}}") from None
        for key, _ in pairs:
            if not isinstance(key, str):
                raise TypeError(f"the key of a metadata value is {key!r:.80}, a {type(key).__name__}: use a str")
        self._values: dict[str, Value] = {key: Value.of(value) for key, value in pairs}

    def __repr__(self) -> str:
        return f"<HeaderEdit of {len(self._values)} keys>"

    def set(self, key: str, value: object) -> None:
        """Remove the key and append it with this value. `Value.of` picks the type of anything that is not a Value."""
        self._values.pop(key, None)
        self._values[key] = Value.of(value)

    def remove(self, key: str) -> None:
        """Remove the key if it exists."""
        self._values.pop(key, None)

    def items(self) -> Collection[tuple[str, Value]]:
        """The (key, Value) pairs in order, as `encode_header` takes them."""
        return self._values.items()

    def get(self, key: str) -> Value | None:
        """The value of a key, or None if the key does not exist."""
        return self._values.get(key)


def encode_header(
    items: Iterable[tuple[str, Value]],
    tensors: Iterable[tuple[str, Sequence[int], int, int]],
    alignment: int = rules.DEFAULT_ALIGNMENT,
) -> bytes:
    """Encode a GGUF version 3 header, padded to ``alignment``; the data of the first tensor follows it directly.

    - ``items``: (key, Value) pairs, as `Metadata.raw_items` and `HeaderEdit.items` return them.
    - ``tensors``: (name, dims in ne order, type id, bytes of data without padding). The caller must write the data in
      this order and pad each tensor to a multiple of ``alignment``.

    Raises GGUFFormatError by the same rules as the reader, and "bad-alignment" if the items state another alignment.
    """
    parts: list[bytes | memoryview] = []
    keys: set[str] = set()
    stated = rules.DEFAULT_ALIGNMENT
    for key, value in items:
        raw = _encode_name(key, "key", keys)
        rules.check_value_type(key, value.type)
        if key == "general.alignment":
            stated = rules.check_alignment(value.type, value.data)
        parts += raw, struct.pack("<I", value.type_id), value.raw
    if stated != alignment:
        message = (
            f"tensors are to be aligned to {alignment} bytes, but general.alignment is {stated}: set "
            f"general.alignment to {alignment}, or align them to {stated}"
        )
        raise GGUFFormatError("bad-alignment", message, field="general.alignment", found=alignment, limit=stated)

    names: set[str] = set()
    offset = 0
    for name, dims, type_id, nbytes in tensors:
        raw = _encode_name(name, "tensor name", names)
        rules.tensor_size(name, tuple(dims), type_id, lambda _: _ANY_SIZE, alignment)
        parts += raw, struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)
        offset += rules.padded(nbytes, alignment)
        if offset > rules.MAX_SIZE:
            message = f"the tensors take {offset} bytes, but a file holds at most {rules.MAX_SIZE}: split the model"
            raise GGUFFormatError("size-overflow", message, found=offset, limit=rules.MAX_SIZE)
    header = b"".join([b"GGUF", struct.pack("<IQQ", 3, len(names), len(keys)), *parts])
    return header.ljust(rules.padded(len(header), alignment), b"\0")


def _encode_name(name: str, what: str, seen: set[str]) -> bytes:
    raw = name.encode("utf-8", "surrogatepass")
    rules.decode_name(raw, what)
    if name in seen:
        code = "duplicate-key" if what == "key" else "duplicate-tensor"
        message = f"{what} {rules.shown(name)} occurs twice: rename or remove one of them"
        raise GGUFFormatError(code, message, field=name)
    seen.add(name)
    return struct.pack("<Q", len(raw)) + raw
