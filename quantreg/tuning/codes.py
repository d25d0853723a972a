"""Where a block keeps its codes, found by flipping its bits.

A block of any type holds scales, which many weights share, and codes, which belong to few. Which bit is what shows when
it is flipped and the block decoded again: a bit that changes one weight is part of the code of this weight, and bits
that change weights together belong to one code for all of them, such as the number of a point in a codebook. So error
feedback, which changes codes and leaves the scales, works for every type that decodes, with no line in its codec.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Decode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

__all__ = ["Codes", "Unit", "find_codes"]

TRIED = 12  # random blocks; a bit may change nothing in some, for example below a scale of zero
MOST_BITS = 12  # of a number that stands for weights together: its points are listed
MOST_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Unit:
    """Weights whose codes are chosen together.

    - ``columns``: their places in the block, intp (n,).
    - ``signs``: pairs (bit, which of the columns it negates as bool (n,)).
    - ``numbers``: pairs (columns as places in ``columns``, bits): each number chooses a point for some of the columns.
    """

    columns: "NDArray[np.intp]"
    signs: "tuple[tuple[int, NDArray[np.bool_]], ...]"
    numbers: "tuple[tuple[NDArray[np.intp], tuple[int, ...]], ...]"


@dataclass(frozen=True, slots=True)
class Codes:
    """The units of a block; every weight is in one of them. A bit b of a block is bit b % 8 of byte b // 8."""

    units: tuple[Unit, ...]


def find_codes(decode: "Decode", type_size: int, block_size: int, examples: "NDArray[np.uint8]") -> Codes | None:
    """Find the codes of a type, or return None if some weight has none of its own.

    ``decode`` turns blocks uint8 (n, type_size) into float32 (n, block_size). ``examples`` are encoded blocks, uint8
    (n, type_size), with scales as they occur.
    """
    reach = np.zeros((8 * type_size, block_size), bool)
    negates = np.ones((8 * type_size, block_size), bool)
    for block in examples[:TRIED]:
        variants = np.repeat(block[None], 8 * type_size + 1, axis=0)
        bits = np.arange(8 * type_size)
        variants[bits, bits // 8] ^= (1 << (bits % 8)).astype(np.uint8)
        values = decode(variants)
        before, after = values[-1], values[:-1]
        changed = (after != before) & (np.isfinite(after) | np.isfinite(before))
        reach |= changed
        negates &= ~changed | ((after == -before) & (before != 0))
    negates &= reach
    counts = reach.sum(axis=1)
    own = np.flatnonzero((counts > 0) & (counts <= MOST_COLUMNS))
    if not reach[own].any(axis=0).all():
        return None
    is_sign = np.array([bool((negates[b] == reach[b]).all()) for b in range(8 * type_size)])
    groups = _connected(reach[own])
    units = []
    for columns, rows in groups:
        bits = own[rows]
        signs = [b for b in bits if is_sign[b] and len(columns) > 1]
        rest = [b for b in bits if b not in signs]
        numbers = []
        for places, members in _connected(reach[rest][:, columns]):
            numbers.append((places, tuple(int(rest[m]) for m in members)))
        if any(len(b) > MOST_BITS for _, b in numbers):
            return None
        units.append(Unit(columns, tuple((int(b), negates[b, columns]) for b in signs), tuple(numbers)))
    return Codes(tuple(units))


def _connected(reach: "NDArray[np.bool_]") -> "list[tuple[NDArray[np.intp], NDArray[np.intp]]]":
    """Columns that rows connect, with these rows: pairs (columns, rows) in the order of the first column."""
    group = np.arange(reach.shape[1])  # the first column that a column is connected with
    rows = [np.flatnonzero(row) for row in reach]
    for columns in rows:
        found = np.unique(group[columns])
        if len(found) > 1:
            group[np.isin(group, found)] = found[0]
    of_row = np.array([group[columns[0]] if len(columns) else -1 for columns in rows])
    return [
        (np.flatnonzero(group == first), np.flatnonzero(of_row == first)) for first in np.unique(of_row[of_row >= 0])
    ]
