"""The check on rows that lie apart in memory, as they do in a part of a larger array."""

from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.testing.dots import has_dot, multiplied
from quantreg.testing.report import expect
from quantreg.testing.samples import bits_of

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from quantreg.testing.samples import Subject

__all__ = ["strides"]

_FILL = 0xAA
_PLACES = {  # words -> (every how many rows of the larger array, columns before, columns after)
    "apart": (2, 3, 5),
    "side by side": (1, 0, 4),
    "in reverse order": (-1, 0, 0),
    "apart in reverse order": (-3, 1, 2),
}


class _Placed:
    """A view of ``shape`` inside a larger array, which has at least one more row at either end."""

    def __init__(self, shape: tuple[int, int], dtype: "DTypeLike", place: str) -> None:
        step, before, after = _PLACES[place]
        rows, cols = shape
        width = (before + cols + after) * np.dtype(dtype).itemsize
        self.room: NDArray[Any] = np.full((rows * abs(step) + 2, width), _FILL, np.uint8).view(dtype)
        self.view: NDArray[Any] = self.room[1:-1][::step, before : before + cols]
        self.surrounding = np.ones(self.room.shape, bool)
        self.surrounding[1:-1][::step, before : before + cols] = False

    def changed(self) -> int:
        """Return the number of bytes around the view that no longer have their first value."""
        return int((self.room[self.surrounding].view(np.uint8) != _FILL).sum())


def _place(array: "NDArray[Any]", place: str) -> "NDArray[Any]":
    """Return the rows of the array as such a view. NaN surrounds floats, 0xAA surrounds bytes."""
    placed = _Placed((array.shape[0], array.shape[1]), array.dtype, place)
    if array.dtype == np.float32:
        placed.room[...] = np.nan
    placed.view[...] = array
    placed.view.flags.writeable = False
    return placed.view


def strides(s: "Subject") -> None:
    """Rows that lie apart in memory give the same bytes and floats, and nothing around the rows is changed.

    The columns are contiguous, so the arrays are views such as ``x[::2]`` or ``x[:, 256:512]``. NaN lies between the
    rows of the input. Input and output have different strides in every call.
    """
    rows = 17 if s.full else 5
    places = list(_PLACES)
    for source, target in zip(places, [*places[1:], places[0]], strict=True):
        if s.codec.can_encode:
            _check_encoder(s, s.rows(rows=rows), source, target)
        data = s.some_bytes(rows)
        out = _Placed((rows, s.qtype.row_weights(data.shape[1])), np.float32, target)
        s.codec.decode_rows(_place(data, source), out.view)
        _compare("decode_rows", bits_of(s.decode(data)), bits_of(out.view), out, source, target)
        if has_dot(s.codec):
            _check_products(s, data, source, target)


def _check_encoder(s: "Subject", x: "NDArray[np.float32]", source: str, target: str) -> None:
    nbytes = s.qtype.row_bytes(x.shape[1])
    for importance in (*s.importances(x.shape[1]), *([np.abs(x)] if s.codec.has_scorer else [])):
        expected, given = s.encode(x, importance), s.given(x.shape[1], importance)
        words = "encode_rows"
        if importance is not None and importance.ndim == 2:
            words, given = "encode_rows with error weights", _place(importance, target)
        elif importance is not None:
            words = "encode_rows with column statistics"
        out = _Placed((len(x), nbytes), np.uint8, target)
        s.codec.encode_rows(_place(x, source), out.view, given)
        _compare(words, expected, out.view, out, source, target)
    if s.codec.has_scorer:
        columns, weights = s.columns(x.shape[1]), np.empty_like(x)
        s.codec.score_rows(x, columns, weights)
        out = _Placed((len(x), x.shape[1]), np.float32, target)
        s.codec.score_rows(_place(x, source), columns, out.view)
        _compare("score_rows", bits_of(weights), bits_of(out.view), out, source, target)


def _check_products(s: "Subject", data: "NDArray[np.uint8]", source: str, target: str) -> None:
    for n in (1, 3):
        x = s.rows(rows=n)
        out = _Placed((n, len(data)), np.float32, target)
        s.codec.dot_rows(_place(data, source), _place(x, target), out.view)  # type: ignore[attr-defined]
        _compare("dot_rows", bits_of(multiplied(s.codec, data, x)), bits_of(out.view), out, source, target)


def _compare(
    words: str,
    expected: "NDArray[Any]",
    found: "NDArray[Any]",
    out: _Placed,
    source: str,
    target: str,
) -> None:
    where = f"when the rows of the input lie {source} and those of the output {target}"
    what = "bytes" if expected.dtype == np.uint8 else "floats"
    different = int((expected != found).sum())
    expect(not different, f"{words}: {different} {what} differ {where}: use the stride of each array")
    changed = out.changed()
    words = f"{words} changes {changed} bytes outside the rows of the output, {where}"
    expect(not changed, f"{words}: write nothing after the end of a row")
