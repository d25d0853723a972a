"""One tensor of a GGUF file: its type, its shape and its bytes."""

import math

import numpy as np

from quantreg import gguf
from quantreg.errors import ShapeError, UnknownTypeError

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
        type_id, rules = find_type(type)
        shape = tuple(int(n) for n in shape)
        columns = shape[-1] if shape else 1
        if columns % rules.block_size:
            raise ShapeError(f"{name}: rows of {columns} values, {rules.name} needs a multiple of {rules.block_size}")
        row_bytes = rules.row_header_size + columns // rules.block_size * rules.type_size
        data = np.frombuffer(data, np.uint8) if isinstance(data, (bytes, bytearray, memoryview)) else np.asarray(data)
        expected = row_bytes * math.prod(shape[:-1])
        if data.dtype != np.uint8 or data.size != expected:
            found = f"{data.size} of {data.dtype}"
            raise ShapeError(f"{name}: {rules.name} of shape {shape} takes {expected} bytes of uint8, not {found}")
        self._set(name, shape, type_id, rules.name, data.reshape((*shape[:-1], row_bytes)))

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
        from quantreg.dispatch import dequantize

        return dequantize(self.data, self.type_id, dtype=dtype).reshape(self.shape)

    def __repr__(self):
        size = math.prod(self.shape)
        bits = f", {self.nbytes * 8 / size:.4g} bits a weight" if size else ""
        return f"<QuantizedTensor {self.name!r} {self.type_name} {self.shape}, {self.nbytes} bytes{bits}>"


def layout_with_plugins(type_id: int) -> gguf.TypeLayout | None:
    """Like `gguf.layout`, but plugins are asked about ids that are not ggml's."""
    known = gguf.layout(type_id)
    if known is None:
        try:
            known = _registered(type_id)[1]
        except UnknownTypeError:
            return None
    return known


def find_type(type) -> tuple[int, gguf.TypeLayout]:
    """(id, layout) of a type given by name or id; UnknownTypeError if neither ggml nor a plugin has it."""
    for type_id, known in gguf.TYPES.items():
        if type in (type_id, known.name):
            return type_id, known
    return _registered(type)


def _registered(type):
    from quantreg.registry import types

    qtype = types[type]
    known = gguf.TypeLayout(qtype.name, qtype.block_size, qtype.type_size, getattr(qtype, "row_header_size", 0))
    return qtype.type_id, known
