"""The check of a codec's own products with a few rows of activations."""

from typing import TYPE_CHECKING

import numpy as np

from quantreg.testing.report import NotApplicable, expect
from quantreg.testing.samples import bits_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.codec import RowCodec
    from quantreg.testing.samples import Subject

__all__ = ["dot_rows", "has_dot", "multiplied"]

_ACTIVATIONS = (1, 2, 3, 7)
_ROUNDINGS = 16  # times the rounding of a float32 sum: a sum in any sensible order stays below one


def has_dot(codec: "RowCodec") -> bool:
    """Whether the codec has a product of its own."""
    return bool(getattr(codec, "has_dot", False))


def multiplied(codec: "RowCodec", data: "NDArray[np.uint8]", x: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return the products of a codec, float32 (rows of x, rows of data)."""
    out = np.full((len(x), len(data)), np.nan, np.float32)
    codec.dot_rows(data, x, out)  # type: ignore[attr-defined]
    return out


def dot_rows(s: "Subject") -> None:
    """A product with a few rows of activations (dot_rows) agrees with decoding and multiplying, for any bytes.

    It has the error of a sum in float32, and a row's products do not depend on the other rows of weights.
    """
    if not has_dot(s.codec):
        raise NotApplicable("the codec leaves products to quantreg: it has no dot_rows")
    for codec in s.levels().values() if s.codec.level != "python" else [s.codec]:
        for blocks in (1, 2, 3, 11, 70) if s.full else (1, 3, 70):  # odd numbers, and rows longer than a buffer
            cols = s.cols(blocks)
            random = np.random.default_rng(blocks).integers(0, 256, (9, s.qtype.row_bytes(cols)), np.uint8)
            for what, data in (("encoded rows", s.some_bytes(9, blocks)), ("random bytes", random)):
                _check(s, codec, f"{what} of {cols} weights at CPU level {codec.level}", data, cols)


def _check(s: "Subject", codec: "RowCodec", words: str, data: "NDArray[np.uint8]", cols: int) -> None:
    weights = s.decode(data, codec)
    for n in _ACTIVATIONS:
        x = np.random.default_rng(n).standard_normal((n, cols)).astype(np.float32)
        found = multiplied(codec, data, x)
        _compare(found, weights, x, f"{n} rows of activations times {words}")
        alone = np.concatenate([multiplied(codec, data[i : i + 1], x) for i in range(len(data))], axis=1)
        same = (bits_of(alone) == bits_of(found)).all()
        expect(same, f"{n} rows of activations times {words}: products differ when each row of weights is alone")


def _compare(
    found: "NDArray[np.float32]", weights: "NDArray[np.float32]", x: "NDArray[np.float32]", words: str
) -> None:
    """Compare products with those of the decoded weights. Where a weight is not finite, neither is the product."""
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(weights).all(axis=1))
    with np.errstate(all="ignore"):
        wide = np.where(finite[:, None], weights, 0).astype(np.float64)
        exact = x.astype(np.float64) @ wide.T
        sizes = np.abs(x).astype(np.float64) @ np.abs(wide).T
        far = np.abs(found - exact) > _ROUNDINGS * np.finfo(np.float32).eps * sizes + 1e-36
    wrong: NDArray[np.bool_] = np.asarray(
        np.where(finite, far | ~np.isfinite(found), np.isfinite(found)) & (sizes < 1e37)
    )
    if not wrong.any():
        return
    i, row = np.argwhere(wrong)[0]
    raise AssertionError(
        f"{words}: the product with row {row} is {found[i, row]:.8g}, but the decoded weights give "
        f"{exact[i, row] if finite[row] else np.nan:.8g}: multiply the weights that decode_rows gives, in float32"
    )
