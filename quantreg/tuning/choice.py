"""Choose codes in encoded blocks, with the scales as they stand.

All codes of a unit decode to scale * point + offset, where the points belong to the type, and scale and offset to the
block. Two decodings of a block with known codes give its scale and offset, so that the best code for a target is found
without decoding all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantreg.tuning.codes import Codes, Unit, find_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Decode = Callable[[NDArray[np.uint8]], Floats]

__all__ = ["Blocks", "Chooser"]


@dataclass(frozen=True, slots=True)
class _Number:
    """A number in a unit: which columns it decides, its bits, and the point of each of its values.

    ``points`` is float32 (values, columns). If there is one column, ``order`` sorts the points, and ``middles`` are the
    places between two of them. ``first`` and ``second`` are two values whose points differ in all columns.
    """

    places: "NDArray[np.intp]"
    bits: "NDArray[np.intp]"
    points: "Floats"
    order: "NDArray[np.intp]"
    middles: "Floats"
    steps: tuple[float, float] | None  # of evenly spaced points: the first and the distance
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class _Unit:
    columns: "NDArray[np.intp]"
    sign_bits: "NDArray[np.intp]"
    parity: "NDArray[np.bool_] | None"  # columns of which an even number must be negative; None: any may be
    signs_of: "NDArray[np.intp]"  # for each sign bit, the column whose sign it carries alone or with the last
    numbers: tuple[_Number, ...]


class Chooser:
    """Chooses codes of one type. `Chooser.of` makes it, or returns None for a type whose codes cannot be found."""

    def __init__(self, units: list[_Unit], decode: "Decode", type_size: int, block_size: int) -> None:
        self.units, self.decode, self.type_size, self.block_size = units, decode, type_size, block_size
        self._first = self._template([[n.first for n in u.numbers] for u in units])
        self._second = self._template([[n.second for n in u.numbers] for u in units])
        self._mask = np.zeros(8 * type_size, bool)
        for unit in units:
            for bits in (unit.sign_bits, *(n.bits for n in unit.numbers)):
                self._mask[bits] = True
        points = [np.empty(block_size, np.float32), np.empty(block_size, np.float32)]
        for unit in units:
            for number in unit.numbers:
                points[0][unit.columns[number.places]] = number.points[number.first]
                points[1][unit.columns[number.places]] = number.points[number.second]
        self._points = points[0], points[1]
        self.columns: NDArray[np.intp] = np.concatenate([unit.columns for unit in units])  # in the order of the units
        self._in_order = bool((self.columns == np.arange(block_size)).all())
        self._symmetric = np.zeros(block_size, bool)
        for unit in units:
            self._symmetric[unit.columns] = len(unit.sign_bits) > 0

    @classmethod
    def of(cls, decode: "Decode", type_size: int, block_size: int, examples: "NDArray[np.uint8]") -> "Chooser | None":
        """Find the codes of a type and their points. See `find_codes` for the arguments."""
        codes = find_codes(decode, type_size, block_size, examples)
        if codes is None:
            return None
        units = _units(codes, decode, examples)
        if units is None:
            return None
        found = cls(units, decode, type_size, block_size)
        return found if found._holds(examples) else None

    def triangle(self, upper: "Floats", start: int) -> "Floats":
        """The part of an upper triangular factor for a block that starts at a column, in the order of the units."""
        part = upper[start : start + self.block_size, start : start + self.block_size]
        if self._in_order:
            return part
        # H^-1 = U^T U in the new order of columns has another factor.
        inverse = (part.T.astype(np.float64) @ part)[np.ix_(self.columns, self.columns)]
        return np.ascontiguousarray(np.linalg.cholesky(inverse).T.astype(np.float32))

    def blocks(self, encoded: "NDArray[np.uint8]") -> "Blocks":
        """Take encoded blocks, uint8 (n, type_size), to change their codes."""
        return Blocks(self, encoded)

    def _template(self, values: list[list[int]]) -> "NDArray[np.uint8]":
        """The bits of a block whose numbers have these values and whose signs are all plus."""
        bits = np.zeros(8 * self.type_size, np.uint8)
        for unit, chosen in zip(self.units, values, strict=True):
            for number, value in zip(unit.numbers, chosen, strict=True):
                bits[number.bits] = value >> np.arange(len(number.bits)) & 1
        return bits

    def levels(self, encoded: "NDArray[np.uint8]") -> "tuple[Floats, Floats]":
        """The scale and offset of every weight of encoded blocks: two float32 arrays (n, block_size)."""
        bits = np.unpackbits(encoded, axis=1, bitorder="little")
        bits[:, self._mask] = self._first[self._mask]
        one = self.decode(np.packbits(bits, axis=1, bitorder="little"))
        first, second = self._points
        if self._symmetric.all():
            return one / first, np.zeros_like(one)
        bits[:, self._mask] = self._second[self._mask]
        two = self.decode(np.packbits(bits, axis=1, bitorder="little"))
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(self._symmetric, one / first, (two - one) / (second - first))
        return scale, np.where(self._symmetric, np.float32(0), one - scale * first)

    def _holds(self, examples: "NDArray[np.uint8]") -> bool:
        """Whether random codes decode to scale * point + offset."""
        blocks = self.blocks(examples.copy())
        rng = np.random.default_rng(1)
        n = len(examples)
        expected = np.empty((n, self.block_size), np.float32)
        for index, unit in enumerate(self.units):
            targets = rng.standard_normal((n, len(unit.columns))).astype(np.float32)
            targets *= 3 * abs(blocks.scale[:, unit.columns]) * max(abs(n.points).max() for n in unit.numbers)
            expected[:, unit.columns] = blocks.choose(index, targets + blocks.offset[:, unit.columns])
        decoded = self.decode(blocks.bytes())
        size = abs(decoded).max(axis=1, keepdims=True)
        return bool((abs(decoded - expected) <= 1e-3 * size).all())


class Blocks:
    """Encoded blocks whose codes are being changed: ``choose`` for one unit after the other, then ``bytes``."""

    def __init__(self, chooser: Chooser, encoded: "NDArray[np.uint8]") -> None:
        self._chooser = chooser
        self._bits = np.unpackbits(encoded, axis=1, bitorder="little")
        self.scale, self.offset = chooser.levels(encoded)
        with np.errstate(divide="ignore"):
            self._inverse = np.where(self.scale == 0, np.float32(0), 1 / self.scale)
        self._codes = [[np.zeros(0, np.intp) for _ in unit.numbers] for unit in chooser.units]
        self._signs = [np.zeros((0, 0), np.uint8) for _ in chooser.units]

    def choose(
        self, unit: int, targets: "Floats", weights: "Floats | None" = None, metric: "Floats | None" = None
    ) -> "Floats":
        """Choose the codes of one unit in all blocks, and return what they decode to: float32 (n, columns).

        ``targets`` is float32 (n, columns). ``weights`` are the costs of squared errors, float32 (columns,); ``metric``
        (columns, columns), if given, is the cost of errors together, and is used where the type has no signs.
        """
        u = self._chooser.units[unit]
        columns = u.columns
        if len(columns) == 1:  # slices are much faster than lists of columns
            column = int(columns[0])
            columns = slice(column, column + 1)
        scale, offset = self.scale[:, columns], self.offset[:, columns]
        wanted = (targets - offset) * self._inverse[:, columns]
        if len(u.columns) == 1:
            code, points = _nearest(u.numbers[0], wanted[:, 0])
            self._codes[unit][0] = code
            return points[:, None] * scale + offset
        weights = np.ones(len(u.columns), np.float32) if weights is None else weights
        flip = None
        if len(u.sign_bits):
            flip = wanted < 0
            if u.parity is not None:
                odd = (flip & u.parity).sum(axis=1) % 2 == 1
                cheapest = np.where(u.parity, abs(wanted) * weights, np.inf).argmin(axis=1)
                rows = np.flatnonzero(odd)
                flip[rows, cheapest[rows]] ^= True
            wanted = np.where(flip, -wanted, wanted)
            self._signs[unit] = flip[:, u.signs_of]
        found = np.empty_like(wanted)
        for index, number in enumerate(u.numbers):
            places = number.places
            z, p = wanted[:, places], number.points
            if metric is not None and flip is None and len(u.numbers) == 1:
                cost = z @ (np.float32(-2) * (p @ metric)).T
                cost += np.einsum("ck,kl,cl->c", p, metric, p)
            else:
                w = weights[places]
                cost = z @ (np.float32(-2) * p * w).T
                cost += (p * p) @ w
            code = cost.argmin(axis=1)
            self._codes[unit][index] = code
            found[:, places] = p[code]
        if flip is not None:
            np.negative(found, out=found, where=flip)
        return found * scale + offset

    def keep(self, unit: int, rows: "NDArray[np.bool_]") -> None:
        """Take the choice for a unit back in some blocks: its codes there stay what they were."""
        u = self._chooser.units[unit]
        for index, number in enumerate(u.numbers):
            old = (self._bits[rows][:, number.bits].astype(np.intp) << np.arange(len(number.bits))).sum(axis=1)
            self._codes[unit][index][rows] = old
        if len(u.sign_bits):
            self._signs[unit][rows] = self._bits[rows][:, u.sign_bits]

    def bytes(self) -> "NDArray[np.uint8]":
        """The blocks with the codes that were chosen: uint8 (n, type_size). Every unit must have been chosen once."""
        bits = self._bits
        for unit, codes, signs in zip(self._chooser.units, self._codes, self._signs, strict=True):
            for number, code in zip(unit.numbers, codes, strict=True):
                bits[:, number.bits] = (code[:, None] >> np.arange(len(number.bits))) & 1
            if len(unit.sign_bits):
                bits[:, unit.sign_bits] = signs
        return np.packbits(bits, axis=1, bitorder="little")


def _nearest(number: _Number, wanted: "Floats") -> "tuple[NDArray[np.intp], Floats]":
    """The values whose points are nearest, and these points."""
    if number.steps is not None:
        first, step = number.steps
        at = np.rint((wanted - np.float32(first)) * np.float32(1 / step))
        np.clip(at, 0, len(number.order) - 1, out=at)
        places = at.astype(np.intp)
    else:
        places = np.searchsorted(number.middles, wanted)
    code = number.order[places]
    return code, number.points[code, 0]


# ---- points ----


def _units(codes: Codes, decode: "Decode", examples: "NDArray[np.uint8]") -> list[_Unit] | None:
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
            numbers.append(_Number(places, bits_of, points, order, middles, steps, *pair))
        units.append(_Unit(unit.columns, sign_bits, parity, signs_of, tuple(numbers)))
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
