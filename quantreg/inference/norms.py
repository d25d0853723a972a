"""Norms over the last axis: RMS norm (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016)."""

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.passes import Pass

__all__ = ["Norm", "normalise"]

Norm = Literal["rms", "layer"]


def normalise(
    x: "NDArray[np.float32]",
    weight: "NDArray[np.float32] | None",
    bias: "NDArray[np.float32] | None",
    norm: Norm,
    eps: float,
    run: "Pass",
) -> "NDArray[np.float32]":
    """Divide each row by its root mean square or, as a layer norm, subtract its mean and divide by its deviation.

    ``x`` is float32 of shape (..., cols), ``weight`` and ``bias`` have the shape (cols,) or are None. ``eps`` is added
    to the mean square or variance. Returns a new array.
    """
    rows = x.reshape(-1, x.shape[-1])
    out = np.empty_like(rows)

    def work(part: slice) -> None:
        a = rows[part]
        if norm == "layer":
            a = a - a.mean(axis=1, keepdims=True)
        square = np.einsum("ij,ij->i", a, a)
        square /= a.shape[1]
        np.multiply(a, (1 / np.sqrt(square + np.float32(eps)))[:, None], out=out[part])
        if weight is not None:
            out[part] *= weight
        if bias is not None:
            out[part] += bias

    run.by_rows(work, rows.shape)
    found = out.reshape(x.shape)
    if run.normed is not None:
        run.normed(x, weight, found)
    return found
