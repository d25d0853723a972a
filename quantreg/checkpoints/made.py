"""How the bytes of a GGUF tensor are read from the files of a checkpoint, piece by piece: `Made` and its relatives.

Each of them pickles, and has the two things that `quantreg.safetensors.Stored` has, so that jobs read all of them
alike: ``files``, the numbers of the files that it reads, and ``read_into``.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from quantreg.checkpoints.layout import Layout
from quantreg.checkpoints.transforms import Transform
from quantreg.safetensors import Part, Read, Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Given", "Made", "MadeMxfp4", "Piece", "simplified"]

_Array: TypeAlias = "NDArray[np.generic]"
_SPAN = 1 << 20  # values read at a time when not all of them are needed
_GAP = 1 << 14  # values between two runs of neighbours that are read with them: a call takes as long as these
_RAW = {"F32": "<u4", "F64": "<u8", "BF16": "<u2", "F16": "<u2", "U8": "u1"}
_SIZES = {dtype: np.dtype(raw).itemsize for dtype, raw in _RAW.items()}


class Piece(NamedTuple):
    """Some values of a tensor in a file, in the order of a layout. ``source`` is a `Part`, or a `Stored` above one."""

    source: Part | Stored
    layout: Layout

    @property
    def dtype(self) -> str:
        """The type of the values: that of the file, or the one to which codes of FP8 are decoded."""
        return self.source.to_type if isinstance(self.source, Stored) else self.source.dtype

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.layout.shape)

    def read(self, read: Read, start: int, out: _Array) -> None:
        """Read values that follow each other in the source, from ``start`` on: their bits, into a contiguous array."""
        data = out.reshape(-1).view(np.uint8)
        if isinstance(self.source, Stored):
            self.source.read_into(read, start * out.itemsize, data)
        else:
            read(self.source.file, self.source.position + start * out.itemsize, data)


def simplified(layout: Layout) -> Layout:
    """The same values in the same order with as few axes as possible; at least one."""
    shape: list[int] = []
    strides: list[int] = []
    for n, step in zip(layout.shape, layout.strides, strict=True):
        if n == 1:
            continue
        if shape and strides[-1] == n * step:  # the axis before goes on where this one ends
            shape[-1], strides[-1] = shape[-1] * n, step
        else:
            shape.append(n)
            strides.append(step)
    return Layout(tuple(shape) or (1,), tuple(strides) or (1,), layout.start)


@dataclass(frozen=True)
class Made:
    """How to read a tensor that is made of pieces, which follow each other. Their values have one type, ``dtype``.

    ``to_type`` is the type of the tensor: "F16" or "BF16" if that is ``dtype``, or "F32". ``changes`` are the
    transforms that change values. What they compute is rounded to F16 if that is ``dtype``; of values of BF16 it is
    float32.
    """

    pieces: tuple[Piece, ...]
    dtype: str
    to_type: str
    changes: tuple[Transform, ...] = ()

    @cached_property
    def files(self) -> tuple[int, ...]:
        """The numbers of the files that hold the pieces."""
        found: dict[int, None] = {}
        for piece in self.pieces:
            source = piece.source
            found |= dict.fromkeys(source.files if isinstance(source, Stored) else (source.file,))
        return tuple(found)

    @property
    def turned(self) -> bool:
        """Whether values that follow each other in the tensor are apart in the file."""
        return any(simplified(piece.layout).strides[-1] != 1 for piece in self.pieces)

    @cached_property
    def _ends(self) -> "NDArray[np.int64]":
        return np.cumsum([piece.size for piece in self.pieces], dtype=np.int64)

    def read_into(self, read: Read, offset: int, buffer: "NDArray[np.uint8]") -> None:
        """Fill the buffer with the bytes of the tensor from ``offset`` on; both are whole numbers of values.

        ``read(file, position, out)`` fills an array from a file.
        """
        size = _SIZES[self.to_type]
        first, last = offset // size, (offset + len(buffer)) // size
        if self.dtype == self.to_type and not self.changes:
            self._gather(read, first, last, buffer.view(_RAW[self.dtype]))
            return
        for start in range(first, last, _SPAN):
            end = min(start + _SPAN, last)
            raw = np.empty(end - start, _RAW[self.dtype])
            self._gather(read, start, end, raw)
            buffer[(start - first) * size : (end - first) * size] = self._converted(raw).view(np.uint8)

    def _converted(self, raw: _Array) -> _Array:
        """The values as ``to_type``, little-endian."""
        floats = _floats(raw, self.dtype)
        for step in self.changes:
            floats = step.changed(floats)
            if self.dtype == "F16":  # a result has the type of what it is computed from
                floats = floats.astype(np.float16).astype(np.float32)
        if self.to_type == "F16":
            return floats.astype("<f2")
        return floats.astype("<f4", copy=False)

    def _gather(self, read: Read, first: int, last: int, out: _Array) -> None:
        """Read the bits of the values from number ``first`` to ``last``."""
        number = int(np.searchsorted(self._ends, first, side="right"))
        done = first
        while done < last:
            piece, end = self.pieces[number], int(self._ends[number])
            begin = end - piece.size
            here = min(last, end)
            if here > done:
                _range(
                    piece, read, simplified(piece.layout), done - begin, here - begin, out[done - first : here - first]
                )
            done, number = max(done, here), number + 1


@dataclass(frozen=True)
class MadeMxfp4:
    """How to read blocks of GGUF's MXFP4 from codes and scales, see `transforms.Mxfp4`. The layouts count bytes.

    ``codes`` has 16 bytes for each block and ``scales`` one, in the same order of blocks.
    """

    codes: Piece
    scales: Piece

    to_type: str = "MXFP4"

    @property
    def files(self) -> tuple[int, ...]:
        """The numbers of the files that hold the codes and the scales."""
        parts = [piece.source for piece in (self.codes, self.scales)]
        return tuple(dict.fromkeys(part.file for part in parts if isinstance(part, Part)))

    def read_into(self, read: Read, offset: int, buffer: "NDArray[np.uint8]") -> None:
        """Fill the buffer with the bytes of the tensor from ``offset`` on."""
        first, last = offset // 17, -(-(offset + len(buffer)) // 17)
        step = _SPAN // 16
        for start in range(first, last, step):
            end = min(start + step, last)
            blocks = self._blocks(read, start, end).reshape(-1)
            begin = max(offset - start * 17, 0)
            place = max(start * 17 - offset, 0)
            part = blocks[begin : begin + len(buffer) - place]
            buffer[place : place + len(part)] = part

    def _blocks(self, read: Read, first: int, last: int) -> "NDArray[np.uint8]":
        n = last - first
        codes = np.empty(n * 16, np.uint8)
        _range(self.codes, read, simplified(self.codes.layout), first * 16, last * 16, codes)
        scales = np.empty(n, np.uint8)
        _range(self.scales, read, simplified(self.scales.layout), first, last, scales)
        # Value 2j is in the low bits of byte j, and 2j + 1 in the high ones. A GGUF block has value j in the low bits
        # of byte j, and value j + 16 in the high ones.
        values = np.empty((n, 32), np.uint8)
        values[:, ::2], values[:, 1::2] = codes.reshape(n, 16) & 15, codes.reshape(n, 16) >> 4
        blocks = np.empty((n, 17), np.uint8)
        blocks[:, 0] = scales
        blocks[:, 1:] = values[:, :16] | values[:, 16:] << 4
        return blocks


@dataclass(frozen=True)
class Given:
    """A tensor of float32 that no file holds: its bytes."""

    data: bytes

    to_type: str = "F32"
    files: tuple[int, ...] = ()

    def read_into(self, read: Read, offset: int, buffer: "NDArray[np.uint8]") -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        buffer[:] = np.frombuffer(self.data, np.uint8)[offset : offset + len(buffer)]


def _range(piece: Piece, read: Read, layout: Layout, first: int, last: int, out: _Array) -> None:
    """Read the values from number ``first`` to ``last``, in the order of the layout, into a one-dimensional array."""
    shape = layout.shape
    inner = math.prod(shape[1:])
    top, below = divmod(first, inner)
    if below or last - first < inner:  # a part of one row, or the end of one
        end = min(inner, below + last - first)
        rest = Layout(shape[1:], layout.strides[1:], layout.start + top * layout.strides[0])
        if len(shape) == 1:
            return
        _range(piece, read, rest, below, end, out[: end - below])
        if end - below < last - first:
            _range(piece, read, layout, first + end - below, last, out[end - below :])
        return
    rows = (last - first) // inner
    whole = layout.taken(0, top, rows)
    _block(piece, read, whole, out[: rows * inner].reshape(whole.shape))
    if rows * inner < last - first:
        _range(piece, read, layout, first + rows * inner, last, out[rows * inner :])


def _block(piece: Piece, read: Read, layout: Layout, out: _Array) -> None:
    """Read all values of a layout into an array of its shape."""
    shape, strides = layout.shape, layout.strides
    span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    count = math.prod(shape)
    if len(shape) == 1 and strides[0] == 1 and out.flags.c_contiguous:
        piece.read(read, layout.start, out)
        return
    run = max((n for n, step in zip(shape, strides, strict=True) if step == 1), default=1)
    sparse = (span - count) * run > _GAP * count
    if span <= _SPAN and not sparse:
        raw = np.empty(span, out.dtype)
        piece.read(read, layout.start, raw)
        size = raw.itemsize
        out[...] = np.lib.stride_tricks.as_strided(raw, shape, [step * size for step in strides], writeable=False)
        return
    axis = max(range(len(shape)), key=lambda a: (shape[a] > 1) * strides[a])  # the values that are farthest apart
    each = span - (shape[axis] - 1) * strides[axis]
    step = 1 if sparse else max(1, min((_SPAN - each) // strides[axis] + 1, shape[axis] - 1))
    for start in range(0, shape[axis], step):
        n = min(step, shape[axis] - start)
        index = (*(slice(None),) * axis, slice(start, start + n))
        _block(piece, read, layout.taken(axis, start, n), out[index])


def _floats(raw: _Array, dtype: str) -> "NDArray[np.float32]":
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.view({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float32, copy=False)
