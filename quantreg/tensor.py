"""QuantizedTensor: one tensor of a GGUF file, with its type, its shape and its bytes."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from quantreg import gguf
from quantreg.arrays import as_array, as_shape
from quantreg.dispatch import dequantize, quantize
from quantreg.errors import ShapeError
from quantreg.fitting import fit
from quantreg.ggml import EXACT_TYPES, PLAIN_TYPES
from quantreg.html import figures
from quantreg.parameters import TensorContext
from quantreg.products import matmul
from quantreg.registry import find_layout, registry

if TYPE_CHECKING:
    from typing import SupportsIndex

    from numpy.typing import ArrayLike, DTypeLike, NDArray
    from typing_extensions import Buffer

    from quantreg.dispatch import TypeKey
    from quantreg.parameters import Fitted
    from quantreg.products.weights import Prepared
    from quantreg.qtype import QuantType

__all__ = ["QuantizedTensor"]


class QuantizedTensor(NDArrayOperatorsMixin):
    """The raw bytes of a tensor, with the type and shape that give them a meaning. Float tensors are held likewise.

    - ``name``: the name of the tensor.
    - ``shape``: in NumPy order: the values of a row come last.
    - ``data``: a uint8 array of shape ``shape[:-1] + (bytes per row,)``; read-only and not copied when it comes from
      `quantreg.open`.
    - ``type_id``: the number of the type in a file.
    - ``type_name``: the name that ggml or the plugin gives to the type.
    - ``parameters``: the parameters that the type fitted to this tensor (see `quantreg.Parameters`), or None.

    To write bytes of your own use ``QuantizedTensor("blk.0.ffn_up.weight", (512, 256), "Q4_K", data)``, with the type
    as a name, an id or a QuantType. Raises UnknownTypeError for a type that no plugin provides, and ShapeError if the
    data has the wrong size or dtype.

    For NumPy it is an array of its decoded values: ``np.asarray(tensor)``, ``len(tensor)``, ``tensor[2:5]``, loops
    over rows, operators and ufuncs work. Indexing decodes no more than the rows that it asks for. Operators give
    arrays, and so does ``==``, element by element; the hash of a tensor is that of its identity. A tensor cannot be
    changed in place. ``ndim``, ``size`` and ``dtype`` are those of the decoded array: integers and float64 keep their
    dtype, everything else is float32.

    A file may hold tensors of unknown types. Their data is flat, and they can be copied but not decoded. A pickled
    tensor carries its bytes with it.
    """

    __slots__ = ("_data", "_nbytes", "_prepared", "_read", "name", "shape", "type_id", "type_name")

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str
    _data: "NDArray[np.uint8] | Callable[[], NDArray[np.uint8]]"
    _nbytes: int
    _prepared: "Prepared | None"  # what products keep about the weights
    _read: "Callable[[], Fitted | None] | None"

    def __init__(
        self,
        name: str,
        shape: "Sequence[SupportsIndex]",
        type: "str | SupportsIndex | QuantType",
        data: "Buffer | ArrayLike",
        parameters: "Fitted | None" = None,
    ) -> None:
        type_id, layout = find_layout(type)
        dims = as_shape(shape, name)
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
        self._set(name, dims, type_id, layout.name, array.reshape((*dims[:-1], row_bytes)), expected)
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
        array = as_array(x, name)
        parameters = fit(array, type, importance, tensor=name) or None
        data = quantize(array, type, importance, tensor=name, parameters=parameters)
        return cls(name, array.shape, type, data, parameters)

    @classmethod
    def from_info(
        cls,
        info: gguf.TensorInfo,
        data: "NDArray[np.uint8] | Callable[[], NDArray[np.uint8]]",
        read: "Callable[[], Fitted | None] | None" = None,
    ) -> "QuantizedTensor":
        """Make a tensor from a checked header entry and its flat data, or a function that makes the data when needed.

        ``read`` reads its parameters when needed.
        """
        tensor = cls.__new__(cls)
        shape = info.shape
        wanted = (*shape[:-1], info.row_bytes) if info.known else (-1,)
        shaped = data.reshape(wanted) if isinstance(data, np.ndarray) else lambda: data().reshape(wanted)
        tensor._set(info.name, shape, info.type_id, info.type_name, shaped, info.nbytes)
        tensor._read = read
        return tensor

    def _set(
        self,
        name: str,
        shape: tuple[int, ...],
        type_id: int,
        type_name: str,
        data: "NDArray[np.uint8] | Callable[[], NDArray[np.uint8]]",
        nbytes: int,
    ) -> None:
        self.name, self.shape, self.type_id, self.type_name, self._data = name, shape, type_id, type_name, data
        self._nbytes, self._prepared, self._read = nbytes, None, None

    @property
    def data(self) -> "NDArray[np.uint8]":
        """The bytes: a uint8 array of shape ``shape[:-1] + (bytes per row,)``."""
        data = self._data  # read once: another thread may put the array there at any time
        if not isinstance(data, np.ndarray):
            data = self._data = data()
        return data

    @data.setter
    def data(self, data: "NDArray[np.uint8]") -> None:
        self._data, self._nbytes, self._prepared = data, data.nbytes, None

    @property
    def parameters(self) -> "Fitted | None":
        """The parameters that the type fitted to this tensor: name -> float32 array. None if there are none.

        Raises CodecError if the type cannot be decoded without its parameters and the file lacks them.
        """
        return None if self._read is None else self._read()

    @property
    def nbytes(self) -> int:
        """Bytes of data, without padding."""
        return self._nbytes

    @overload
    def dequantize(self, dtype: type[np.float32] = ...) -> "NDArray[np.float32]": ...
    @overload
    def dequantize(self, dtype: "DTypeLike") -> "NDArray[Any]": ...
    def dequantize(self, dtype: "DTypeLike" = np.float32) -> "NDArray[Any]":
        """Decode the values to an array of ``shape`` and this dtype.

        Raises UnknownTypeError if no plugin provides the type.
        """
        found = dequantize(self.data, self.type_id, dtype=dtype, tensor=self.name, parameters=self.parameters)
        return found.reshape(self.shape)

    def matmul(
        self, x: "ArrayLike", threads: int | None = None, *, expert: "ArrayLike | None" = None
    ) -> "NDArray[np.float32]":
        """Multiply activations by the weights: ``x @ tensor.T`` without decoding the tensor (see `quantreg.matmul`)."""
        return matmul(x, self, threads=threads, expert=expert)

    @property
    def T(self) -> "Transposed":
        """The transposed matrix, for products: ``x @ tensor.T`` does not decode the tensor as a whole."""
        if self.ndim != 2:
            raise ShapeError(
                f"{self.name} has shape {self.shape}: only a matrix can be transposed; use matmul(expert=)"
            )
        return Transposed(self)

    # ---- as an array ----

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The dtype of the decoded values: that of the file for integers and float64, else float32."""
        return np.dtype(EXACT_TYPES.get(self.type_name, np.float32))

    def __array__(self, dtype: "DTypeLike | None" = None, copy: bool | None = None) -> "NDArray[Any]":
        if copy is False:
            raise ValueError(
                "the values of a QuantizedTensor are decoded, which makes a new array: leave copy=False out"
            )
        return self[...] if dtype is None else np.asarray(self[...], dtype)

    def __dlpack__(self, *, copy: bool | None = None, **keywords: Any) -> Any:
        """The values for `numpy.from_dlpack`, `torch.from_dlpack` and others. Plain numbers are not copied.

        Encoded values are decoded. Memory that must not be written to, such as a mapped file, is copied unless
        ``copy`` is False, because some libraries write to it all the same. Raises BufferError if ``copy`` is False and
        the values are decoded.
        """
        array = self._plain()
        if array is None:
            if copy is False:
                raise BufferError(
                    f"{self.name}: {self.type_name} is decoded, which makes a new array: leave copy=False out"
                )
            return self.dequantize().__dlpack__(**keywords)
        if copy or (copy is None and not array.flags.writeable):
            array = array.copy()
        return array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # DLPack's number of the CPU

    def _plain(self) -> "NDArray[Any] | None":
        """The data as an array of plain numbers on the same memory, or None if they must be decoded."""
        dtype = PLAIN_TYPES.get(self.type_name, "bfloat16")
        if dtype == "bfloat16" or sys.byteorder != "little":  # NumPy has no bfloat16
            return None
        array = self.data.reshape(-1).view(dtype).reshape(self.shape)
        return array if array.flags.aligned else array.copy()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        if any(isinstance(out, QuantizedTensor) for out in keywords.get("out") or ()):
            raise TypeError(
                "a QuantizedTensor cannot be changed in place: decode it first, as in x = tensor.dequantize()"
            )
        decoded = (np.asarray(x) if isinstance(x, QuantizedTensor) else x for x in inputs)
        return getattr(ufunc, method)(*decoded, **keywords)

    __hash__ = object.__hash__  # the operators compare values, which leaves a class without a hash

    def __contains__(self, value: object) -> bool:
        return value in np.asarray(self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            message = f"a QuantizedTensor has no {name!r}"
            if hasattr(np.ndarray, name) and not name.startswith("_"):
                message += f": decode it first, as in tensor.dequantize().{name}"
            raise AttributeError(message, name=name, obj=self)

    def __setitem__(self, key: object, value: object) -> NoReturn:
        raise TypeError("a QuantizedTensor cannot be changed in place: decode it first, as in x = tensor.dequantize()")

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a QuantizedTensor without dimensions has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        return True  # even without values, so that `if model.get(name)` asks whether the tensor is there

    def __iter__(self) -> "Iterator[NDArray[Any]]":
        rows = self[...] if self._is_one_piece else self
        return (rows[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> "Any":
        """The decoded values at a NumPy index. Only the rows that the index asks for are decoded.

        Raises IndexError as NumPy does, and UnknownTypeError if no plugin provides the type.
        """
        if self._is_one_piece:
            return self.dequantize()[key]
        keys = key if isinstance(key, tuple) else (key,)
        basic = all(isinstance(part, (int, np.integer, slice)) or part is Ellipsis for part in keys)
        n_rows_axes = max(0, self.ndim - 1)
        if basic and not any(isinstance(part, (bool, np.bool_)) for part in keys) and keys.count(Ellipsis) <= 1:
            missing = self.ndim + keys.count(Ellipsis) - len(keys)
            if missing < 0:
                raise IndexError(f"{len(keys)} indices are too many for a tensor of {self.ndim} dimensions")
            at = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
            full = (*keys[:at], *[slice(None)] * missing, *keys[at + 1 :])
            values = self._decoded(self.data[full[:n_rows_axes]])[(..., *full[n_rows_axes:])]
            return values if values.ndim or Ellipsis in keys else values[()]
        if not isinstance(key, tuple) and n_rows_axes and np.ndim(key) <= n_rows_axes:
            rows = np.asarray(key)
            if rows.dtype.kind != "b" or rows.ndim <= n_rows_axes:
                return self._decoded(self.data[key])  # arrays of row numbers, masks of rows
        return self._decoded(self.data)[key]

    @property
    def _is_one_piece(self) -> bool:
        """Whether rows cannot be decoded on their own, because the codec must know which matrix they belong to."""
        qtype = None if self.type_name in EXACT_TYPES else registry.get(self.type_id)
        return qtype is not None and qtype.by_matrix

    def _decoded(self, data: "NDArray[np.uint8]") -> "NDArray[Any]":
        """Decode some rows: uint8 (..., bytes per row) to an array of (..., cols)."""
        exact = EXACT_TYPES.get(self.type_name)
        cols = self.shape[-1:]
        if exact is not None:
            stored = np.ascontiguousarray(data).view(np.dtype(exact).newbyteorder("<"))
            return stored.astype(exact).reshape((*data.shape[:-1], *cols))
        return dequantize(data, self.type_id, tensor=self.name).reshape((*data.shape[:-1], *cols))

    def __reduce__(self) -> "tuple[Any, ...]":
        return _restored, (self.name, self.shape, self.type_id, self.type_name, self.data, self.parameters)

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


class Transposed:
    """A matrix whose rows are the columns of a QuantizedTensor: the right side of ``x @ tensor.T``."""

    __array_ufunc__ = None  # so that NumPy leaves the product to __rmatmul__

    def __init__(self, tensor: QuantizedTensor) -> None:
        self.T: QuantizedTensor = tensor
        self.shape: tuple[int, ...] = tensor.shape[::-1]

    def __rmatmul__(self, x: "ArrayLike") -> "NDArray[np.float32]":
        return matmul(x, self.T)

    def __array__(self, dtype: "DTypeLike | None" = None, copy: bool | None = None) -> "NDArray[Any]":
        return self.T.__array__(dtype, copy).T

    def __repr__(self) -> str:
        return f"<transposed {self.T!r}>"


def _restored(
    name: str,
    shape: tuple[int, ...],
    type_id: int,
    type_name: str,
    data: "NDArray[np.uint8]",
    parameters: "Fitted | None",
) -> QuantizedTensor:
    """Make a tensor from what was pickled. Its type may be unknown here."""
    tensor = QuantizedTensor.__new__(QuantizedTensor)
    tensor._set(name, shape, type_id, type_name, data, data.nbytes)
    if parameters is not None:
        tensor._read = lambda: parameters
    return tensor
