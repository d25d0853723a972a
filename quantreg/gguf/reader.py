"""Reading a GGUF header: strict, lazy, and without trust in the file."""

import math
import os
import stat
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from quantreg.errors import GGUFFormatError
from quantreg.ggml import layout_of
from quantreg.gguf import rules
from quantreg.gguf.metadata import Metadata, type_name
from quantreg_kernels._gguf import ScanError, scan

__all__ = ["Header", "TensorInfo", "read_header"]

_CHUNK = 1 << 20
_CAPACITY = 1 << 25


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor.

    `dims` are in ne order as in the file (fastest first); `offset` counts bytes from `Header.data_offset`. `nbytes`
    is without padding. An id that the layout does not know is opaque: `known` is False, `row_bytes` is 0, `type_name`
    is "type 1234", and its bytes are all up to the next tensor or the end of the file.
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
        """Shape in NumPy order: slowest first, the values of a row last."""
        return self.dims[::-1]

    @property
    def n_elements(self) -> int:
        return math.prod(self.dims)

    @property
    def n_cols(self) -> int:
        """Values in a row (ne0)."""
        return self.dims[0] if self.dims else 1

    @property
    def n_rows(self) -> int:
        return math.prod(self.dims[1:])


@dataclass(frozen=True)
class Header:
    """A checked GGUF header. `tensors` are in file order, which is also the order of their data."""

    version: int
    alignment: int
    metadata: Metadata
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int
    warnings: list[str]
    path: str | None

    @cached_property
    def _by_name(self):
        return {tensor.name: tensor for tensor in self.tensors}

    def tensor(self, name: str) -> TensorInfo:
        """The tensor of this name; KeyError if there is none."""
        return self._by_name[name]


def read_header(path_or_buffer, *, layout=layout_of, path=None) -> Header:
    """Read and check the header of a GGUF file; no tensor data is read.

    `path_or_buffer` is a path or a bytes-like object that holds a whole file (the result keeps a view of it). A file
    is read, not mapped, up to the end of its header, and closed: it may then shrink or vanish. `layout(type_id)`
    gives (name, block_size, type_size, row_header_size) of a tensor type or None for one it does not know; the
    default knows ggml's. `path` names the file in messages.

    Raises GGUFFormatError for anything that breaks the format, OSError for a file that cannot be read.
    """
    if not isinstance(path_or_buffer, (str, os.PathLike)):
        view = memoryview(path_or_buffer).cast("B")
        return _read(view, len(view), lambda _: view, layout, path)
    path = path or os.fspath(path_or_buffer)
    # Opening a pipe would wait for its writer for ever.
    if not stat.S_ISREG(os.stat(path_or_buffer).st_mode):
        raise GGUFFormatError("not-a-file", "not a regular file", path=path)
    with open(path_or_buffer, "rb", buffering=0) as file:
        return _read_file(file, layout, path)


def _read_file(file, layout, path) -> Header:
    size = os.fstat(file.fileno()).st_size
    # Larger than any known header, in one piece: untouched memory costs nothing, growing and copying does.
    head, filled = np.empty(min(size, _CAPACITY), np.uint8), 0

    def more(needed):
        nonlocal head, filled
        if needed > len(head):
            head = np.concatenate([head[:filled], np.empty(min(size, 2 * needed) - filled, np.uint8)])
        while filled < needed:
            count = file.readinto(memoryview(head)[filled : filled + _CHUNK])
            if not count:
                message = "the file has shrunk while it was read"
                raise GGUFFormatError("truncated", message, offset=filled, limit=size, path=path)
            filled += count
        return memoryview(head)[:filled]

    return _read(b"", size, more, layout, path)


def _read(head, size, more, layout, path) -> Header:
    found = _Found(more, layout, path)
    try:
        version, end = scan(head, size, more, found.key, found.tensor)
        view = memoryview(more(end))[:end].toreadonly()
        data_offset = rules.padded(end, found.alignment)
        infos, data_end = _placed(found, data_offset, size)
    except ScanError as error:
        code, message, offset, field, value, limit = error.args
        raise GGUFFormatError(code, message, offset=offset, field=field, found=value, limit=limit, path=path) from None
    except MemoryError:
        raise GGUFFormatError("too-long", "the header does not fit into memory", path=path) from None
    warnings = found.warnings
    if size > data_end:
        warnings.append(f"{size - data_end} bytes after the last tensor belong to nothing")
    metadata = Metadata(view, found.spans)
    return Header(version, found.alignment, metadata, infos, data_offset, size, warnings, path)


class _Found:
    """The keys and tensors of a header as the scan finds them; each is checked before the next is looked at.

    ``tensors`` are TensorInfos whose places are not checked yet, beside where their names stand in the file.
    """

    def __init__(self, more, layout, path):
        self.more, self.layout, self.path = more, layout, path
        self.alignment = rules.DEFAULT_ALIGNMENT
        self.spans, self.tensors, self.names, self.warnings = {}, [], set(), []

    def key(self, raw, at, kind, element, length, start, end):
        where = {"offset": at, "path": self.path}
        key = rules.decode_name(raw, "key", **where)
        if key in self.spans:
            raise GGUFFormatError("duplicate-key", f"key {rules.shown(key)} occurs twice", field=key, **where)
        self.spans[key] = kind, element, length, start, end
        rules.check_value_type(key, type_name(kind, element), **where)
        if key == "general.alignment":
            value = Metadata(self.more(end), self.spans).value(key)
            self.alignment = rules.check_alignment(value.type, value.data, path=self.path)

    def tensor(self, raw, at, dims, type_id, offset):
        where = {"offset": at, "path": self.path}
        name = rules.decode_name(raw, "tensor name", **where)
        if name in self.names:
            raise GGUFFormatError("duplicate-tensor", f"tensor {rules.shown(name)} occurs twice", field=name, **where)
        self.names.add(name)
        if len(raw) >= rules.LONG_TENSOR_NAME:
            text = f"tensor name {rules.shown(name)} has {len(raw)} bytes: llama.cpp refuses 64 and more"
            self.warnings.append(text)
        sizes = rules.tensor_size(name, dims, type_id, self.layout, self.alignment, **where)
        row_bytes, nbytes = sizes or (0, 0)
        named = f"type {type_id}" if sizes is None else self.layout(type_id)[0]
        info = TensorInfo(name, dims, type_id, named, offset, nbytes, row_bytes, sizes is not None)
        self.tensors.append((info, at))


def _placed(found, data_offset, size):
    """(TensorInfos, end of the data); each tensor must begin where the one before it ends, padded."""
    infos, alignment = [], found.alignment
    expected = 0  # where the next tensor must begin, or the least it can if `floating`
    floating = False  # the tensor before is opaque: nobody knows how long it is
    for i, (info, at) in enumerate(found.tensors):
        name, offset, nbytes = info.name, info.offset, info.nbytes

        def refuse(code, message, value, limit, name=name, at=at):
            message = f"data of tensor {rules.shown(name)} {message}"
            field = f"offset of {name}"
            raise GGUFFormatError(code, message, offset=at, field=field, found=value, limit=limit, path=found.path)

        if offset % alignment:
            refuse("tensor-misaligned", f"begins at {offset}, not a multiple of {alignment}", offset, alignment)
        end = data_offset + offset + nbytes
        if end > size and (nbytes or floating or not info.known):
            refuse("tensor-past-end", f"ends at byte {end}, but the file has {size} bytes", end, size)
        if offset < expected:
            refuse("tensor-overlap", f"begins at {offset}, but the one before ends at {expected}", offset, expected)
        if offset > expected and not floating:
            disorder = any(later.offset == expected for later, _ in found.tensors[i + 1 :])
            code, cause = ("tensor-order", "tensors are out of order") if disorder else ("tensor-gap", "a gap")
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
