"""One tensor of a GGUF file: its type, its shape and its bytes."""

import math

import numpy as np

from quantreg import gguf
from quantreg.dispatch import dequantize
from quantreg.errors import ShapeError
from quantreg.registry import find_layout

__all__ = ["QuantizedTensor"]


class QuantizedTensor:
    """Raw bytes of a tensor with the shape and type to understand them; float tensors are held the same way.

    ``shape`` is in NumPy order: slowest first, the values of a row last. ``data`` is a uint8 array of shape
    ``shape[:-1] + (row bytes,)``, read-only and not copied when it comes from `quantreg.open`. ``type_id`` is the
    number in the file, ``type_name`` ggml's name for it or the plugin's.

    To write bytes of your own: ``QuantizedTensor("blk.0.ffn_up.weight", (512, 256), "Q4_K", data)``, where the type
    is a name or an id. Raises UnknownTypeError for a type that nobody registered and ShapeError if data has the wrong
    size. A file may hold tensors of unknown types: these have flat data and can only be copied.
    """

    __slots__ = ("data", "name", "shape", "type_id", "type_name")

    def __init__(self, name: str, shape, type, data):
        type_id, layout = find_layout(type)
        shape = tuple(int(n) for n in shape)
        try:
            row_bytes = layout.row_bytes(shape[-1] if shape else 1)
        except ShapeError as error:
            raise ShapeError(f"{name}: {error}") from None
        data = np.frombuffer(data, np.uint8) if isinstance(data, (bytes, bytearray, memoryview)) else np.asarray(data)
        expected = row_bytes * math.prod(shape[:-1])
        if data.dtype != np.uint8 or data.size != expected:
            found = f"{data.size} of {data.dtype}"
            raise ShapeError(f"{name}: {layout.name} of shape {shape} takes {expected} bytes of uint8, not {found}")
        self._set(name, shape, type_id, layout.name, data.reshape((*shape[:-1], row_bytes)))

    @classmethod
    def from_info(cls, info: gguf.TensorInfo, data: np.ndarray) -> "QuantizedTensor":
        """A tensor of a file that has been checked; `data` is flat."""
        tensor = cls.__new__(cls)
        shape = info.shape
        if info.known:
            data = data.reshape((*shape[:-1], info.row_bytes))
        tensor._set(info.name, shape, info.type_id, info.type_name, data)
        return tensor

    def _set(self, name, shape, type_id, type_name, data):
        self.name, self.shape, self.type_id, self.type_name, self.data = name, shape, type_id, type_name, data

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def dequantize(self, dtype=np.float32) -> np.ndarray:
        """The values, as an array of `shape` and `dtype`. Raises UnknownTypeError if no plugin knows the type."""
        return dequantize(self.data, self.type_id, dtype=dtype).reshape(self.shape)

    def __repr__(self):
        size = math.prod(self.shape)
        bits = f", {self.nbytes * 8 / size:.4g} bits a weight" if size else ""
        return f"<QuantizedTensor {self.name!r} {self.type_name} {self.shape}, {self.nbytes} bytes{bits}>"
