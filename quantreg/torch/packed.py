"""Packed: a module that holds the bytes of a quantized matrix. The layers that use it may share one."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from quantreg.arrays import as_array
from quantreg.dispatch import quantize
from quantreg.errors import ShapeError
from quantreg.fitting import fit
from quantreg.parameters import TensorContext
from quantreg.registry import registry, types
from quantreg.torch.encoded import Encoded
from quantreg.torch.lazy import GGUFTensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from quantreg.dispatch import TypeKey
    from quantreg.parameters import Fitted
    from quantreg.qtype import QuantType
    from quantreg.tensor import QuantizedTensor

__all__ = ["Packed", "encode"]

PART_WEIGHTS = 1 << 24  # weights that are encoded at a time: 64 MiB of float32


class Packed(torch.nn.Module):
    """The bytes of a quantized matrix, (rows, bytes per row), in a buffer, so that they move and are saved as any.

    - ``bytes``: the buffer, uint8.
    - ``type_id``: a buffer with the number of the type, so that the bytes of another type are not taken for these.
    - ``qtype``, ``shape``, ``name``: what the bytes mean. ``name`` is that of the tensor, which some codecs ask for.

    What the type fitted to the matrix is in one buffer of bytes for each parameter, so that ``half()`` leaves it alone.
    """

    bytes: torch.Tensor
    type_id: torch.Tensor
    like: torch.Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        type: "TypeKey",
        *,
        name: str = "weight",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.qtype: QuantType = registry.get(type)
        self.shape: tuple[int, int] = shape
        self.name: str = name
        self._encoded: tuple[tuple[Any, ...], Encoded] | None = None
        row_bytes = self.qtype.row_bytes(shape[1])
        self.register_buffer("bytes", torch.empty((shape[0], row_bytes), dtype=torch.uint8, device=device))
        self.register_buffer("type_id", torch.tensor(self.qtype.type_id, dtype=torch.int32, device=device))
        # The dtype of the module follows half() and to(), as that of nn.Linear does.
        like = torch.empty(0, dtype=dtype or torch.get_default_dtype(), device=device)
        self.register_buffer("like", like, persistent=False)
        self._sizes: dict[str, tuple[int, ...]] = {}
        if self.qtype.parameters is not None and self.qtype.parameters.required:
            self._sizes = self.qtype.parameters.shapes_for(TensorContext(name, shape))
        for parameter, size in self._sizes.items():
            room = torch.zeros(4 * math.prod(size), dtype=torch.uint8, device=device)
            self.register_buffer(f"fitted_{parameter}", room)

    @classmethod
    def of(cls, encoded: Encoded, dtype: torch.dtype | None = None) -> "Packed":
        """Hold the bytes of a matrix, shared and not copied."""
        if len(encoded.shape) != 2:
            raise ShapeError(f"{encoded.name} has shape {encoded.shape}: expected a matrix, (rows, cols)")
        rows, cols = encoded.shape
        made = cls((rows, cols), encoded.type_id, name=encoded.name, device="meta", dtype=dtype)
        device = encoded.bytes.device
        made.bytes = encoded.bytes
        made.type_id = torch.tensor(made.qtype.type_id, dtype=torch.int32, device=device)
        made.like = torch.empty(0, dtype=made.like.dtype, device=device)
        parameters = encoded.parameters or {}
        made._sizes = {}
        for name, values in parameters.items():
            made._sizes[name] = values.shape
            stored = torch.from_numpy(np.array(values, np.float32).reshape(-1).view(np.uint8))
            made.register_buffer(f"fitted_{name}", stored.to(device))
        return made

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the decoded matrix has."""
        return self.like.dtype

    @property
    def encoded(self) -> Encoded:
        """The bytes with their meaning. What products keep about them is kept until the buffers change."""
        names = [f"fitted_{name}" for name in self._sizes]
        buffers = [self.bytes, *(self.get_buffer(name) for name in names)]
        key = tuple((b.data_ptr(), b.device, 0 if b.is_inference() else b._version) for b in buffers)
        if self._encoded is None or self._encoded[0] != key:
            parameters: dict[str, NDArray[np.float32]] | None = None
            if names:
                stored = (b.cpu().numpy().copy().view(np.float32) for b in buffers[1:])
                sizes = self._sizes.items()
                parameters = {name: v.reshape(size) for (name, size), v in zip(sizes, stored, strict=True)}
            qtype = self.qtype
            made = Encoded(self.name, self.shape, qtype.type_id, qtype.name, self.bytes.detach(), parameters)
            self._encoded = (key, made)
        return self._encoded[1]

    def decoded(self) -> GGUFTensor:
        """The matrix as a tensor that is decoded when it is used."""
        return GGUFTensor(self.encoded, self.dtype)

    def extra_repr(self) -> str:
        """The type, its size and the shape."""
        return f"{self.qtype.name}, {self.encoded.bits:.4g} bits per weight, {self.shape}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoded": None}

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: Any, unexpected_keys: Any,
        error_msgs: list[str],
    ) -> None:  # fmt: skip
        given = state_dict.get(prefix + "type_id")
        if given is not None and given.device.type != "meta" and int(given) != self.qtype.type_id:
            error_msgs.append(
                f"{prefix}bytes holds {_name_of(int(given))}, but the module is of {self.qtype.name}: build the model "
                "with the types that the state dict was saved with"
            )
            return
        if self.qtype.parameters is not None:  # some types are encoded with parameters or without
            sizes = self.qtype.parameters.shapes_for(TensorContext(self.name, self.shape))
            self._sizes = {name: size for name, size in sizes.items() if f"{prefix}fitted_{name}" in state_dict}
            if self.qtype.parameters.required:
                self._sizes = sizes
            for parameter, size in self._sizes.items():
                if not hasattr(self, f"fitted_{parameter}"):
                    room = torch.zeros(4 * math.prod(size), dtype=torch.uint8, device=self.bytes.device)
                    self.register_buffer(f"fitted_{parameter}", room)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _name_of(type_id: int) -> str:
    qtype = types.get(type_id)
    return f"type {type_id}" if qtype is None else qtype.name


def encode(
    weight: torch.Tensor, type: "TypeKey", importance: "ArrayLike | None" = None, *, name: str = "weight"
) -> Encoded:
    """Quantize a matrix of torch, in parts, so that it does not need a float32 copy. The bytes go to its device.

    Raises what `quantreg.quantize` raises, and ShapeError for a tensor on the meta device.
    """
    qtype = registry.get(type)
    if weight.device.type == "meta":
        raise ShapeError(f"{name} is on the meta device, where tensors have no values: load its weights first")
    source = weight.detach()
    rows, cols = source.shape
    row_bytes = qtype.row_bytes(cols)
    parameters: Fitted | None = None
    if isinstance(weight, GGUFTensor):
        source = weight.dequantize()
    columns = None if importance is None else as_array(importance, f"importance of {name}")
    if qtype.by_matrix or (columns is not None and columns.ndim > 1):
        array = as_array(source.cpu(), name)
        parameters = fit(array, qtype, columns, tensor=name) or None
        data = quantize(array, qtype, columns, tensor=name, parameters=parameters)
        out = torch.from_numpy(data)
    else:
        out = torch.empty((rows, row_bytes), dtype=torch.uint8, device="cpu")
        step = max(1, PART_WEIGHTS // max(1, cols))
        for first in range(0, rows, step):
            part = as_array(source[first : first + step].cpu(), name)
            out[first : first + step] = torch.from_numpy(quantize(part, qtype, columns, tensor=name))
    return Encoded(name, (rows, cols), qtype.type_id, qtype.name, out.to(weight.device), parameters)


def packed_of(tensor: "QuantizedTensor | GGUFTensor", dtype: torch.dtype | None) -> Packed:
    """Hold the bytes of a tensor, shared where they may be written to."""
    return Packed.of(tensor.encoded if isinstance(tensor, GGUFTensor) else Encoded.of(tensor), dtype)
