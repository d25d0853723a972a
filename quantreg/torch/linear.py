"""QuantLinear: nn.Linear on weights that stay quantized."""

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear as float_linear

from quantreg.errors import ShapeError
from quantreg.products import matmul
from quantreg.torch.decode import Rows, dequantize
from quantreg.torch.packed import Packed, encode, packed_of
from quantreg.torch.planes import planes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from numpy.typing import ArrayLike

    from quantreg.dispatch import TypeKey
    from quantreg.tensor import QuantizedTensor
    from quantreg.torch.lazy import GGUFTensor

__all__ = ["QuantLinear"]

DEVICE_TILE = 1 << 25  # weights that another device decodes at a time: 128 MiB of float32
TILE_WEIGHTS = 1 << 22  # weights that the backward pass decodes at a time: 16 MiB
_SUMMED_IN_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16)


class QuantLinear(torch.nn.Module):
    """A linear layer whose weights are the bytes of a GGUF tensor: ``x @ weight.T + bias``.

    On the CPU the layer multiplies with `quantreg.matmul`, which reads the bytes as they are. On another device it
    decodes its weights for each call, to the dtype of the activations, and forgets them afterwards: there, if the type
    has a code for each weight, else on the CPU. Products are those of torch there, with its settings.

    Activations have the shape (..., in_features) and any floating-point dtype, and the result has the same dtype. Sums
    are float32 (float64 for float64 activations). Under torch.autocast the dtype is that of autocast. The weights are
    frozen: gradients reach the activations and the bias, so adapters such as LoRA can be trained on top.

    - ``packed``: the module with the bytes, which tied layers share. It moves, pickles and is saved as any module; its
      buffers are uint8, so ``half()`` and ``to(torch.bfloat16)`` leave them alone.
    - ``weight``: the decoded weights, as a `GGUFTensor`, which decodes when it is used. It cannot be assigned.
    - ``bias``: a parameter, or None.

    `from_linear` quantizes a layer and `from_quantized` takes bytes. The constructor makes a layer without values, for
    `load_state_dict`; its arguments are those of nn.Linear, with the type (name, id or QuantType) after the sizes, and
    ``name``, the name of the tensor, for codecs that ask for it. Raises UnknownTypeError, and ShapeError if in_features
    is not a multiple of the block size.
    """

    bias: torch.nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        type: "TypeKey",
        bias: bool = True,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        name: str = "weight",
    ) -> None:
        super().__init__()
        self.in_features: int = in_features
        self.out_features: int = out_features
        self.packed: Packed = Packed((out_features, in_features), type, name=name, device=device, dtype=dtype)
        made = torch.nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", made)

    @classmethod
    def from_linear(
        cls,
        linear: torch.nn.Linear,
        type: "TypeKey",
        importance: "ArrayLike | None" = None,
        *,
        name: str = "weight",
    ) -> "Self":
        """Quantize the weights of a linear layer. The bias, if any, is shared with it.

        ``importance`` is that of `quantreg.quantize`: statistics of the columns, of shape (in_features,), for example.
        Raises what `quantreg.quantize` raises.
        """
        packed = Packed.of(encode(linear.weight, type, importance, name=name), linear.weight.dtype)
        return cls.from_packed(packed, linear.bias)

    @classmethod
    def from_quantized(
        cls,
        tensor: "QuantizedTensor | GGUFTensor",
        bias: torch.Tensor | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> "Self":
        """Make a layer on the bytes of a matrix (out_features, in_features), from a file for example.

        The bytes of a `GGUFTensor` are shared, and so are those of a QuantizedTensor that may be written to. ``dtype``
        is that of ``weight``, by default torch's default dtype. Raises ShapeError for what is not a matrix.
        """
        return cls.from_packed(packed_of(tensor, dtype), bias)

    @classmethod
    def from_packed(cls, packed: Packed, bias: torch.Tensor | None = None) -> "Self":
        """Make a layer on a module of bytes, which it shares, and a bias of shape (out_features,), or None."""
        out_features, in_features = packed.shape
        made = cls.__new__(cls)
        torch.nn.Module.__init__(made)
        made.in_features, made.out_features, made.packed = in_features, out_features, packed
        if bias is not None and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        if bias is not None and bias.shape != (out_features,):
            raise ShapeError(f"the bias has shape {tuple(bias.shape)}: expected ({out_features},)")
        made.register_parameter("bias", bias)
        return made

    @property
    def weight(self) -> "GGUFTensor":
        """The weights, (out_features, in_features), decoded when they are used."""
        return self.packed.decoded()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply activations of shape (..., in_features): the result has the shape (..., out_features).

        Raises ShapeError for another shape, and TypeError for activations that are not floating-point.
        """
        if x.shape[-1:] != (self.in_features,):
            raise ShapeError(
                f"x has shape {tuple(x.shape)}, but the layer takes {self.in_features} features: expected "
                f"(..., {self.in_features})"
            )
        if not x.dtype.is_floating_point:
            raise TypeError(f"x is {x.dtype}: convert it to a floating-point dtype, such as torch.float32")
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(kind))
        wants_gradient = x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if wants_gradient and torch.is_grad_enabled():
            found: torch.Tensor = _Product.apply(x, self.bias, self.packed)
            return found
        return _multiplied(x, self.bias, self.packed)

    def extra_repr(self) -> str:
        """The sizes, the type and its bits per weight."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, type={self.packed.qtype.name}, "
            f"bits_per_weight={self.packed.qtype.bits_per_weight:.4g}, bias={self.bias is not None}"
        )


class _Product(torch.autograd.Function):
    """The product with its gradients for the activations and the bias, for which the weights are decoded again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, packed: Packed) -> torch.Tensor:
        ctx.packed, ctx.dtype = packed, x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _multiplied(x, bias, packed)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        of_x = _multiplied_back(gradient, ctx.packed) if ctx.needs_input_grad[0] else None
        of_bias = None
        if ctx.needs_input_grad[1]:
            of_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return of_x, of_bias, None


def _on_cpu(x: torch.Tensor, packed: Packed) -> bool:
    return x.device.type == "cpu" and packed.bytes.device.type == "cpu" and x.dtype in _SUMMED_IN_FLOAT32


def _multiplied(x: torch.Tensor, bias: torch.Tensor | None, packed: Packed) -> torch.Tensor:
    if not _on_cpu(x, packed):
        tiles = []
        for place, weight in _tiles(packed, x.dtype):
            tiles.append(float_linear(x, weight, None if bias is None else bias[place].to(x.dtype)))
        return tiles[0] if len(tiles) == 1 else torch.cat(tiles, -1)
    rows = x.detach().to(torch.float32).contiguous()
    out = torch.empty((*x.shape[:-1], packed.shape[0]), dtype=torch.float32, device="cpu")
    matmul(rows.numpy(), packed.encoded, out=out.numpy(), threads=torch.get_num_threads())
    if bias is not None:
        out += bias.detach()
    return out.to(x.dtype)


def _tiles(packed: Packed, dtype: torch.dtype) -> "Iterator[tuple[slice[int, int, None], torch.Tensor]]":
    """Yield rows of the decoded matrix, on its device, with their places: parts that need little memory, or all."""
    encoded, (n_rows, cols) = packed.encoded, packed.shape
    planes = planes_of(encoded) if dtype in _SUMMED_IN_FLOAT32 else None
    if planes is None:
        yield slice(0, n_rows), dequantize(encoded, dtype, packed.bytes.device)
        return
    step = max(1, DEVICE_TILE // max(1, cols))
    for first in range(0, n_rows, step):
        last = min(first + step, n_rows)
        yield slice(first, last), planes.span(packed.bytes, first, last, dtype)


def _multiplied_back(gradient: torch.Tensor, packed: Packed) -> torch.Tensor:
    """``gradient @ weight``, in the dtype of the gradient."""
    if not _on_cpu(gradient, packed):
        total: torch.Tensor | None = None
        for place, weight in _tiles(packed, gradient.dtype):
            part = gradient[..., place] @ weight
            total = part if total is None else total.to(torch.promote_types(part.dtype, torch.float32)) + part
        assert total is not None
        return total.to(gradient.dtype)
    n_rows, cols = packed.shape
    flat = gradient.detach().reshape(-1, n_rows).to(torch.float32)
    out = torch.zeros((len(flat), cols), dtype=torch.float32, device="cpu")
    rows = Rows(packed.encoded)
    step = max(1, TILE_WEIGHTS // max(1, cols))
    tile = torch.empty((min(step, n_rows), cols), dtype=torch.float32, device="cpu")
    for first in range(0, n_rows, step):
        part = tile[: min(step, n_rows - first)]
        rows.decode(first, first + len(part), part.numpy(), torch.get_num_threads())
        out.addmm_(flat[:, first : first + len(part)], part)
    return out.reshape(*gradient.shape[:-1], cols).to(gradient.dtype)
