"""The bytes of a tensor as torch holds them, with what gives them a meaning."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from quantreg.ggml import PLAIN_TYPES
from quantreg.registry import find_layout, registry
from quantreg.tensor import QuantizedTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from quantreg.parameters import Fitted
    from quantreg.products.weights import Prepared

__all__ = ["Encoded", "own_dtype", "plain_dtype", "restored", "torch_view"]


def plain_dtype(type_name: str) -> torch.dtype | None:
    """The dtype of torch that stores a type as it is, or None for a type that must be decoded."""
    name = PLAIN_TYPES.get(type_name)
    return None if name is None else getattr(torch, name)


def own_dtype(type_name: str) -> torch.dtype:
    """The dtype that holds the values of a type: that of plain numbers, else float32."""
    return plain_dtype(type_name) or torch.float32


class _Unprotected:
    """Memory of an array that NumPy protects, for code that only reads it: torch warns about arrays like that."""

    def __init__(self, array: "NDArray[np.uint8]") -> None:
        self.array = array  # keeps the memory
        self.__array_interface__ = {
            "data": (array.__array_interface__["data"][0], False),
            "shape": array.shape,
            "typestr": array.dtype.str,
            "version": 3,
        }


def torch_view(data: "NDArray[np.uint8]") -> torch.Tensor:
    """The bytes of an array as a torch tensor on the same memory, which must only be read if the array is read-only."""
    data = np.ascontiguousarray(data)
    if not data.size:
        return torch.empty(data.shape, dtype=torch.uint8, device="cpu")
    return torch.from_numpy(data if data.flags.writeable else np.asarray(_Unprotected(data)))


class Encoded:
    """The bytes of a tensor: what `quantreg.matmul` needs of weights, with the bytes in a torch tensor.

    - ``bytes``: uint8 of shape ``shape[:-1] + (bytes per row,)`` on any device; flat for a type that no plugin knows.
    - ``name``, ``shape``, ``type_id``, ``type_name``, ``parameters``: those of a `QuantizedTensor`.
    """

    __slots__ = ("_data", "_parameters", "_prepared", "bytes", "name", "planes", "shape", "type_id", "type_name")

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str
    bytes: torch.Tensor
    _parameters: "Fitted | Callable[[], Fitted | None] | None"
    _data: "NDArray[np.uint8] | None"
    _prepared: "Prepared | None"
    planes: object  # what decodes it on its device: see quantreg.torch.planes

    def __init__(
        self, name: str, shape: tuple[int, ...], type_id: int, type_name: str, bytes: torch.Tensor,
        parameters: "Fitted | Callable[[], Fitted | None] | None" = None,
    ) -> None:  # fmt: skip
        self.name, self.shape, self.type_id, self.type_name = name, tuple(shape), type_id, type_name
        self.bytes, self._parameters = bytes, parameters
        self._data = None
        self._prepared = None  # what products keep about the weights
        self.planes = None

    @classmethod
    def of(cls, tensor: QuantizedTensor) -> "Encoded":
        """The bytes of a QuantizedTensor, shared with it; copied if they may not be written to, as in a mapped file."""
        data = tensor.data if tensor.data.flags.writeable else tensor.data.copy()
        return cls(tensor.name, tensor.shape, tensor.type_id, tensor.type_name, torch_view(data), tensor.parameters)

    @property
    def parameters(self) -> "Fitted | None":
        """The parameters that the type fitted to the tensor. Raises CodecError if it needs them and the file has none.

        A function that was given for them is called when they are needed.
        """
        parameters = self._parameters  # read once: another thread may put what it returns there at any time
        if callable(parameters):
            parameters = self._parameters = parameters()
        return parameters

    @property
    def data(self) -> "NDArray[np.uint8]":
        """The bytes as a NumPy array: on the same memory, or copied once from another device."""
        if self._data is None:
            self._data = self.bytes.detach().cpu().numpy()
        return self._data

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.bytes.numel()

    @property
    def bits(self) -> float:
        """Bits per weight, or 0 for an empty tensor."""
        size = math.prod(self.shape)
        return self.nbytes * 8 / size if size else 0.0

    def quantized(self) -> QuantizedTensor:
        """A QuantizedTensor on the same memory. Raises UnknownTypeError for a type that no plugin provides."""
        return QuantizedTensor(self.name, self.shape, self.type_id, self.data, self.parameters)

    def clone(self) -> "Encoded":
        """A copy with bytes of its own."""
        return Encoded(self.name, self.shape, self.type_id, self.type_name, self.bytes.clone(), self.parameters)

    def rows(self, key: "NDArray[np.intp] | slice") -> "Encoded | None":
        """Some rows of the first axis, encoded, or None if rows cannot be decoded on their own."""
        if len(self.shape) < 2 or registry.get(self.type_id).by_matrix:
            return None
        data = self.data[key]
        return Encoded(
            self.name, (len(data), *self.shape[1:]), self.type_id, self.type_name, torch_view(data), self.parameters
        )

    def __reduce__(self) -> tuple[object, ...]:
        parameters = self.parameters
        kept = None if parameters is None else {k: torch.from_numpy(np.array(v)) for k, v in parameters.items()}
        return restored, (self.name, tuple(self.shape), self.type_name, self.bytes, kept)


def restored(
    name: str, shape: tuple[int, ...], type_name: str, bytes: torch.Tensor, parameters: dict[str, torch.Tensor] | None
) -> Encoded:
    """Make what was pickled. Raises UnknownTypeError if no plugin provides the type here."""
    type_id, layout = find_layout(type_name)
    kept = None if parameters is None else {name: values.numpy() for name, values in parameters.items()}
    return Encoded(name, shape, type_id, layout.name, bytes, kept)
