"""Tensors that are stored as FP8 with scales beside them, read as if they were stored as floats.

E4M3 is the variant without infinity ("fn"). A decoded weight is its code's value times its scale, in float32:

- DeepSeek: ``NAME_scale_inv``, a scale per block of 128 x 128 (the name notwithstanding, it is a factor)
- vLLM, compressed-tensors, ModelOpt: ``NAME_scale``, one scale or one per row
- ComfyUI: ``LAYER.scale_weight`` beside ``LAYER.weight``, and a marker ``scaled_fp8``; or ``LAYER.weight_scale`` and a
  marker ``LAYER.comfy_quant``
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["FP8", "Part", "Read", "Stored", "blocks_of", "fp8_values", "to_floats"]

# read(file, position, out) fills an array of bytes from the file with this number.
Read: TypeAlias = Callable[[int, int, NDArray[np.uint8]], None]

# dtype -> bits of the mantissa, bias of the exponent, and what the codes with the largest exponent mean: "ieee" is
# infinity and NaN; "fn" is NaN for the last code only; in "fnuz" NaN is the code of minus zero.
FP8: dict[str, tuple[int, int, str]] = {
    "F8_E4M3": (3, 7, "fn"),
    "F8_E5M2": (2, 15, "ieee"),
    "F8_E4M3FNUZ": (3, 8, "fnuz"),
    "F8_E5M2FNUZ": (2, 16, "fnuz"),
}
_CHUNK = 1 << 17  # weights decoded at a time


@cache
def fp8_values(dtype: str) -> NDArray[np.float32]:
    """The values of the 256 codes of an FP8 dtype: float32 (256,)."""
    mantissa_bits, bias, special = FP8[dtype]
    codes = np.arange(256)
    mantissa, exponent = codes & ((1 << mantissa_bits) - 1), (codes & 0x7F) >> mantissa_bits
    fraction = (mantissa + np.where(exponent == 0, 0, 1 << mantissa_bits)) * 2.0**-mantissa_bits
    values = fraction * 2.0 ** (np.maximum(exponent, 1) - bias)
    if special == "ieee":
        values[exponent == 0x7F >> mantissa_bits] = np.nan
        values[(exponent == 0x7F >> mantissa_bits) & (mantissa == 0)] = np.inf
    elif special == "fn":
        values[(codes & 0x7F) == 0x7F] = np.nan
    values = np.where(codes & 0x80, -values, values)
    if special == "fnuz":
        values[0x80] = np.nan
    values = values.astype(np.float32)
    values.setflags(write=False)
    return values


class Part(NamedTuple):
    """Where data lies: the number of the file, the position in it, the dtype, and the shape (NumPy order)."""

    file: int
    position: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * _itemsize(self.dtype)


@dataclass(frozen=True, slots=True)
class Stored:
    """How to read a tensor as floats of ``to_type`` ("F32" or "BF16").

    ``codes`` is what the file holds. Its values are multiplied by ``scale`` or by those of ``scales``, of which each
    covers a block of ``block`` weights (NumPy order, one number per dimension of the tensor). It pickles.
    """

    codes: Part
    to_type: str
    scale: float = 1.0
    scales: Part | None = None
    block: tuple[int, ...] = ()

    @property
    def files(self) -> tuple[int, ...]:
        """The numbers of the files that hold the codes and the scales."""
        found = {self.codes.file: None} if self.scales is None else {self.codes.file: None, self.scales.file: None}
        return tuple(found)

    def read_into(self, read: Read, offset: int, buffer: NDArray[np.uint8]) -> None:
        """Fill the buffer with the bytes from ``offset`` on that the tensor would have if it were stored as floats.

        ``read(file, position, out)`` fills an array from the file with this number. Both ``offset`` and the length of
        the buffer are whole numbers of weights.
        """
        size = _itemsize(self.to_type)
        first, count = offset // size, len(buffer) // size
        step = max(_CHUNK, self._n_cols if self.scales else 0)
        table = self._scale_table(read) if self.scales else None
        for start in range(first, first + count, step):
            n = min(step, first + count - start)
            out = buffer[(start - first) * size : (start - first + n) * size]
            raw = np.empty(n * _itemsize(self.codes.dtype), np.uint8)
            read(self.codes.file, self.codes.position + start * _itemsize(self.codes.dtype), raw)
            values = to_floats(raw, self.codes.dtype)
            if table is not None:
                values = values * self._scales_of(table, start, n)
            elif self.scale != 1.0:
                values = values * np.float32(self.scale)
            if self.to_type == "F32":
                out[:] = values.astype("<f4", copy=False).view(np.uint8)
            else:  # exact: the planner of `to_type` made sure that BF16 holds the values
                out[:] = (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)

    @property
    def _n_cols(self) -> int:
        return self.codes.shape[-1] if self.codes.shape else 1

    def _scale_table(self, read: Read) -> NDArray[np.float32]:
        """All scales: float32, with one dimension per dimension of the tensor."""
        assert self.scales is not None
        raw = np.empty(self.scales.nbytes, np.uint8)
        read(self.scales.file, self.scales.position, raw)
        return to_floats(raw, self.scales.dtype).reshape(_padded(self.scales.shape, len(self.codes.shape)))

    def _scales_of(self, table: NDArray[np.float32], start: int, count: int) -> NDArray[np.float32]:
        """The scale of each of ``count`` weights from ``start`` on, in the order of the data."""
        cols = self._n_cols
        rows = np.arange(start // cols, -(-(start + count) // cols))
        index = np.unravel_index(rows, self.codes.shape[:-1]) if len(self.codes.shape) > 1 else ()
        per_row = table[tuple(axis // block for axis, block in zip(index, self.block[:-1], strict=True))]
        wide = np.repeat(per_row.reshape(len(rows), -1), self.block[-1], axis=1)[:, :cols]
        skipped = start - int(rows[0]) * cols
        return np.ascontiguousarray(wide).reshape(-1)[skipped : skipped + count]


def blocks_of(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many weights a scale covers along each dimension, or None if scales of this shape do not fit the tensor.

    The last block of a dimension may be cut off only if blocks have 128 weights, as DeepSeek's have.
    """
    if len(scales) > len(shape):
        return None
    found = []
    for n, m in zip(shape, _padded(scales, len(shape)), strict=True):
        if m == 1:
            found.append(max(n, 1))
        elif -(-n // 128) == m:
            found.append(128)
        elif m and n % m == 0:
            found.append(n // m)
        else:
            return None
    return tuple(found)


def _padded(shape: tuple[int, ...], n_dims: int) -> tuple[int, ...]:
    return shape + (1,) * (n_dims - len(shape))


def _itemsize(dtype: str) -> int:
    return {"F32": 4, "F64": 8}.get(dtype, 2 if dtype in ("BF16", "F16") else 1)


def to_floats(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """The values of codes as float32."""
    if dtype in FP8:
        return fp8_values(dtype)[raw]
    if dtype == "F8_E8M0":  # a power of two; 255 is NaN
        return np.where(raw == 255, np.nan, np.exp2(raw.astype(np.float64) - 127)).astype(np.float32)
    if dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float32)
