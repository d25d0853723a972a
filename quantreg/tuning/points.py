"""The units of a type with the points that their codes stand for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantreg.tuning.codes import Codes, Unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Decode = Callable[[NDArray[np.uint8]], Floats]

__all__ = ["Coded", "Number", "coded_units"]


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a unit: which columns it decides, its bits, and the point of each of its values.

    ``points`` is float32 (values, columns). If there is one column, ``order`` sorts the points, ``line`` holds them in
    this order, and ``middles`` are the places between two of them. ``first`` and ``second`` are two values whose points
    differ in all columns.
    """

    places: "NDArray[np.intp]"
    bits: "NDArray[np.intp]"
    points: "Floats"
    order: "NDArray[np.intp]"
    line: "Floats"
    middles: "Floats"
    steps: tuple[float, float] | None  # of evenly spaced points: the first and the distance
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Coded:
    """A unit whose codes are chosen together."""

    columns: "NDArray[np.intp]"
    sign_bits: "NDArray[np.intp]"
    parity: "NDArray[np.bool_] | None"  # columns of which an even number must be negative; None: any may be
    signs_of: "NDArray[np.intp]"  # for each sign bit, the column whose sign it carries alone or with the last
    numbers: tuple[Number, ...]


def coded_units(codes: Codes, decode: "Decode", examples: "NDArray[np.uint8]") -> list[Coded] | None:
    """Find the points of all units: the values that an example block decodes to, for each value of its numbers."""
    units = []
    block = examples[abs(decode(examples)).min(axis=1).argmax()]
    bits = np.unpackbits(block, bitorder="little")
    for unit in codes.units:  # all signs plus
        for bit, _ in unit.signs:
            bits[bit] = 0
    values = _all_values(codes, decode, bits)
    for unit, tables in zip(codes.units, values, strict=True):
        signs = _signs(unit)
        if signs is None:
            return None
        sign_bits, parity, signs_of = signs
        numbers = []
        for (places, number_bits), points in zip(unit.numbers, tables, strict=True):
            if not np.isfinite(points).all():
                return None
            single = len(places) == 1
            pair = _distinct(points) if not len(sign_bits) else (int(abs(points).min(axis=1).argmax()), 0)
            if pair is None:
                return None
            order = np.argsort(points[:, 0], kind="stable") if single else np.arange(len(points))
            line = points[order, 0]
            middles = ((line[1:] + line[:-1]) / 2).astype(np.float32)
            step = (line[-1] - line[0]) / max(1, len(line) - 1)
            even = single and step > 0 and bool((abs(np.diff(line) - step) <= 1e-4 * step).all())
            steps = (float(line[0]), float(step)) if even else None
            bits_of = np.array(number_bits)
            numbers.append(Number(places, bits_of, points, order, line, middles, steps, *pair))
        units.append(Coded(unit.columns, sign_bits, parity, signs_of, tuple(numbers)))
    return units


def _all_values(codes: Codes, decode: "Decode", bits: "NDArray[np.uint8]") -> "list[list[Floats]]":
    """For each number of each unit, what its columns decode to for each of its values: float32 (values, columns)."""
    most = max(len(b) for unit in codes.units for _, b in unit.numbers)
    tables: list[list[Floats]] = [
        [np.empty((1 << len(b), len(p)), np.float32) for p, b in unit.numbers] for unit in codes.units
    ]
    for first in range(0, 1 << most, 256):
        span = np.arange(first, min(first + 256, 1 << most))
        variants = np.repeat(bits[None], len(span), axis=0)
        for unit in codes.units:
            for _, number_bits in unit.numbers:
                variants[:, list(number_bits)] = (span[:, None] >> np.arange(len(number_bits))) & 1
        decoded = decode(np.packbits(variants, axis=1, bitorder="little"))
        for unit, row in zip(codes.units, tables, strict=True):
            for (places, number_bits), table in zip(unit.numbers, row, strict=True):
                count = min(len(span), max(0, (1 << len(number_bits)) - first))
                table[first : first + count] = decoded[:count, unit.columns[places]]
    return tables


def _signs(unit: Unit) -> "tuple[NDArray[np.intp], NDArray[np.bool_] | None, NDArray[np.intp]] | None":
    """The sign bits of a unit, the columns of which an even number must be negative, and the column of each bit."""
    n = len(unit.columns)
    if not unit.signs:
        return np.zeros(0, np.intp), None, np.zeros(0, np.intp)
    bits = np.array([bit for bit, _ in unit.signs])
    reach = np.array([columns for _, columns in unit.signs])
    if len(bits) == n and (reach.sum(axis=1) == 1).all():
        return bits, None, reach.argmax(axis=1)
    shared = reach.all(axis=0)  # the column that each bit negates besides its own
    if len(bits) == n - 1 and shared.sum() == 1 and (reach.sum(axis=1) == 2).all():
        return bits, np.ones(n, bool), (reach & ~shared).argmax(axis=1)
    return None


def _distinct(points: "Floats") -> tuple[int, int] | None:
    """Two values whose points differ in all columns, as far apart as can be, or None."""
    for first in (0, *range(1, min(64, len(points)))):
        apart = abs(points - points[first]).min(axis=1)
        second = int(apart.argmax())
        if apart[second] > 0:
            return first, second
    return None
