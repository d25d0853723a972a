"""Tensors that encoding destroys: all zeros after underflow, or far too small where a scale saturates."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.codec import RowCodec

__all__ = ["Loss", "explain", "has_limit", "is_lost", "measured"]

SAMPLE_WEIGHTS: int = 4096  # of each slab about this many are decoded again, which costs a few percent at most
LOST: float = 0.9  # an error of this share of the weights' RMS; types of one bit stay below 0.8


class Loss(NamedTuple):
    """Sums over sampled rows: the squares of the weights, and the squares of what encoding changed."""

    energy: float = 0.0
    error: float = 0.0

    def plus(self, other: "Loss") -> "Loss":
        """The sums over both samples."""
        return Loss(self.energy + other.energy, self.error + other.error)

    @property
    def share(self) -> float | None:
        """The RMS of the error as a share of that of the weights; None if there are no weights but zeros."""
        return float((self.error / self.energy) ** 0.5) if self.energy > 0 else None


def is_lost(share: float | None) -> bool:
    """Whether an error of this share of the weights' RMS means that the weights are lost."""
    return share is not None and share > LOST


def explain(tensor: str | None, type_name: str, share: float) -> str:
    """Tell the user that encoding destroyed a tensor."""
    option = f" with --tensor-type {tensor}=BF16 (tensor_types)" if tensor else ""
    return (
        f"{tensor or 'the array'}: {type_name} loses the weights: the error is {share:.0%} of their RMS. They are too "
        f"small, too large or too uneven for this type: choose another one{option}"
    )


def has_limit(codec: "RowCodec") -> bool:
    """Whether a single weight can spoil its block: one beyond the ``largest`` magnitude of the codec."""
    return getattr(codec, "largest", None) is not None


def measured(codec: "RowCodec", rows: "NDArray[np.float32]", data: "NDArray[np.uint8]") -> Loss:
    """Decode a few of the rows again: ``rows`` float32 (rows, cols), ``data`` what they were encoded to.

    If a row holds more than the ``largest`` magnitude of the codec, that row is taken. A caller need not measure every
    slab, unless `has_limit`.
    """
    step = max(1, len(rows) * rows.shape[1] // SAMPLE_WEIGHTS)
    first = _beyond(rows, getattr(codec, "largest", None))
    some = np.ascontiguousarray(rows[first::step])
    back = np.empty(some.shape, np.float32)
    codec.decode_rows(np.ascontiguousarray(data[first::step]), back)
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(back, some, out=back)
        return Loss(_sum_of_squares(some), _sum_of_squares(back))


def _beyond(rows: "NDArray[np.float32]", largest: float | None) -> int:
    """The first row with a magnitude beyond the largest, or 0."""
    if largest is None or _sum_of_squares(rows) <= largest**2:  # the sum bounds each weight, and takes one pass
        return 0
    return int((np.abs(rows).max(axis=1) > largest).argmax())  # 0 if none is


def _sum_of_squares(x: "NDArray[np.float32]") -> float:
    found = float(np.einsum("ij,ij", x, x))  # unlike a dot product it starts no threads
    if 1e-30 < found < np.inf:
        return found
    return float(np.square(x, dtype=np.float64).sum())  # float32 underflows or overflows
