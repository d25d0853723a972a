"""Arrays and dtypes as people bring them: NumPy's, torch's, lists, and ``"bfloat16"`` by name."""

from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import SupportsIndex

    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "as_array",
    "as_dtype",
    "as_shape",
    "bfloat16_bits",
    "check_holds_weights",
    "check_numbers",
    "dtype_name",
    "exact_bytes",
    "read_only",
]


def dtype_name(x: object) -> str:
    """The name of the dtype of an array or torch tensor, "bfloat16" for ``torch.bfloat16``; "" if it has none."""
    dtype = getattr(x, "dtype", None)
    return "" if dtype is None else str(dtype).removeprefix("torch.")


def as_array(x: "ArrayLike", what: str) -> "NDArray[Any]":
    """Return x as a NumPy array, without copying where NumPy can hold it as it is.

    Torch tensors may require a gradient. NumPy has no bfloat16 or float8 of its own, so torch tensors of these become
    float32, which holds each of their values. ``what`` names x in errors. Raises ShapeError for what is not an array of
    numbers, and for a torch tensor on another device.
    """
    if _is_torch(x):
        return _from_torch(x, what)
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ShapeError(f"{what} is an array in which values are masked: replace them, as in {what}.filled(0)")
    try:
        array = np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths, tensors that NumPy cannot read
        raise ShapeError(
            f"{what} is a {type(x).__name__} from which NumPy cannot make an array: {error}: pass one array or tensor"
        ) from None
    if array.dtype == object:
        raise ShapeError(
            f"{what} is a {type(x).__name__}, which NumPy cannot read as numbers: pass an array, a tensor or a list"
        )
    return array.astype(np.float32) if array.dtype.name.startswith("float8") else array


def check_numbers(x: "NDArray[Any]", what: str) -> None:
    """Raise ShapeError if x does not hold real numbers, such as complex ones or texts."""
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        raise ShapeError(f"{what} has dtype {x.dtype}: convert it to a float or integer type")


def check_holds_weights(dtype: "np.dtype[Any]", type_name: str, stored: "np.dtype[Any]") -> None:
    """Raise ShapeError if a dtype is no place for the values of a type, which are ``stored`` when decoded."""
    whole = stored.kind == "i" and dtype.kind in "iu"
    if not (whole or dtype.kind in "fc" or dtype.name.startswith(("bfloat", "float"))):
        raise ShapeError(
            f"dtype {dtype} cannot hold the values of {type_name}: decode to {stored}, and convert the result if needed"
        )


def exact_bytes(x: "NDArray[Any]", dtype: str | None) -> "NDArray[np.uint8] | None":
    """Return the bytes of integers or float64 as ``dtype``, uint8 (..., bytes per row); None if a codec must do it.

    Codecs get float32, which rounds integers from 2^24 on, and float64.
    """
    if dtype is None or x.dtype.kind not in ("iu" if dtype[0] == "i" else "f") or not x.size:
        return None
    if dtype[0] == "i":
        limits = np.iinfo(dtype)
        if int(x.min()) < limits.min or int(x.max()) > limits.max:
            raise ShapeError(f"x holds {x.min()} to {x.max()}, but {dtype} holds {limits.min} to {limits.max}")
    elif not np.isfinite(x).all():
        return None  # the codec says where
    return np.ascontiguousarray(x, np.dtype(dtype).newbyteorder("<")).view(np.uint8)


def as_dtype(dtype: "DTypeLike") -> "np.dtype[Any]":
    """Return the NumPy dtype for a dtype, its name or a torch dtype; "bfloat16" and float8 names need ml_dtypes.

    Raises ShapeError if there is no such dtype or ml_dtypes is not installed.
    """
    name = str(dtype).removeprefix("torch.")
    given = name if str(dtype) != name else dtype
    try:
        return np.dtype(given)
    except TypeError as error:
        if not (isinstance(given, str) and given.isidentifier()):
            raise ShapeError(f"{dtype!r} is not a dtype of NumPy: {error}") from None
    try:
        import ml_dtypes  # optional; it gives NumPy its bfloat16
    except ImportError:
        raise ShapeError(
            f"NumPy has no dtype {given!r} of its own: install ml_dtypes (pip install ml_dtypes), or use float32"
        ) from None
    found = getattr(ml_dtypes, given, None)
    if not isinstance(found, type):
        raise ShapeError(f"neither NumPy nor ml_dtypes has a dtype {given!r}: use float32, for example")
    return np.dtype(found)


def as_shape(shape: "Sequence[SupportsIndex]", what: str) -> tuple[int, ...]:
    """Return a shape as a tuple of ints. Raises ShapeError if it is not one; ``what`` has that shape."""
    try:
        dims = tuple(index(n) for n in shape)
    except TypeError:
        raise ShapeError(
            f"{what} has the shape {shape!r:.80}: pass a tuple of whole numbers, as in (512, 256)"
        ) from None
    if any(n < 0 for n in dims):
        raise ShapeError(f"{what} has the shape {dims}, with a negative dimension: state each dimension")
    return dims


def bfloat16_bits(x: "NDArray[np.float32]") -> "NDArray[np.uint16]":
    """Return the bits of float32 values that bfloat16 holds exactly, as `as_array` gives for a bfloat16 tensor."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _is_torch(x: object) -> bool:
    """Whether x is a torch tensor, by what it offers: importing torch takes seconds."""
    return str(getattr(x, "dtype", "")).startswith("torch.") and hasattr(x, "detach")


def _from_torch(x: Any, what: str) -> "NDArray[Any]":
    device = str(getattr(x, "device", "cpu"))
    if device.partition(":")[0] != "cpu":
        way = "load its weights first" if device == "meta" else f"pass {what}.cpu()"
        raise ShapeError(f"{what} is a torch tensor on the device {device}: {way}")
    plain = x.detach()
    if dtype_name(x) == "bfloat16" or dtype_name(x).startswith("float8"):
        plain = plain.float()
    try:
        return np.asarray(plain.numpy())
    except (TypeError, RuntimeError) as error:  # sparse, quantized by torch, or of a dtype that NumPy lacks
        raise ShapeError(
            f"{what} is a torch tensor of {x.dtype} that has no NumPy array: {error}: convert it to a dense float "
            "tensor first, with to_dense(), dequantize() or float()"
        ) from None


def read_only(array: "NDArray[Any]") -> "NDArray[Any]":
    """Return a view that cannot be written to, for a plugin: the array may be the caller's own."""
    view = array.view()
    view.flags.writeable = False
    return view
