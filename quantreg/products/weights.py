"""The weights of a product, and what depends on them only, which is worked out once for each tensor."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from quantreg.errors import ShapeError
from quantreg.registry import registry, types

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from quantreg.codec import RowCodec
    from quantreg.dispatch import TypeKey
    from quantreg.parameters import Fitted
    from quantreg.qtype import QuantType

__all__ = ["Pair", "Prepared", "Weights", "prepared"]


class Weights(Protocol):
    """What `matmul` needs of weights; a QuantizedTensor has it."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type_id(self) -> int: ...
    @property
    def data(self) -> "NDArray[np.uint8]": ...
    @property
    def parameters(self) -> "Fitted | None": ...


class Pair:
    """Encoded rows and their type, in the shape of a QuantizedTensor."""

    name = "w"
    parameters = None
    type_id: int

    def __init__(self, data: "ArrayLike", type: "TypeKey") -> None:
        qtype = types[type]
        self.type_id = qtype.type_id
        self.data: NDArray[np.uint8] = np.asarray(data)
        if self.data.dtype != np.uint8 or not self.data.ndim:
            raise ShapeError(f"w is {self.data.dtype} of shape {self.data.shape}: pass what quantreg.quantize returns")
        self.shape: tuple[int, ...] = (*self.data.shape[:-1], qtype.row_weights(self.data.shape[-1]))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Weights as a product reads them.

    - ``source``: the array that they were prepared from.
    - ``data``: uint8 (matrices, rows, bytes per row).
    - ``floats``: the same memory as float32 (matrices, rows, cols), for plain numbers; else None.
    - ``codec``: the codec of every matrix, or None if each has its own.
    """

    source: "NDArray[np.uint8]"
    shape: tuple[int, ...]
    qtype: "QuantType"
    parameters: "Fitted | None"
    codec: "RowCodec | None"
    data: "NDArray[np.uint8]"
    floats: "NDArray[np.float32] | None"


def prepared(w: Weights) -> Prepared:
    """Prepare weights. A tensor with room for the result, an attribute ``_prepared``, keeps it."""
    known: Prepared | None = getattr(w, "_prepared", None)
    qtype = registry.get(w.type_id)
    if known is not None and known.source is w.data and known.shape == w.shape and known.qtype is qtype:
        return known
    parameters = w.parameters
    data = w.data.reshape(-1, w.shape[-2], w.data.shape[-1])
    floats = None
    if qtype.name == "F32" and sys.byteorder == "little" and data.flags.c_contiguous:
        floats = data.view(np.float32)
        floats = floats if floats.flags.aligned else None
    codec = None if qtype.by_matrix else qtype.codec_for(parameters)
    found = Prepared(w.data, w.shape, qtype, parameters, codec, data, floats)
    if hasattr(w, "_prepared"):
        w._prepared = found
    return found
