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

    ``points`` is float32 (values, columns). If there is one column, ``order`` sorts the points, ``line`` holds them in this
    order, and ``middles`` are the places between two of them. ``first`` and ``second`` are two values whose points differ
    in all columns.
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
        self.columns: NDArray[np.intp] = np.concatenate([unit.columns for unit in units])  # in the order of the units
        ends = np.cumsum([len(unit.columns) for unit in units]).tolist()
        self.spans = [slice(end - len(unit.columns), end) for unit, end in zip(units, ends, strict=True)]
        self._in_order = bool((self.columns == np.arange(block_size)).all())
        self._first = self._template([[n.first for n in u.numbers] for u in units])
        self._second = self._template([[n.second for n in u.numbers] for u in units])
        self._symmetric = np.zeros(block_size, bool)
        points = np.empty((2, block_size), np.float32)
        # Evenly spaced points are counted in steps, so that rounding finds the nearest.
        self._start, self._step = np.zeros(block_size, np.float32), np.ones(block_size, np.float32)
        for unit, span in zip(units, self.spans, strict=True):
            self._symmetric[span] = len(unit.sign_bits) > 0
            for number in unit.numbers:
                places = span.start + number.places
                points[0, places], points[1, places] = number.points[number.first], number.points[number.second]
            steps = unit.numbers[0].steps
            if len(unit.columns) == 1 and steps is not None:
                self._start[span], self._step[span] = steps
        self._points = points[0], points[1]
        self.layout = _Layout(units, type_size)

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
        """The bytes of a block whose numbers have these values and whose signs are all plus."""
        bits = np.zeros(8 * self.type_size, np.uint8)
        for unit, chosen in zip(self.units, values, strict=True):
            for number, value in zip(unit.numbers, chosen, strict=True):
                bits[number.bits] = value >> np.arange(len(number.bits)) & 1
        return np.packbits(bits, bitorder="little")

    def levels(self, encoded: "NDArray[np.uint8]") -> "tuple[Floats, Floats]":
        """The scale and offset of every weight of encoded blocks: two float32 arrays (block_size, n), by units."""
        others = encoded & ~self.layout.mask
        one = self._by_unit(self.decode(others | self._first))
        first, second = self._points[0][:, None], self._points[1][:, None]
        if self._symmetric.all():
            return one / first, np.zeros_like(one)
        two = self._by_unit(self.decode(others | self._second))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scale = (two - one) / (second - first)
            symmetric = self._symmetric[:, None]
            if symmetric.any():
                scale = np.where(symmetric, one / first, scale)
                return scale, np.where(symmetric, np.float32(0), one - scale * first)
            return scale, one - scale * first

    def _by_unit(self, decoded: "Floats") -> "Floats":
        """Decoded blocks (n, block_size) as (block_size, n), in the order of the units."""
        return np.ascontiguousarray(decoded.T if self._in_order else decoded.T[self.columns])

    def _holds(self, examples: "NDArray[np.uint8]") -> bool:
        """Whether random codes decode to scale * point + offset."""
        blocks = self.blocks(examples)
        rng = np.random.default_rng(1)
        expected = np.empty((self.block_size, len(examples)), np.float32)
        for index, (unit, span) in enumerate(zip(self.units, self.spans, strict=True)):
            targets = rng.standard_normal((len(unit.columns), len(examples))).astype(np.float32)
            targets *= 3 * abs(blocks.scale[span]) * max(abs(n.points).max() for n in unit.numbers)
            expected[span] = blocks.choose(index, targets + blocks.offset[span])
        decoded = self._by_unit(self.decode(blocks.bytes()))
        return bool((abs(decoded - expected) <= 1e-3 * abs(decoded).max(axis=0)).all())

    def centred(self, scale: "Floats", offset: "Floats") -> "tuple[Floats, Floats, Floats]":
        """What turns weights into multiples of a step, and back: (w - zero) * inverse, and steps * size + zero."""
        size = scale * self._step[:, None]
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.where(size == 0, np.float32(0), 1 / size)
        return np.where(np.isfinite(inverse), inverse, 0), size, offset + scale * self._start[:, None]


class _Layout:
    """Which bits of a block the codes of all units are."""

    def __init__(self, units: list[_Unit], type_size: int) -> None:
        self.type_size = type_size
        bits = np.zeros(8 * type_size, np.uint8)
        numbers = [(unit, number) for unit in units for number in unit.numbers]
        self.count = len(numbers)
        self.first = np.cumsum([0, *(len(unit.numbers) for unit in units)]).tolist()
        self.first_sign = np.cumsum([0, *(len(unit.sign_bits) for unit in units)]).tolist()
        self.signs = np.concatenate([unit.sign_bits for unit in units]).astype(np.intp)
        self.steps: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []  # for bit k of the numbers: numbers, places
        for k in range(max(len(number.bits) for _, number in numbers)):
            have = [i for i, (_, number) in enumerate(numbers) if len(number.bits) > k]
            self.steps.append((np.array(have), np.array([numbers[i][1].bits[k] for i in have])))
        # Codes of single columns are kept as places in the order of the points.
        by_order: dict[bytes, list[int]] = {}
        for i, (unit, number) in enumerate(numbers):
            if len(unit.columns) == 1 and (number.order != np.arange(len(number.order))).any():
                by_order.setdefault(number.order.tobytes(), []).append(i)
        self.orders = [(np.array(rows), numbers[rows[0]][1].order.astype(np.uint16)) for rows in by_order.values()]
        bits[self.signs] = 1
        for _, number in numbers:
            bits[number.bits] = 1
        self.mask = np.packbits(bits, bitorder="little")

    def write(
        self, encoded: "NDArray[np.uint8]", codes: "NDArray[np.uint16]", signs: "NDArray[np.bool_]"
    ) -> "NDArray[np.uint8]":
        """Encoded blocks (n, type_size) with these codes (numbers, n) and signs (sign bits, n)."""
        for rows, order in self.orders:
            codes[rows] = order[codes[rows]]
        bits = np.zeros((8 * self.type_size, len(encoded)), np.uint8)
        for k, (rows, places) in enumerate(self.steps):
            bits[places] = (codes[rows] >> np.uint16(k)).astype(np.uint8) & 1
        bits[self.signs] = signs
        of_byte = bits.reshape(self.type_size, 8, -1)
        packed = of_byte[:, 0]
        for k in range(1, 8):
            packed |= of_byte[:, k] << np.uint8(k)
        return encoded & ~self.mask | packed.T


class Blocks:
    """Encoded blocks whose codes are being changed: ``choose`` for one unit after the other, then ``bytes``.

    Weights are float32 (columns, n): one row per column of the units, in their order, so that a column of all blocks lies
    together. ``scale`` and ``offset`` have this form.
    """

    def __init__(self, chooser: Chooser, encoded: "NDArray[np.uint8]") -> None:
        self._chooser, self._encoded = chooser, encoded
        self.scale, self.offset = chooser.levels(encoded)
        self._inverse, self._size, self._zero = chooser.centred(self.scale, self.offset)
        self._codes = np.zeros((chooser.layout.count, len(encoded)), np.uint16)
        self._signs = np.zeros((len(chooser.layout.signs), len(encoded)), bool)

    def choose(
        self, unit: int, targets: "Floats", weights: "Floats | None" = None, metric: "Floats | None" = None
    ) -> "Floats":
        """Choose the codes of one unit in all blocks, and return what they decode to: float32 (columns, n).

        ``targets`` is float32 (columns, n). ``weights`` are the costs of squared errors, float32 (columns,); ``metric``
        (columns, columns), if given, is the cost of errors together, and is used where the type has no signs.
        """
        u, span = self._chooser.units[unit], self._chooser.spans[unit]
        at = self._chooser.layout.first[unit]
        size, zero = self._size[span], self._zero[span]
        wanted = targets - zero
        wanted *= self._inverse[span]
        if len(u.columns) == 1:
            found = _nearest(u.numbers[0], wanted[0], self._codes[at])
            found = found * size[0]
            found += zero[0]
            return found[None]
        weights = np.ones(len(u.columns), np.float32) if weights is None else weights
        flip = None
        if len(u.sign_bits):
            flip = wanted < 0
            wanted = abs(wanted)
            if u.parity is not None:
                rows = np.flatnonzero((flip & u.parity[:, None]).sum(axis=0) % 2 == 1)
                cost = np.where(u.parity[:, None], wanted[:, rows] * weights[:, None], np.inf)
                cheapest = cost.argmin(axis=0)
                flip[cheapest, rows] ^= True
                wanted[cheapest, rows] *= -1
            first = self._chooser.layout.first_sign[unit]
            self._signs[first : first + len(u.sign_bits)] = flip[u.signs_of]
        found = np.empty_like(wanted)
        for index, number in enumerate(u.numbers):
            places = number.places
            own = np.diag(weights[places]) if metric is None or flip is not None or len(u.numbers) > 1 else metric
            code = _cheapest(number.points, wanted[places], own)
            self._codes[at + index] = code
            found[places] = number.points.T[:, code]
        if flip is not None:
            np.negative(found, out=found, where=flip)
        found *= size
        found += zero
        return found

    def keep(self, unit: int, blocks: "NDArray[np.bool_]") -> None:
        """Take the choice for a unit of several columns back in some blocks: its codes there stay what they were."""
        u, layout = self._chooser.units[unit], self._chooser.layout
        old = np.unpackbits(self._encoded[blocks], axis=1, bitorder="little").T
        for index, number in enumerate(u.numbers):
            values = old[number.bits].astype(np.uint16) << np.arange(len(number.bits), dtype=np.uint16)[:, None]
            self._codes[layout.first[unit] + index, blocks] = values.sum(axis=0, dtype=np.uint16)
        first = layout.first_sign[unit]
        self._signs[first : first + len(u.sign_bits), blocks] = old[u.sign_bits]

    def bytes(self) -> "NDArray[np.uint8]":
        """The blocks with the codes that were chosen: uint8 (n, type_size). Every unit must have been chosen once."""
        return self._chooser.layout.write(self._encoded, self._codes.copy(), self._signs)


def _nearest(number: _Number, wanted: "Floats", codes: "NDArray[np.uint16]") -> "Floats":
    """Write the places of the points that are nearest, and return these points, evenly spaced ones in steps."""
    if number.steps is None:
        codes[:] = np.searchsorted(number.middles, wanted)
        return number.line[codes]
    at = np.rint(wanted, out=wanted)
    np.fmax(at, 0, out=at)  # a NaN becomes 0
    np.fmin(at, len(number.line) - 1, out=at)
    codes[:] = at
    return at


COSTS = 1 << 16  # costs that are computed together: 256 KiB stay in the cache


def _cheapest(points: "Floats", wanted: "Floats", metric: "Floats") -> "NDArray[np.intp]":
    """For each column of ``wanted``, (dimensions, n), the point (values, dimensions) of the lowest e metric e^T."""
    n = wanted.shape[1]
    moved = points @ metric
    # e M e^T = p M p^T - 2 z M p^T + a constant: one product, with a one behind each z.
    table = np.vstack([np.float32(-2) * moved.T, np.einsum("ck,ck->c", moved, points)[None]])
    z = np.ones((n, len(table)), np.float32)
    z[:, :-1] = wanted.T
    step = max(32, COSTS // len(points))
    costs = np.empty((min(step, n), len(points)), np.float32)
    code = np.empty(n, np.intp)
    for first in range(0, n, step):
        part = z[first : first + step]
        code[first : first + step] = np.matmul(part, table, out=costs[: len(part)]).argmin(axis=1)
    return code


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
            numbers.append(_Number(places, bits_of, points, order, line, middles, steps, *pair))
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
