"""Decode quantized tensors to torch tensors of any dtype, on any device, slab by slab."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from quantreg.dispatch import decode_slab, rows_per_slab
from quantreg.errors import ShapeError
from quantreg.parameters import TensorContext
from quantreg.products import crew
from quantreg.registry import registry
from quantreg.torch.encoded import plain_dtype, torch_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.products.weights import Weights
    from quantreg.qtype import QuantType
    from quantreg.tensor import QuantizedTensor
    from quantreg.torch.lazy import GGUFTensor

__all__ = ["Rows", "decode_into", "dequantize"]

SLAB_WEIGHTS = 1 << 20  # per thread, where values stay as they are decoded
ROOM_WEIGHTS = 1 << 17  # per thread, where they are converted: 512 KiB of float32, which stay in the cache


def dequantize(
    tensor: "GGUFTensor | QuantizedTensor | Weights",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | int | None = None,
    out: torch.Tensor | None = None,
    *,
    saturate: bool = False,
) -> torch.Tensor:
    """Decode a tensor to a dtype and a device, and return a torch tensor of its shape.

    - ``tensor``: a `GGUFTensor` or a `quantreg.QuantizedTensor`.
    - ``dtype``: a floating-point dtype, such as bfloat16, float16, float8_e4m3fn or float8_e5m2; for a type that stores
      integers also an integer dtype. Ignored if ``out`` is given.
    - ``device``: of the result; by default the CPU, or that of ``out``.
    - ``out``: a tensor of this shape, of such a dtype and any strides, to fill and return.
    - ``saturate``: replace values beyond the range of the dtype by its largest finite ones.

    Values are decoded to float32, and torch rounds them to the dtype, to the nearest and ties to even. Without
    ``saturate``, a value beyond the range of float16 or float8_e5m2 becomes infinite; float8_e4m3fn has no infinity, so
    it becomes 448 or, in older versions of torch, NaN. bfloat16 has the range of float32. Float64 and integers are not
    rounded on the way to their own dtype.

    Only a slab of 512 KiB for each thread is decoded at a time, beside the result. torch.set_num_threads limits the
    threads. Raises ShapeError for an ``out`` or dtype that does not fit, UnknownTypeError if no plugin provides the
    type, and CodecError if the file lacks parameters that the type needs.
    """
    weights: Weights = tensor.encoded if hasattr(tensor, "encoded") else tensor
    if not hasattr(weights, "type_id"):
        raise TypeError(
            f"tensor is a {type(tensor).__name__}: pass a quantreg.QuantizedTensor or what quantreg.torch.from_gguf "
            "returns; a plain torch tensor has nothing to decode"
        )
    if out is None:
        out = torch.empty(weights.shape, dtype=dtype, device="cpu" if device is None else device)
    elif out.shape != weights.shape:
        raise ShapeError(
            f"out has shape {tuple(out.shape)}, but {weights.name} decodes to {weights.shape}: pass a tensor of that "
            "shape"
        )
    elif device is not None and out.device.type != torch.device(device).type:
        raise ShapeError(f"out is on the device {out.device}, but device is {device}: leave one of them out")
    with torch.no_grad():
        decode_into(out, weights, saturate=saturate)
    return out


def decode_into(out: torch.Tensor, weights: "Weights", *, saturate: bool = False) -> None:
    """Fill a tensor of the same shape, on any device, with the decoded values. Raises what `dequantize` raises."""
    qtype = registry.get(weights.type_id)
    plain = plain_dtype(qtype.name)
    whole = plain is not None and not plain.is_floating_point
    if not (out.dtype.is_floating_point or out.dtype.is_complex or (whole and out.dtype != torch.bool)):
        raise ShapeError(
            f"{out.dtype} cannot hold the values of {qtype.name}: decode to torch.float32, and convert the result if "
            "needed"
        )
    if not out.numel() or out.device.type == "meta":
        return
    cols = weights.shape[-1] if weights.shape else 1
    threads = torch.get_num_threads()
    step = max(1, rows_per_slab(cols, SLAB_WEIGHTS) * threads)
    if plain is not None:
        stored = torch_view(weights.data.reshape(-1))
        if stored.data_ptr() % plain.itemsize:
            stored = stored.clone()  # a file may place tensors at any byte
        values = stored.view(plain).reshape(-1, cols)
        for first, target in _matrices(out, cols):
            for start in range(0, len(target), step):
                part = target[start : start + step]
                _put(part, values[first + start : first + start + len(part)], saturate)
        return
    rows = Rows(weights)
    if out.dtype == torch.float32 and out.device.type == "cpu" and out.is_contiguous():
        rows.decode(0, rows.count, out.detach().numpy().reshape(-1, cols), threads)
        return
    step = max(1, rows_per_slab(cols, min(SLAB_WEIGHTS, ROOM_WEIGHTS)) * threads)
    room = torch.empty((min(step, rows.count), cols), dtype=torch.float32, device="cpu")
    for first, target in _matrices(out, cols):
        for start in range(0, len(target), step):
            part = target[start : start + step]
            slab = room[: len(part)]
            rows.decode(first + start, first + start + len(part), slab.numpy(), threads)
            _put(part, slab, saturate)


def _put(out: torch.Tensor, values: torch.Tensor, saturate: bool) -> None:
    if saturate and out.dtype.is_floating_point and values.dtype.is_floating_point:
        most = torch.finfo(out.dtype).max
        values = values.clamp(-most, most)
    out.copy_(values)


def _matrices(out: torch.Tensor, cols: int) -> "list[tuple[int, torch.Tensor]]":
    """The number of the first row and the rows, (rows, cols), of each part of a tensor that can be viewed as a matrix.

    That is one part, unless the strides of the leading axes do not merge.
    """
    try:
        return [(0, out.view(-1, cols))]
    except RuntimeError:
        if out.ndim == 1:
            return [(0, out.unsqueeze(0))]
        n = out.shape[-2]
        return [(i * n, out[at]) for i, at in enumerate(np.ndindex(*out.shape[:-2]))]


class Rows:
    """Decodes ranges of the rows of a tensor, counted over all its leading axes.

    Raises UnknownTypeError if no plugin provides the type, and CodecError if it needs parameters that the file lacks.
    """

    def __init__(self, weights: "Weights") -> None:
        shape = weights.shape
        self.name: str = weights.name
        self.qtype: QuantType = registry.get(weights.type_id)
        self.count: int = math.prod(shape[:-1])
        self.cols: int = shape[-1] if shape else 1
        self._data: NDArray[np.uint8] = weights.data.reshape(self.count, -1) if self.count else weights.data
        by_matrix = self.qtype.by_matrix and len(shape) > 1
        self._per_matrix = max(1, shape[-2] if by_matrix else self.count)
        if self.qtype.by_matrix:
            self._codecs = [
                self.qtype.codec_for(weights.parameters, TensorContext(weights.name, shape, expert=i))
                for i in range(-(-self.count // self._per_matrix))
            ]
        else:
            self._codecs = [self.qtype.codec_for(None)]

    def decode(self, first: int, last: int, out: "NDArray[np.float32]", threads: int = 1) -> None:
        """Decode the rows from ``first`` to ``last`` into out, float32 (rows, cols), in up to so many threads."""
        if out.size == 0:
            return
        step = min(rows_per_slab(self.cols, SLAB_WEIGHTS), max(1, -(-(last - first) // max(1, threads))))
        items = []
        start = first
        while start < last:
            matrix = start // self._per_matrix
            end = min(start + step, last, (matrix + 1) * self._per_matrix)
            items.append((matrix, start, end))
            start = end

        def work(item: tuple[int, int, int]) -> None:
            matrix, a, b = item
            slab = np.ascontiguousarray(self._data[a:b])
            decode_slab(self.qtype, self._codecs[matrix], slab, out[a - first : b - first], tensor=self.name)

        crew.run(work, items, threads)
