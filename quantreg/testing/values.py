"""Checks of sizes, of errors, and of rows that are unlike weights."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from quantreg.dispatch import quantize
from quantreg.errors import NonFiniteError, QuantregError, ShapeError
from quantreg.registry import types
from quantreg.testing.report import expect
from quantreg.testing.samples import KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.testing.samples import Subject

__all__ = [
    "any_rows",
    "constant_rows",
    "denormal_rows",
    "deserved_error",
    "error",
    "huge_rows",
    "nonfinite_rows",
    "relative_error",
    "size_algebra",
    "zero_rows",
]


def deserved_error(bits_per_weight: float) -> float:
    """Return the largest error that a format of this size may have on normally distributed weights.

    The error is the root mean square error divided by the root mean square of the weights. The limit is that of evenly
    spaced levels with one half-precision scale for 32 weights and one bit less: 1.23 * 2^-(b - 1.5) for b bits per
    weight. It is at least 2^-8, because bfloat16 spends its bits on range. It is at most 0.95, because a codec that
    writes only zeros has an error of 1.
    """
    steps = 2.0 ** (bits_per_weight - 0.5)  # number of levels; the largest of 32 normal weights is about 2.13
    return min(0.95, max(2.0**-8, 2 * (2 * 2.13 / steps) / 12**0.5))


def relative_error(x: "NDArray[np.float32]", back: "NDArray[np.float32]") -> float:
    """Return the root mean square error of back divided by the root mean square of x."""
    wide = x.astype(np.float64)
    return float(np.sqrt(np.mean((wide - back.astype(np.float64)) ** 2) / np.mean(wide**2)))


def size_algebra(s: "Subject") -> None:
    """The codec and the type have the same layout, the size of a row follows from it, and the fallback type exists."""
    q, codec = s.qtype, s.codec
    for name in ("type_id", "block_size", "type_size", "row_header_size"):
        expect(
            getattr(codec, name) == getattr(q, name),
            f"codec.{name} is {getattr(codec, name)}, but the type has {getattr(q, name)}: give both the same",
        )
    expect(
        q.bits_per_weight == q.type_size * 8 / q.block_size,
        "bits_per_weight is not type_size * 8 / block_size: do not override it",
    )
    for blocks in (1, 2, 9):
        cols, nbytes = blocks * q.block_size, q.row_header_size + blocks * q.type_size
        expect(q.row_bytes(cols) == nbytes, f"{blocks} blocks take {q.row_bytes(cols)} bytes, expected {nbytes}")
        expect(q.row_weights(nbytes) == cols, f"{nbytes} bytes hold {q.row_weights(nbytes)} weights, expected {cols}")
        data = np.zeros((2, nbytes), np.uint8)
        if codec.can_encode:
            data = s.encode(np.zeros((2, cols), np.float32))
        codec.decode_rows(data, np.empty((2, cols), np.float32))
    if q.fallback is not None:
        expect(q.fallback in types, f"fallback {q.fallback} is not a registered type: name one, such as Q8_0 or F16")
        size = types[q.fallback].block_size
        expect(
            size % q.block_size,
            f"fallback {q.fallback} has blocks of {size} weights, so it can hold no row that {q.name}, with blocks of "
            f"{q.block_size}, cannot: take smaller blocks, as in {'Q8_0' if q.block_size > 32 else 'F16'}",
        )
    if q.block_size > 1:
        _refuses(
            lambda: q.row_bytes(q.block_size + 1),
            ShapeError,
            "row_bytes() accepts a row that is not a whole number of blocks",
        )


def zero_rows(s: "Subject") -> None:
    """A row of zeros comes back as zeros, whatever the other rows hold."""
    x = s.rows(rows=5)
    x[1] = x[4] = 0
    back = s.decode(s.encode(x))
    expect(np.isfinite(back).all(), "a row of zeros comes back as NaN or infinity: do not divide by a scale of 0")
    found = np.abs(back[[1, 4]]).max()
    expect(not found, f"a row of zeros comes back as {found:g}: give a block of zeros a scale of 0, or a code for 0")


def constant_rows(s: "Subject") -> None:
    """A row of equal values comes back with at most the error that is allowed on normal weights."""
    limit = deserved_error(s.qtype.bits_per_weight)
    for value in (1.0, -1.0, 0.01, -37.5):
        x = np.full((2, s.cols(2)), value, np.float32)
        with s.fitted(x):
            back = s.decode(s.encode(x))
        expect(np.isfinite(back).all(), f"a row of {value:g} comes back as NaN or infinity: check its scale")
        lost = relative_error(x, back)
        words = f"a row of {value:g} comes back with an error of {lost:.1%}, more than {limit:.1%}"
        expect(lost <= limit, f"{words}: choose the scale so that a code lies on the largest value of a block")


def denormal_rows(s: "Subject") -> None:
    """Values around and below the smallest normal float are encoded, and come back finite and small."""
    for scale in (1e-37, 1e-39, 1e-42, 1.4e-45):
        x = s.rows("uniform", scale=scale)
        x[1] = s.rows()[1]
        back = s.decode(s.encode(x))
        words = "encode a block as zeros if its scale underflows"
        expect(np.isfinite(back).all(), f"values of {scale:g} come back as NaN or infinity: {words}")
        top = np.abs(back[[0, 2, 3]]).max()
        expect(top < 1e-4, f"values of {scale:g} come back as {top:g}: {words}")


def huge_rows(s: "Subject") -> None:
    """A row of huge values is encoded to finite values or refused by its number, and other rows do not change."""
    for scale in (1e4, 6e4, 1e6, 1e10, 1e30, 1e38):
        x = s.rows("uniform", rows=3)
        alone = s.encode(x)
        x[1] = s.rows("uniform", rows=1, scale=scale, seed=3)
        try:
            data = s.encode(x)
        except ValueError as refused:
            row = getattr(refused, "row", None)
            words = f"row 1 with values of {scale:g} is refused, but the error names row {row}: {refused}"
            expect(row == 1, f"{words}; refuse the first row whose scale overflows")
            continue
        expect(np.isfinite(s.decode(data)).all(), f"values of {scale:g} come back as NaN or infinity: refuse the row")
        same = (data[0] == alone[0]).all() and (data[2] == alone[2]).all()
        expect(same, f"a row of {scale:g} changes the bytes of other rows: compute nothing over several rows")


def nonfinite_rows(s: "Subject") -> None:
    """The codec refuses NaN and infinity and names row and column, and `quantreg.quantize` names the row."""
    cols = s.cols(2)
    for value in (np.nan, np.inf, -np.inf):
        for row, column in ((0, 0), (2, cols - 1), (3, cols // 2)):
            x = s.rows(rows=4, blocks=2)
            x[row, column] = value
            try:
                s.encode(x)
            except ValueError as refused:
                found = getattr(refused, "row", None), getattr(refused, "column", None)
                words = f"{value} at {row, column} is refused, but the error names {found}"
                expect(found == (row, column), f"{words}: name the row, counted from first_row, and the column")
            else:
                raise AssertionError(f"{value} at row {row}, column {column} is encoded: refuse such rows")
            importance = s.given(cols)
            try:
                quantize(x, s.qtype, importance, threads=1, parameters=s.parameters)
            except NonFiniteError as refused:
                expect(f"row {row} " in str(refused), f"the error does not name row {row}: {refused}")


def error(s: "Subject") -> None:
    """The error on normal weights is at most what the bits per weight deserve, at any scale of the weights."""
    limit = deserved_error(s.qtype.bits_per_weight)
    for scale in (0.02, 1.0, 30.0) if s.full else (0.02,):
        x = s.rows(rows=16, blocks=4, scale=scale)
        with s.fitted(x):
            lost = relative_error(x, s.decode(s.encode(x)))
        words = f"{lost:.2%} on normal weights; with {s.qtype.bits_per_weight:g} bits per weight it may be {limit:.2%}"
        how = "look at a decoded row, for wrong codes or scales"
        expect(lost <= limit, f"the error is {words}: {how}")


def any_rows(s: "Subject") -> None:
    """Rows of every kind and scale are encoded to finite values, or refused by their number."""
    for seed, kind in enumerate(KINDS * (4 if s.full else 1)):
        scale = 10.0 ** np.random.default_rng(seed).uniform(-8, 3)
        x = s.rows(kind, rows=3, blocks=2, scale=scale, seed=seed)
        for importance in s.importances(x.shape[1]):
            try:
                data = s.encode(x, importance)
            except ValueError as refused:
                expect(hasattr(refused, "row"), f"{kind} rows of {scale:g} are refused without a row number: {refused}")
                continue
            finite = np.isfinite(s.decode(data)).all()
            expect(finite, f"{kind} rows of {scale:g} come back as NaN or infinity: refuse a row whose scale overflows")


def _refuses(call: Callable[[], object], errors: type[Exception], message: str) -> None:
    """Raise AssertionError with this message unless call() raises one of the errors."""
    try:
        call()
    except errors:
        return
    except QuantregError as error:
        raise AssertionError(f"{message}: {error}") from error
    raise AssertionError(message)
