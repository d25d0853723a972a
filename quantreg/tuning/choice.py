"""Choose codes in encoded blocks, with the scales as they stand.

All codes of a unit decode to scale * point + offset, where the points belong to the type, and scale and offset to the
block. Two decodings of a block with known codes give its scale and offset, so that the best code for a target is found
without decoding all of them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from quantreg.tuning.codes import find_codes
from quantreg.tuning.points import Coded, Number, coded_units
from quantreg.tuning.scales import Scales

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Decode = Callable[[NDArray[np.uint8]], Floats]
    _Choice = tuple[Floats, NDArray[np.intp], NDArray[np.bool_]]

__all__ = ["Blocks", "Chooser"]


class Chooser:
    """Chooses codes of one type. `Chooser.of` makes it, or returns None for a type whose codes cannot be found."""

    units: list[Coded]
    decode: "Decode"
    type_size: int
    block_size: int
    spans: "list[slice[int, int, None]]"
    layout: "_Layout"
    scales: Scales  # of its blocks, with columns in the order of the units

    def __init__(self, units: list[Coded], decode: "Decode", type_size: int, block_size: int) -> None:
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
        units = coded_units(codes, decode, examples)
        if units is None:
            return None
        found = cls(units, decode, type_size, block_size)
        if not found._holds(examples):
            return None
        found.scales = Scales.of(found.decoded, found.layout.mask, examples)
        return found

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

    def levels_at(self, encoded: "NDArray[np.uint8]", columns: "NDArray[np.intp]") -> "tuple[Floats, Floats]":
        """The scale and offset of the weights in some columns of blocks: two float32 arrays (n, columns).

        For types without signs of their own. Much less than `levels`, where the weights of many columns share both.
        """
        others = encoded & ~self.layout.mask
        place = np.argsort(self.columns)[columns]
        first, second = self._points[0][place], self._points[1][place]
        one, two = (self.decode(others | each)[:, columns] for each in (self._first, self._second))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scale = (two - one) / (second - first)
            return scale, one - scale * first

    def decoded(self, encoded: "NDArray[np.uint8]") -> "Floats":
        """What blocks decode to: float32 (block_size, n), in the order of the units."""
        return self._by_unit(self.decode(encoded))

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

    def __init__(self, units: list[Coded], type_size: int) -> None:
        self.type_size = type_size
        bits = np.zeros(8 * type_size, np.uint8)
        numbers = [(unit, number) for unit in units for number in unit.numbers]
        self.count: int = len(numbers)
        self.first: list[int] = np.cumsum([0, *(len(unit.numbers) for unit in units)]).tolist()
        self.first_sign: list[int] = np.cumsum([0, *(len(unit.sign_bits) for unit in units)]).tolist()
        self.signs: NDArray[np.intp] = np.concatenate([unit.sign_bits for unit in units]).astype(np.intp)
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
        self.mask: NDArray[np.uint8] = np.packbits(bits, bitorder="little")

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

    Weights are float32 (columns, n): one row for each column of the units, in their order, so that a column of all
    column of all blocks. ``scale`` and ``offset`` have this form.
    """

    scale: "Floats"
    offset: "Floats"

    def __init__(self, chooser: Chooser, encoded: "NDArray[np.uint8]") -> None:
        self._chooser, self._encoded = chooser, encoded
        self.scale, self.offset = chooser.levels(encoded)
        self._inverse, self._size, self._zero = chooser.centred(self.scale, self.offset)
        self._codes = np.zeros((chooser.layout.count, len(encoded)), np.uint16)
        self._signs = np.zeros((len(chooser.layout.signs), len(encoded)), bool)
        self._stood: Floats | None = None

    def choose(
        self, unit: int, targets: "Floats", weights: "Floats | None" = None, metric: "Floats | None" = None
    ) -> "Floats":
        """Choose the codes of one unit in all blocks, and return what they decode to: float32 (columns, n).

        ``targets`` is float32 (columns, n). ``weights`` are the costs of squared errors, float32 (columns,). A
        ``metric``, float32 (columns, columns), is the cost of errors together, in place of the weights. A block never
        costs more than with the codes that stood there.
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
        if metric is None:
            metric = np.eye(len(u.columns), dtype=np.float32) if weights is None else np.diag(weights)
        found, codes, flip = _choice(u, wanted, np.ascontiguousarray(np.diag(metric)), metric)
        found *= size
        found += zero
        at_sign = self._chooser.layout.first_sign[unit]
        self._codes[at : at + len(u.numbers)] = codes
        self._signs[at_sign : at_sign + len(u.sign_bits)] = flip[u.signs_of]
        if len(u.sign_bits) or len(u.numbers) > 1:  # these are chosen one after the other
            stood = self._before()[span]
            worse = ~(_cost(targets - found, metric) <= _cost(targets - stood, metric))
            if worse.any():
                self._keep(unit, worse)
                found[:, worse] = stood[:, worse]
        return found

    def _before(self) -> "Floats":
        """What the blocks decoded to before codes were chosen."""
        if self._stood is None:
            self._stood = self._chooser.decoded(self._encoded)
        return self._stood

    def _keep(self, unit: int, blocks: "NDArray[np.bool_]") -> None:
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


def _nearest(number: Number, wanted: "Floats", codes: "NDArray[np.uint16]") -> "Floats":
    """Write the places of the points that are nearest, and return these points, evenly spaced ones in steps."""
    if number.steps is None:
        codes[:] = np.searchsorted(number.middles, wanted)
        return number.line[codes]
    at = np.rint(wanted, out=wanted)
    np.fmax(at, 0, out=at)  # a NaN becomes 0
    np.fmin(at, len(number.line) - 1, out=at)
    codes[:] = at
    return at


def _choice(u: Coded, wanted: "Floats", weights: "Floats", metric: "Floats") -> "_Choice":
    """Choose signs and points of a unit for multiples of its scale: (points, codes, signs), as columns of blocks."""
    codes = np.empty((len(u.numbers), wanted.shape[1]), np.intp)
    flip = wanted < 0
    if not len(u.sign_bits):
        return _points(u, wanted, weights, metric, codes), codes, flip
    size = abs(wanted)
    if u.parity is None:
        found = _points(u, size, weights, None, codes)
    else:
        # An odd number of negative weights is one too many or too few. The sign that costs least depends on the points,
        # so the two that seem cheapest are tried.
        odd = np.flatnonzero((flip & u.parity[:, None]).sum(axis=0) % 2 == 1)
        each = np.arange(len(odd))
        cost = np.where(u.parity[:, None], size[:, odd] * weights[:, None], np.inf)
        turned = cost.argmin(axis=0)
        size[turned, odd] *= -1
        found = _points(u, size, weights, None, codes)
        cost[turned, each] = np.inf
        second = cost.argmin(axis=0)
        other, others = abs(wanted[:, odd]), np.empty((len(codes), len(odd)), np.intp)
        other[second, each] *= -1
        points = _points(u, other, weights, None, others)
        diagonal = np.diag(weights)
        less = _cost(other - points, diagonal) < _cost(size[:, odd] - found[:, odd], diagonal)
        found[:, odd[less]], codes[:, odd[less]] = points[:, less], others[:, less]
        flip[np.where(less, second, turned), odd] ^= True
    np.negative(found, out=found, where=flip)
    return found, codes, flip


def _points(
    u: Coded, wanted: "Floats", weights: "Floats", metric: "Floats | None", codes: "NDArray[np.intp]"
) -> "Floats":
    """The points of the numbers of a unit that cost least; writes their codes."""
    found = np.empty_like(wanted)
    for index, number in enumerate(u.numbers):
        places = number.places
        own = np.diag(weights[places]) if metric is None or len(u.numbers) > 1 else metric
        codes[index] = _cheapest(number.points, wanted[places], own)
        found[places] = number.points.T[:, codes[index]]
    return found


def _cost(error: "Floats", metric: "Floats") -> "Floats":
    """e metric e^T for each column e."""
    return np.einsum("ir,ir->r", error, metric @ error)


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
