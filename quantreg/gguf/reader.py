"""Reading a GGUF header: strict, lazy, and without trust in the file."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from io import FileIO
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from quantreg.errors import GGUFFormatError
from quantreg.ggml import TypeLayout, layout_of
from quantreg.gguf import rules
from quantreg.gguf.metadata import Metadata, type_name
from quantreg.whatis import HEAD, kind_of, model_path, piece_of
from quantreg_kernels._gguf import ScanError, scan

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Header", "TensorInfo", "read_header"]

_CHUNK = 1 << 20
_CAPACITY = 1 << 25


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says about one tensor.

    ``dims`` are in ne order, as in the file: the fastest dimension comes first. ``offset`` counts bytes from
    `Header.data_offset`, and ``nbytes`` does not include padding.

    ``known`` is False if nobody knows the type. Then ``row_bytes`` is 0, ``type_name`` is like "type 1234", and the
    data extends to the next tensor or the end of the file.
    """

    name: str
    dims: tuple[int, ...]
    type_id: int
    type_name: str
    offset: int
    nbytes: int
    row_bytes: int
    known: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in NumPy order: the values of a row come last."""
        return self.dims[::-1]

    @property
    def n_elements(self) -> int:
        """Number of values."""
        return math.prod(self.dims)

    @property
    def n_cols(self) -> int:
        """Number of values per row (ne0)."""
        return self.dims[0] if self.dims else 1

    @property
    def matrix_rows(self) -> int:
        """Rows of each matrix of a stack, or of the whole tensor if it has fewer than three dimensions."""
        return self.shape[-2] if len(self.shape) > 2 else self.n_rows

    @property
    def n_rows(self) -> int:
        """Number of rows, over all dimensions but the first."""
        return math.prod(self.dims[1:])


@dataclass(frozen=True)
class Header:
    """A checked GGUF header.

    ``tensors`` are in file order, which is also the order of their data. ``data_offset`` is the position of the data
    section and ``file_size`` the size of the file, both in bytes. ``warnings`` describe what is odd but readable.
    """

    version: int
    alignment: int
    metadata: Metadata
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int
    warnings: list[str]
    path: str | None

    @cached_property
    def _by_name(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.tensors}

    def __repr__(self) -> str:
        return f"<Header {self.path!r}: version {self.version}, {len(self.tensors)} tensors, {len(self.metadata)} keys>"

    def tensor(self, name: str) -> TensorInfo:
        """The tensor with this name. Raises KeyError if there is none."""
        return self._by_name[name]


def read_header(
    path_or_buffer: "str | os.PathLike[str] | Buffer",
    *,
    layout: Callable[[int], TypeLayout | None] = layout_of,
    path: str | None = None,
    max_dims: int = rules.MAX_DIMS,
) -> Header:
    """Read and check the header of a GGUF file. No tensor data is read.

    - ``path_or_buffer``: a path, or a bytes-like object that holds a whole file; the result keeps a view of the
      object. A file is read up to the end of its header and closed, so it may shrink or vanish afterwards.
    - ``layout``: a function that returns the layout of a type id, or None if it does not know the type. The default
      knows ggml's types.
    - ``path``: the name of the file in messages.
    - ``max_dims``: how many dimensions a tensor may have, up to 8. ggml reads at most 4; more give a warning.

    Raises GGUFFormatError for anything that breaks the format, and OSError if the file cannot be read.
    """
    if not isinstance(path_or_buffer, (str, os.PathLike)):
        view = memoryview(path_or_buffer).cast("B")
        return _read(view, len(view), lambda _: view, layout, path, max_dims)
    name = model_path(path_or_buffer)  # opening a pipe would wait for its writer forever
    path = path or name
    with open(name, "rb", buffering=0) as file:
        return _read_file(file, layout, path, max_dims)


def _read_file(file: FileIO, layout: Callable[[int], TypeLayout | None], path: str, max_dims: int) -> Header:
    size = os.fstat(file.fileno()).st_size
    # One buffer that is larger than any known header: untouched memory costs nothing, but growing and copying does.
    head, filled = np.empty(min(size, _CAPACITY), np.uint8), 0

    def more(needed: int) -> memoryview:
        nonlocal head, filled
        if needed > len(head):
            head = np.concatenate([head[:filled], np.empty(min(size, 2 * needed) - filled, np.uint8)])
        while filled < needed:
            count = file.readinto(head.data[filled : filled + _CHUNK])
            if not count:
                message = "the file shrank while it was read: wait until nothing writes it, and try again"
                raise GGUFFormatError("truncated", message, offset=filled, limit=size, path=path)
            filled += count
        return head.data[:filled]

    return _read(b"", size, more, layout, path, max_dims)


def _read(
    head: "Buffer",
    size: int,
    more: "Callable[[int], Buffer]",
    layout: Callable[[int], TypeLayout | None],
    path: str | None,
    max_dims: int,
) -> Header:
    found = _Found(more, layout, path, max_dims)
    try:
        version, end = scan(head, size, more, found.key, found.tensor)
        view = memoryview(more(end))[:end].toreadonly()
        data_offset = rules.padded(end, found.alignment)
        infos, data_end = _placed(found, data_offset, size)
    except ScanError as error:
        code, message, offset, field, value, limit = error.args
        if code in ("bad-magic", "too-short"):
            message = _what_it_is(bytes(memoryview(more(min(size, HEAD)))[:HEAD]), size) or message
        elif code == "bad-version":
            message += ": make the file again with a current converter"
        message = _with_piece(message, path)
        raise GGUFFormatError(code, message, offset=offset, field=field, found=value, limit=limit, path=path) from None
    except MemoryError:
        message = "the header does not fit into memory: use a machine with more memory"
        raise GGUFFormatError("too-long", message, path=path) from None
    warnings = found.warnings
    if size > data_end:
        warnings.append(f"{size - data_end} bytes after the last tensor are not part of any tensor")
    metadata = Metadata(view, found.spans)
    return Header(version, found.alignment, metadata, infos, data_offset, size, warnings, path)


def _what_it_is(head: bytes, size: int) -> str | None:
    """Describe a file that is no GGUF file, and what to do about it; None if it is hard to say."""
    kind = None if head.startswith(b"GGUF") else kind_of(head, size)
    if kind is None or not size:
        return kind and f"is {kind.name}: {kind.advice}"
    return f"is not a GGUF file but {kind.name}: {kind.advice}"


def _with_piece(message: str, path: str | None) -> str:
    """Add to a message why the file is not whole, if its name says so."""
    piece = piece_of(path) if path is not None else None
    return f"{message}; {piece}" if piece else message


class _Found:
    """Receives the keys and tensors of a header from the scan, and checks each before the scan goes on.

    ``tensors`` holds (TensorInfo, offset of the tensor's name in the file). `_placed` checks where their data is.
    """

    def __init__(
        self,
        more: "Callable[[int], Buffer]",
        layout: Callable[[int], TypeLayout | None],
        path: str | None,
        max_dims: int,
    ) -> None:
        self.more, self.layout, self.path, self.max_dims = more, layout, path, max_dims
        self.alignment = rules.DEFAULT_ALIGNMENT
        self.spans: dict[str, tuple[int, int, int, int, int]] = {}
        self.tensors: list[tuple[TensorInfo, int]] = []
        self.names: set[str] = set()
        self.warnings: list[str] = []

    def key(self, raw: bytes, at: int, kind: int, element: int, length: int, start: int, end: int) -> None:
        where: dict[str, Any] = {"offset": at, "path": self.path}
        key = rules.decode_name(raw, "key", **where)
        if key in self.spans:
            raise GGUFFormatError("duplicate-key", f"key {rules.shown(key)} occurs twice", field=key, **where)
        self.spans[key] = kind, element, length, start, end
        rules.check_value_type(key, type_name(kind, element), **where)
        if key == "general.alignment":
            value = Metadata(self.more(end), self.spans).value(key)
            self.alignment = rules.check_alignment(value.type, value.data, path=self.path)

    def tensor(self, raw: bytes, at: int, dims: tuple[int, ...], type_id: int, offset: int) -> None:
        where: dict[str, Any] = {"offset": at, "path": self.path}
        name = rules.decode_name(raw, "tensor name", **where)
        rules.check_type_id(name, type_id, **where)
        if name in self.names:
            raise GGUFFormatError("duplicate-tensor", f"tensor {rules.shown(name)} occurs twice", field=name, **where)
        self.names.add(name)
        if len(raw) >= rules.LONG_TENSOR_NAME:
            text = f"tensor name {rules.shown(name)} has {len(raw)} bytes: llama.cpp refuses 64 and more"
            self.warnings.append(text)
        if rules.MAX_DIMS < len(dims) <= self.max_dims:
            self.warnings.append(
                f"tensor {rules.shown(name)} has {len(dims)} dimensions: llama.cpp and other programs that read GGUF "
                f"with ggml refuse more than {rules.MAX_DIMS}; `quantreg quantize` folds them"
            )
        sizes = rules.tensor_size(name, dims, type_id, self.layout, self.alignment, self.max_dims, **where)
        row_bytes, nbytes = sizes or (0, 0)
        known = self.layout(type_id)
        named = f"type {type_id}" if known is None else known.name
        info = TensorInfo(name, dims, type_id, named, offset, nbytes, row_bytes, known is not None)
        self.tensors.append((info, at))


def _placed(found: _Found, data_offset: int, size: int) -> tuple[tuple[TensorInfo, ...], int]:
    """Check that each tensor begins at the padded end of the one before it; return (TensorInfos, end of the data)."""
    infos: list[TensorInfo] = []
    alignment = found.alignment
    expected = 0  # where the next tensor must begin; if `floating`, the first position where it may begin
    floating = False  # the tensor before has an unknown type, so its length is unknown
    for i, (info, at) in enumerate(found.tensors):
        name, offset, nbytes = info.name, info.offset, info.nbytes

        def refuse(code: str, message: str, value: int, limit: int, name: str = name, at: int = at) -> NoReturn:
            message = f"data of tensor {rules.shown(name)} {message}"
            field = f"offset of {name}"
            raise GGUFFormatError(code, message, offset=at, field=field, found=value, limit=limit, path=found.path)

        if offset % alignment:
            message = f"begins at {offset}, which is not a multiple of the alignment {alignment}"
            refuse("tensor-misaligned", message, offset, alignment)
        end = data_offset + offset + nbytes
        if end > size and (nbytes or floating or not info.known):
            message = f"ends at byte {end}, but the file has {size} bytes: download or copy it again"
            refuse("tensor-past-end", _with_piece(message, found.path), end, size)
        if offset < expected:
            message = f"begins at {offset}, but the tensor before it ends at {expected}"
            refuse("tensor-overlap", message, offset, expected)
        if offset > expected and not floating:
            disorder = any(later.offset == expected for later, _ in found.tensors[i + 1 :])
            code = "tensor-order" if disorder else "tensor-gap"
            cause = "the tensors are out of order" if disorder else "there is a gap"
            refuse(code, f"begins at {offset} instead of {expected}: {cause}", offset, expected)
        if floating:
            infos[-1] = replace(infos[-1], nbytes=offset - infos[-1].offset)
        floating = not info.known
        infos.append(info)
        expected = offset + rules.padded(nbytes, alignment)
    if floating:
        infos[-1] = replace(infos[-1], nbytes=size - data_offset - infos[-1].offset)
        expected = size - data_offset
    return tuple(infos), data_offset + expected
