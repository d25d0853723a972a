"""GGUFTensor: a torch tensor whose values are decoded when they are used."""

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from quantreg.torch.decode import decode_into
from quantreg.torch.decode import dequantize as decoded
from quantreg.torch.encoded import Encoded, own_dtype, restored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from numpy.typing import DTypeLike, NDArray

    from quantreg.tensor import QuantizedTensor

__all__ = ["GGUFTensor"]

_aten = torch.ops.aten
_FIXED = "a GGUFTensor cannot be changed in place: decode it first, as in x = tensor.dequantize()"


class GGUFTensor(torch.Tensor):
    """A tensor of a GGUF file, of any quantized type, as a torch.Tensor that decodes its values when they are used.

    ``shape``, ``dtype`` and ``device`` are those of the decoded tensor, and asking for them decodes nothing. Every
    operation of torch works: it decodes the tensor, and returns an ordinary one. Copies do so slab by slab:
    ``parameter.copy_(tensor)``, which `torch.nn.Module.load_state_dict` calls, and ``tensor.to("cuda",
    torch.bfloat16)`` take no memory beside their result. Indexing the first axis and `torch.nn.functional.embedding`
    decode no more than the rows that they ask for.

    - ``quantized``: the `quantreg.QuantizedTensor` on the same bytes; `quantreg.write` writes these.
    - ``type_name``: the name of the GGUF type.

    The values are not kept, so decode a tensor that is used often: ``tensor.dequantize()``. What needs the memory of a
    tensor, such as ``parameter.data = tensor`` and safetensors, also takes only decoded ones. A GGUFTensor cannot be
    changed in place, and an indexed part of it is a copy. It pickles, with its bytes, and `torch.load` reads it.
    """

    encoded: Encoded

    @staticmethod
    def __new__(cls, tensor: "QuantizedTensor | Encoded", dtype: torch.dtype | None = None) -> "GGUFTensor":
        """Make a tensor on the bytes of a `quantreg.QuantizedTensor`; ``dtype`` is that of the decoded values.

        Raises ShapeError if the dtype is no place for them.
        """
        encoded = tensor if isinstance(tensor, Encoded) else Encoded.of(tensor)
        made: GGUFTensor = torch.Tensor._make_wrapper_subclass(
            cls, encoded.shape, dtype=dtype or own_dtype(encoded.type_name), device=encoded.bytes.device
        )
        made.encoded = encoded
        return made

    def __init__(self, tensor: "QuantizedTensor | Encoded", dtype: torch.dtype | None = None) -> None:
        pass  # __new__ did it all; without this method, that of torch.Tensor would refuse the arguments

    @property
    def quantized(self) -> "QuantizedTensor":
        """The `quantreg.QuantizedTensor` on the same bytes. Raises UnknownTypeError if no plugin provides the type."""
        return self.encoded.quantized()

    @property
    def type_name(self) -> str:
        """The name of the GGUF type, such as "Q4_K"."""
        return self.encoded.type_name

    def dequantize(  # type: ignore[override, unused-ignore]
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | int | None = None,
        out: torch.Tensor | None = None,
        *,
        saturate: bool = False,
    ) -> torch.Tensor:
        """Decode to an ordinary tensor: see `quantreg.torch.dequantize`. The defaults are this dtype and device."""
        if device is None and out is None:
            device = self.device
        return decoded(self, dtype or self.dtype, device, out, saturate=saturate)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: "Mapping[str, Any] | None" = None
    ) -> Any:
        if func is torch._has_compatible_shallow_copy_type:
            return False  # so that Module.to() replaces a parameter, and does not give its memory to another
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined, unused-ignore]
            raise TypeError(_FIXED)
        with torch._C.DisableTorchFunctionSubclass():  # results are ordinary tensors
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override, unused-ignore]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: "Mapping[str, Any] | None" = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        changes = False
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                changes = True
                if isinstance(args[place] if place < len(args) else kwargs.get(argument.name), GGUFTensor):
                    raise TypeError(_FIXED)
        if torch.is_inference_mode_enabled() and not changes:
            # torch takes the result of slicing for a view of this tensor, which must then be no inference tensor.
            with torch.inference_mode(False), torch.no_grad():
                return _performed(func, args, kwargs)
        return _performed(func, args, kwargs)

    def __setitem__(self, key: object, value: object) -> NoReturn:
        raise TypeError(_FIXED)

    # ---- what reads the memory of a tensor, which is not there ----

    def numpy(self, *, force: bool = False) -> "NDArray[Any]":
        """The decoded values as a NumPy array: see `torch.Tensor.numpy`."""
        return self.dequantize().numpy(force=force)

    def __array__(self, dtype: "DTypeLike | None" = None, copy: bool | None = None) -> "NDArray[Any]":
        if copy is False:
            raise ValueError("the values of a GGUFTensor are decoded, which makes a new array: leave copy=False out")
        return np.asarray(self.dequantize(device="cpu").numpy(), dtype)

    def tolist(self) -> Any:
        """The decoded values as nested lists."""
        return self.dequantize().tolist()

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.dequantize().__dlpack__(**keywords)

    def __dlpack_device__(self) -> Any:
        return torch.empty(0, device=self.device).__dlpack_device__()

    def __quantreg_tensor__(self) -> "QuantizedTensor":
        """What `quantreg.write` writes."""
        return self.quantized

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override, unused-ignore]
        device = "" if self.device.type == "cpu" else f", device='{self.device}'"
        bits = f", {self.encoded.bits:.4g} bits per weight" if self.encoded.bits else ""
        return f"GGUFTensor({self.encoded.name!r}, {self.type_name}, {tuple(self.shape)}, {self.dtype}{device}{bits})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Self":
        if id(self) not in memo:
            memo[id(self)] = _rebuilt(type(self), self.encoded.clone(), self.dtype, self.requires_grad)
        found: Self = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (type(self), self.encoded, self.dtype, self.requires_grad)


def _rebuilt(cls: type[GGUFTensor], encoded: Encoded, dtype: torch.dtype, requires_grad: bool) -> GGUFTensor:
    made = cls(encoded, dtype)
    made.requires_grad_(requires_grad)
    return made


def _performed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    rule = _RULES.get(func)
    done = None if rule is None else rule(func, *args, **kwargs)
    return func(*_plain(args), **_plain(kwargs)) if done is None else done


def _plain(value: Any) -> Any:
    """The same arguments, with decoded tensors."""
    if isinstance(value, GGUFTensor):
        return value.dequantize()
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


# ---- operations that need not decode all of it; a rule returns None if it does not apply ----


def _same(func: Any, tensor: GGUFTensor, *rest: Any) -> torch.Tensor:
    return type(tensor)(tensor.encoded, tensor.dtype)


def _converted(func: Any, tensor: GGUFTensor, **how: Any) -> torch.Tensor | None:
    if not (how.get("dtype") or tensor.dtype).is_floating_point:
        return None  # torch truncates the decoded values
    found = tensor.dequantize(how.get("dtype"), how.get("device"))
    return found.pin_memory() if how.get("pin_memory") else found


def _copied(func: Any, out: torch.Tensor, tensor: torch.Tensor, *rest: Any) -> torch.Tensor | None:
    if out.shape != tensor.shape or not isinstance(tensor, GGUFTensor):
        return None
    if not out.dtype.is_floating_point or tensor.dtype != own_dtype(tensor.type_name):
        return None
    decode_into(out, tensor.encoded)
    return out


def _embedded(func: Any, tensor: torch.Tensor, indices: torch.Tensor, *rest: Any, **how: Any) -> torch.Tensor | None:
    if not isinstance(tensor, GGUFTensor) or isinstance(indices, GGUFTensor):
        return None
    return _rows_at(tensor, indices)


def _selected(func: Any, tensor: GGUFTensor, axis: int, indices: torch.Tensor) -> torch.Tensor | None:
    return _rows_at(tensor, indices.reshape(-1)) if axis % tensor.ndim == 0 else None


def _rows_at(tensor: GGUFTensor, indices: torch.Tensor) -> torch.Tensor | None:
    ids = indices.cpu().numpy()
    if not ids.size or ids.min() < 0 or ids.max() >= len(tensor):
        return None  # torch says what is wrong
    rows = tensor.encoded.rows(ids.reshape(-1))
    if rows is None:
        return None
    return decoded(rows, tensor.dtype, tensor.device).reshape(*indices.shape, *tensor.shape[1:])


def _one(func: Any, tensor: GGUFTensor, axis: int, index: int) -> torch.Tensor | None:
    at = index + len(tensor) if index < 0 else index
    if axis % tensor.ndim or not 0 <= at < len(tensor):
        return None
    rows = tensor.encoded.rows(slice(at, at + 1))
    return None if rows is None else decoded(rows, tensor.dtype, tensor.device)[0]


def _slice(
    func: Any, tensor: GGUFTensor, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> torch.Tensor | None:
    if axis % tensor.ndim:
        return None
    rows = tensor.encoded.rows(slice(start, end, step))
    return None if rows is None else decoded(rows, tensor.dtype, tensor.device)


_RULES: "dict[Any, Callable[..., torch.Tensor | None]]" = {
    _aten.detach.default: _same,
    _aten.alias.default: _same,
    _aten._to_copy.default: _converted,
    _aten.copy_.default: _copied,
    _aten.embedding.default: _embedded,
    _aten.index_select.default: _selected,
    _aten.select.int: _one,
    _aten.slice.Tensor: _slice,
}

torch.serialization.add_safe_globals([_rebuilt, GGUFTensor, restored])
