"""The figures of a type from sums over its tensors: squares of weights and errors, bytes and times."""

import math

import numpy as np
from numpy.typing import NDArray

from quantreg.evaluation.results import Measure
from quantreg.evaluation.targets import Target

__all__ = ["Sums", "added", "finished", "summed"]

Sums = dict[str, float]


def summed(
    x: NDArray[np.float32],
    decoded: NDArray[np.float32],
    columns: NDArray[np.float32] | None,
    nbytes: float,
    encoding: float = 0.0,
    decoding: float = 0.0,
) -> Sums:
    """Compare rows with what they decode to. ``columns`` weights the errors; no time means that nothing was encoded."""
    found = decoded.astype(np.float64)
    exact = x.astype(np.float64)
    lost = (exact - found) ** 2
    weights = 1.0 if columns is None else columns.astype(np.float64)
    return {
        "weights": x.size, "bytes": nbytes, "lost": lost.sum(), "size": (exact**2).sum(),
        "weighted_lost": (weights * lost).sum(), "weighted_size": (weights * exact**2).sum(),
        "max": math.sqrt(lost.max()), "product": (exact * found).sum(), "found": (found**2).sum(),
        "encoding": encoding, "decoding": decoding, "encoded": x.size if encoding else 0,
    }  # fmt: skip


def added(a: Sums, b: Sums) -> Sums:
    """Add the sums of two tensors."""
    return {key: max(a[key], b[key]) if key == "max" else a[key] + b[key] for key in a}


def finished(target: Target, tensor: str | None, s: Sums, encoded_as: str | None = None) -> Measure:
    """Turn sums into figures, for a tensor or for all (None)."""
    bits = 8 * s["bytes"] / s["weights"]
    if tensor is None:
        bits = target.bits_per_weight or bits
        encoded_as = None if target.file_type else target.name
    return Measure(
        type=target.name, tensor=tensor, weights=int(s["weights"]), bits_per_weight=bits,
        rmse=math.sqrt(s["lost"] / s["weights"]), error=_root(s["lost"], s["size"]),
        weighted_error=_root(s["weighted_lost"], s["weighted_size"]), max_error=float(s["max"]),
        cosine=float(s["product"] / math.sqrt(s["size"] * s["found"])) if s["size"] * s["found"] > 0 else 1.0,
        encode_speed=s["encoded"] / s["encoding"] / 1e6 if s["encoding"] else 0.0,
        decode_speed=s["encoded"] / s["decoding"] / 1e6 if s["decoding"] else 0.0,
        file_type=target.file_type, encoded_as=encoded_as,
    )  # fmt: skip


def _root(lost: float, size: float) -> float:
    return math.sqrt(lost / size) if size > 0 else 0.0
