"""QuantizedTensor: one tensor of a GGUF file, with its type, its shape and its bytes."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from quantreg import gguf
from quantreg.dispatch import dequantize, quantize
from quantreg.errors import ShapeError
from quantreg.fitting import fit
from quantreg.html import figures
from quantreg.parameters import TensorContext
from quantreg.registry import find_layout, registry

if TYPE_CHECKING:
    from typing import SupportsIndex

    from numpy.typing import ArrayLike, DTypeLike, NDArray
    from typing_extensions import Buffer

    from quantreg.dispatch import TypeKey
    from quantreg.parameters import Fitted
    from quantreg.qtype import QuantType

__all__ = ["QuantizedTensor"]


class QuantizedTensor:
    """The raw bytes of a tensor, with the type and shape that give them a meaning. Float tensors are held likewise.

    - ``name``: the name of the tensor.
    - ``shape``: in NumPy order: the values of a row come last.
    - ``data``: a uint8 array of shape ``shape[:-1] + (bytes per row,)``; read-only and not copied when it comes from
      `quantreg.open`.
    - ``type_id``: the number of the type in a file.
    - ``type_name``: the name that ggml or the plugin gives to the type.

    - ``parameters``: what the type was fitted to (see `quantreg.Parameters`), or None.

    To write bytes of your own use ``QuantizedTensor("blk.0.ffn_up.weight", (512, 256), "Q4_K", data)``, with the type
    as a name, an id or a QuantType. Raises UnknownTypeError for a type that no plugin provides, and ShapeError if the
    data has the wrong size or dtype.

    A file may hold tensors of unknown types. Their data is flat, and they can be copied but not decoded.
    """

    __slots__ = ("_read", "data", "name", "shape", "type_id", "type_name")

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str
    data: "NDArray[np.uint8]"

    def __init__(
        self,
        name: str,
        shape: "Sequence[SupportsIndex]",
        type: "str | SupportsIndex | QuantType",
        data: "Buffer | ArrayLike",
        parameters: "Fitted | None" = None,
    ) -> None:
        type_id, layout = find_layout(type)
        dims = tuple(int(n) for n in shape)
        try:
            row_bytes = layout.row_bytes(dims[-1] if dims else 1)
        except ShapeError as error:
            raise ShapeError(f"{name}: {error}") from None
        array = np.frombuffer(data, np.uint8) if isinstance(data, (bytes, bytearray, memoryview)) else np.asarray(data)
        expected = row_bytes * math.prod(dims[:-1])
        if array.dtype != np.uint8 or array.size != expected:
            raise ShapeError(
                f"{name}: {layout.name} of shape {dims} takes {expected} bytes of uint8, not {array.size} of "
                f"{array.dtype}: pass what quantreg.quantize returns for this shape"
            )
        self._set(name, dims, type_id, layout.name, array.reshape((*dims[:-1], row_bytes)))
        if parameters is not None:
            spec = registry.get(type_id).parameters
            if spec is None:
                raise ShapeError(f"{name}: {layout.name} has no parameters: leave them out")
            given = spec.checked(layout.name, parameters, TensorContext(name, dims))
            self._read = lambda: given

    @classmethod
    def from_array(
        cls, name: str, x: "ArrayLike", type: "TypeKey", importance: "ArrayLike | None" = None
    ) -> "QuantizedTensor":
        """Quantize an array of shape (..., cols) to a type: fit the type's parameters, if it has any, and encode.

        ``importance`` is that of `quantreg.quantize`. Raises what `quantreg.quantize` raises.
        """
        array = np.asarray(x)
        parameters = fit(array, type, importance, tensor=name) or None
        data = quantize(array, type, importance, tensor=name, parameters=parameters)
        return cls(name, array.shape, type, data, parameters)

    @classmethod
    def from_info(
        cls,
        info: gguf.TensorInfo,
        data: "NDArray[np.uint8]",
        read: "Callable[[], Fitted | None] | None" = None,
    ) -> "QuantizedTensor":
        """Make a tensor from a checked header entry and its flat data; ``read`` reads its parameters when needed."""
        tensor = cls.__new__(cls)
        shape = info.shape
        if info.known:
            data = data.reshape((*shape[:-1], info.row_bytes))
        tensor._set(info.name, shape, info.type_id, info.type_name, data)
        tensor._read = read
        return tensor

    def _set(self, name: str, shape: tuple[int, ...], type_id: int, type_name: str, data: "NDArray[np.uint8]") -> None:
        self.name, self.shape, self.type_id, self.type_name, self.data = name, shape, type_id, type_name, data
        self._read: Callable[[], Fitted | None] | None = None

    @property
    def parameters(self) -> "Fitted | None":
        """What the type was fitted to: name -> float32 array; None if the type has no parameters or the file none.

        Raises CodecError if the type cannot be decoded without its parameters and the file lacks them.
        """
        return None if self._read is None else self._read()

    @property
    def nbytes(self) -> int:
        """Bytes of data, without padding."""
        return self.data.nbytes

    @overload
    def dequantize(self, dtype: type[np.float32] = ...) -> "NDArray[np.float32]": ...
    @overload
    def dequantize(self, dtype: "DTypeLike") -> "NDArray[Any]": ...
    def dequantize(self, dtype: "DTypeLike" = np.float32) -> "NDArray[Any]":
        """Decode the values to an array of ``shape`` and this dtype.

        Raises UnknownTypeError if no plugin provides the type.
        """
        return dequantize(self.data, self.type_id, dtype=dtype, parameters=self.parameters).reshape(self.shape)

    def __repr__(self) -> str:
        bits = f", {self._bits:.4g} bits per weight" if self._bits else ""
        return f"<QuantizedTensor {self.name!r} {self.type_name} {self.shape}, {self.nbytes} bytes{bits}>"

    def _repr_html_(self) -> str:
        values: dict[str, object] = {"type": self.type_name, "shape": self.shape, "bytes": self.nbytes}
        return figures(self.name, values | ({"bits per weight": self._bits} if self._bits else {}))

    @property
    def _bits(self) -> float:
        """Bits per weight, or 0 for an empty tensor."""
        size = math.prod(self.shape)
        return self.nbytes * 8 / size if size else 0.0
