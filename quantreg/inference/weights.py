"""The tensors of a model, as the forward pass uses them: products with matrices, and small tensors decoded."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from quantreg.devices import CPU, Device
from quantreg.errors import ModelError
from quantreg.inference.passes import Pass
from quantreg.registry import types
from quantreg.tensor import QuantizedTensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Weights"]


class Weights:
    """The tensors of a model by name. Matrices stay encoded; small tensors are decoded once and kept.

    ``device`` computes the products;     ``used`` holds the names of those that were asked for.
    """

    tensors: Mapping[str, QuantizedTensor]

    def __init__(self, tensors: Mapping[str, QuantizedTensor], device: Device = CPU) -> None:
        self.tensors, self._device = tensors, device
        self._names = frozenset(tensors)
        self._kept: dict[str, QuantizedTensor] = {}  # a file makes a new one each time, which takes as long as a norm
        self._small: dict[str, NDArray[np.float32]] = {}
        self._scales: dict[str, NDArray[np.float32] | None] = {}
        self.used: set[str] = set()

    def close(self) -> None:
        """Let go of the tensors, which keep their file mapped."""
        self._kept.clear()

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> QuantizedTensor:
        found = self._kept.get(name)
        if found is not None:
            return found
        self.used.add(name)
        try:
            found = self._kept[name] = self.tensors[name]
            return found
        except KeyError:
            raise ModelError(
                f"the tensor {name} is missing: the file is incomplete, or a variant of its architecture that quantreg "
                "does not compute"
            ) from None

    def small(self, name: str, *shape: int) -> "NDArray[np.float32]":
        """A tensor decoded as float32, such as a norm or a bias. Raises ModelError if it has another shape."""
        found = self._small.get(name)
        if found is None:
            found = self._small[name] = self[name].dequantize()
        if shape and found.shape != shape:
            outer = len(found.shape) - len(shape)
            if outer > 0 and found.shape == (1,) * outer + shape:  # in GGUF it is the same tensor
                return found.reshape(shape)
            raise ModelError(f"the tensor {name} has shape {found.shape}: expected {shape}")
        return found

    def rows(self, name: str, ids: "NDArray[np.intp]", run: Pass, cols: int) -> "NDArray[np.float32]":
        """Rows of a matrix, decoded: float32 (len(ids), cols)."""
        tensor = self[name]
        if len(tensor.shape) != 2 or tensor.shape[1] != cols:
            raise ModelError(f"the tensor {name} has shape {tensor.shape}: expected rows of {cols} values")
        if ids.size and ids.max() >= tensor.shape[0]:
            raise ModelError(f"the tensor {name} has {tensor.shape[0]} rows: there is none with number {ids.max()}")
        if run.dry:
            return np.zeros((len(ids), cols), np.float32)
        distinct, places = np.unique(ids, return_inverse=True)
        decoded = np.empty((len(distinct), cols), np.float32)
        for first in range(0, len(distinct), 256):
            part = distinct[first : first + 256]
            data = QuantizedTensor(name, (len(part), cols), tensor.type_id, tensor.data[part], tensor.parameters)
            decoded[first : first + 256] = data.dequantize()
        return decoded[places]

    def multiply(
        self,
        name: str,
        x: "NDArray[np.float32]",
        run: Pass,
        rows: int | None = None,
        experts: "NDArray[np.intp] | None" = None,
        scaled: bool = True,
        count: int | None = None,
    ) -> "NDArray[np.float32]":
        """Multiply activations (..., cols) by a matrix (rows, cols), or by the chosen ones of (count, rows, cols).

        ``experts`` has the shape x.shape[:-1] or x.shape[:-1] + (k,). If the matrix has a scale, a tensor NAME.scale as
        in models of NVFP4, the product is multiplied by it; ``scaled=False`` leaves such a tensor alone. Raises
        ModelError if the tensor has not the shape that the graph asks for.
        """
        tensor = self[name]
        if len(tensor.shape) != (2 if experts is None else 3) or tensor.shape[-1] != x.shape[-1]:
            stack = "" if experts is None else "experts, "
            raise ModelError(
                f"the tensor {name} has shape {tensor.shape}: expected ({stack}{rows or 'rows'}, {x.shape[-1]})"
            )
        if rows is not None and tensor.shape[-2] != rows:
            raise ModelError(f"the tensor {name} has {tensor.shape[-2]} rows: expected {rows}")
        if count is not None and tensor.shape[0] != count:
            raise ModelError(f"the tensor {name} holds {tensor.shape[0]} matrices: expected {count}, as the model says")
        scale = self._scale(name, 1 if experts is None else tensor.shape[0]) if scaled else None
        if run.observe is not None:
            run.observe(name, x, experts)
        if run.dry:
            return np.zeros((*(x.shape[:-1] if experts is None else experts.shape), tensor.shape[-2]), np.float32)
        y = self._device.multiply(x, tensor, experts, run.threads)
        if scale is not None:
            y *= scale if experts is None else scale[experts][..., None]
        return y

    def _scale(self, name: str, count: int) -> "NDArray[np.float32] | None":
        """The scale of a matrix or of each expert; None if there is none or if the type of the matrix reads it."""
        if name not in self._scales:
            scale = f"{name.removesuffix('.weight')}.scale"
            own = scale not in self.tensors or scale in self.parameters(name)
            self._scales[name] = None if own else self.small(scale, count)
        return self._scales[name]

    def parameters(self, name: str) -> set[str]:
        """The names of the tensors beside a tensor that its type reads in order to decode it, such as NVFP4's scale."""
        tensor = self.tensors[name]
        found = types.get(tensor.type_id)
        if found is None or tensor.parameters is None:
            return set()
        return self.tensors.keys() & found.stored_names(name, tensor.shape).values()

    def multiply_each(self, name: str, x: "NDArray[np.float32]", run: Pass, rows: int) -> "NDArray[np.float32]":
        """Multiply x[:, i], of activations (rows of x, n, cols), by matrix i of a stack (n, rows, cols).

        Raises ModelError if the tensor has another shape. To observers these are no experts, but one wide matrix.
        """
        tensor, shape = self[name], (x.shape[1], rows, x.shape[2])
        if tensor.shape != shape:
            raise ModelError(f"the tensor {name} has shape {tensor.shape}: expected {shape}")
        if run.observe is not None:
            run.observe(name, x, None)
        if run.dry:
            return np.zeros((*x.shape[:2], rows), np.float32)
        each = np.broadcast_to(np.arange(x.shape[1]), x.shape[:2])
        return self._device.multiply(x, tensor, each, run.threads)
