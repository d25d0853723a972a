"""Tensors that encoding destroys: all zeros after underflow, or far too small where a scale saturates."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.codec import RowCodec

__all__ = ["Loss", "explain", "is_lost", "measured"]

EVERY: int = 16  # of this many rows one is decoded again, which costs less than the noise of a timing
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
    """Say to the user that encoding destroyed a tensor."""
    option = f" with --tensor-type {tensor}=BF16 (tensor_types)" if tensor else ""
    return (
        f"{tensor or 'the array'}: {type_name} loses the weights: the error is {share:.0%} of their RMS. They are too "
        f"small, too large or too uneven for this type: choose another one{option}"
    )


def measured(codec: "RowCodec", rows: "NDArray[np.float32]", data: "NDArray[np.uint8]") -> Loss:
    """Decode a sample of the rows again: ``rows`` float32 (rows, cols), ``data`` what they were encoded to.

    If the codec has a ``largest`` magnitude, the row with the largest weight is part of the sample.
    """
    sample = [*range(0, len(rows), EVERY)]
    if len(rows) > 1 and hasattr(codec, "largest"):
        row = int(np.abs(rows).max(axis=1).argmax())
        if row % EVERY:
            sample.append(row)
    some = rows[sample]
    back = np.empty(some.shape, np.float32)
    codec.decode_rows(data[sample], back)
    with np.errstate(invalid="ignore", over="ignore"):
        back -= some
        return Loss(float(np.square(some, dtype=np.float64).sum()), float(np.square(back, dtype=np.float64).sum()))
