"""Reading the header of one safetensors file: its length in 8 bytes, then JSON."""

import json
import math
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantreg.errors import SafetensorsError
from quantreg.whatis import HEAD, kind_of

__all__ = ["DTYPE_BITS", "Entry", "Header", "NotJSONError", "encode_header", "parsed", "read_header"]

MAX_HEADER = 100_000_000  # bytes, as in the safetensors library

# Bits per value of the dtypes of the format, from the safetensors library.
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


class NotJSONError(SafetensorsError):
    """A text is not JSON."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a header says about one tensor.

    ``shape`` is in NumPy order. ``start`` and ``end`` count bytes from `Header.data_offset`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """A checked safetensors header.

    ``entries`` maps the names of the tensors to their entries. ``metadata`` is the ``__metadata__`` of the file, which
    GGUF has no use for. ``data_offset`` is the position of the data section and ``file_size`` the size of the file,
    both in bytes. ``warnings`` describe what is odd but readable.
    """

    path: str
    entries: dict[str, Entry]
    metadata: dict[str, Any]
    data_offset: int
    file_size: int
    warnings: list[str] = field(default_factory=list)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file.

    Raises SafetensorsError for a file that is damaged or of another kind, and OSError if it cannot be read.
    """
    path = os.fspath(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 0 < length <= min(size - 8, MAX_HEADER):
            file.seek(0)
            kind = kind_of(file.read(HEAD), size)
            if kind is not None:
                raise SafetensorsError(f"{path}: not a safetensors file: it is {kind.name}: {kind.advice}")
            raise SafetensorsError(
                f"{path}: not a safetensors file, or cut off: its header would take {length} of {size} bytes: download "
                "it again"
            )
        header = parsed(file.read(length), path)
    if not isinstance(header, dict):
        raise SafetensorsError(f"{path}: not a safetensors file: its header is not a JSON object")
    metadata = header.pop("__metadata__", None)
    data_offset = 8 + length
    entries = {name: _entry(path, name, raw, size - data_offset) for name, raw in header.items()}
    warnings = _check_places(path, entries.values(), size - data_offset)
    return Header(path, entries, metadata if isinstance(metadata, dict) else {}, data_offset, size, warnings)


def encode_header(entries: Mapping[str, tuple[str, tuple[int, ...], tuple[int, int]]]) -> bytes:
    """The header of a file. ``entries`` maps names to (dtype, shape, (first byte, end)), counted from its end."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, (dtype, shape, place) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def _check_places(path: str, entries: Collection[Entry], data_size: int) -> list[str]:
    """Raise SafetensorsError if tensors share bytes; return a warning if bytes belong to no tensor."""
    filled, last = 0, None
    for entry in sorted((entry for entry in entries if entry.nbytes), key=lambda entry: (entry.start, entry.end)):
        if last is not None and entry.start < last.end:
            raise SafetensorsError(
                f"{path}: tensors {last.name!r:.80} and {entry.name!r:.80} overlap: the header places them from "
                f"{last.start} to {last.end} and from {entry.start} to {entry.end}: download or save the file again"
            )
        filled, last = filled + entry.nbytes, entry
    unused = data_size - filled
    return [f"{path}: {unused} bytes of the data are not part of any tensor"] if unused else []


def parsed(raw: bytes, path: str) -> Any:
    """The value of a JSON text.

    Raises SafetensorsError, which names the file, if it is not JSON or if an object has a key twice: Python would take
    the last of the two without a word.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            name, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise SafetensorsError(f"{path}: {name!r:.80} occurs twice: download or create the file again")
        return found

    try:
        return json.loads(raw, object_pairs_hook=unique)
    except SafetensorsError:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJSONError(f"{path} is not JSON: {error}") from None


def _entry(path: str, name: str, raw: object, data_size: int) -> Entry:
    match raw:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if (
            all(type(n) is int and 0 <= n < 2**63 for n in shape) and type(start) is type(end) is int
        ):
            pass
        case _:
            raise SafetensorsError(f"{path}: tensor {name!r:.80}: expected dtype, shape and data_offsets")
    nbytes = -(-math.prod(shape) * DTYPE_BITS[dtype] // 8) if dtype in DTYPE_BITS else end - start
    if not 0 <= start <= end <= data_size or end - start != nbytes:
        raise SafetensorsError(
            f"{path}: tensor {name!r:.80} of shape {shape} takes {nbytes} bytes, but the header places it "
            f"from {start} to {end} of {data_size}: the file is cut off or damaged"
        )
    if math.prod(filter(None, shape)) >= 2**60:  # a zero must not hide that NumPy cannot hold the other dimensions
        raise SafetensorsError(f"{path}: tensor {name!r:.80} has the shape {shape}, which is too large: correct it")
    return Entry(name, dtype, tuple(shape), start, end)
