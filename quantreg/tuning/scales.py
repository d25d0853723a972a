"""Fit the scales and minimums of encoded blocks to the codes that were chosen, by the metric of the products.

They are found as codes are, by flipping bits. What is no code is part of a number that many weights share. Bits that
change the same weights in the same way belong to one number: a scale, a minimum, or the scale of scales. A step of such
a number changes the values of its weights by what a decoded block shows, and the metric says what the change costs. So
this works for every type whose codes are found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Decode = Callable[[NDArray[np.uint8]], Floats]

__all__ = ["Scales"]

TRIED = 12  # example blocks whose bits are flipped
MOST_BITS = 1024  # of a block that are no codes
MOST_DIGITS = 32  # of one number
STEPS = 2  # by which the numbers of a part may change at once
TOGETHER = 2  # numbers of one part whose steps are tried together: a scale and a minimum
FAR = 256  # steps by which a number of the whole block may change at once


@dataclass(frozen=True, slots=True)
class _Number:
    """An unsigned number in a block: its bits, the lowest first."""

    bits: "NDArray[np.intp]"

    @property
    def most(self) -> int:
        return (1 << len(self.bits)) - 1

    def read(self, bits: "NDArray[np.uint8]") -> "NDArray[np.int64]":
        shifts = np.arange(len(self.bits), dtype=np.int64)
        found: NDArray[np.int64] = (bits[:, self.bits].astype(np.int64) << shifts).sum(axis=1)
        return found

    def write(self, bits: "NDArray[np.uint8]", values: "NDArray[np.int64]") -> None:
        bits[:, self.bits] = values[:, None] >> np.arange(len(self.bits), dtype=np.int64) & 1

    def up(self, bits: "NDArray[np.uint8]") -> "NDArray[np.int64]":
        """Take a step up in all blocks, or down where the number is at its largest; return 1 or -1 for each."""
        value = self.read(bits)
        step = np.where(value < self.most, 1, -1)
        self.write(bits, value + step)
        return step


class Scales:
    """The numbers of a type that scale its blocks or parts of them. `Scales.of` finds them.

    Columns are those of the values that ``decoded`` returns: float32 (block_size, n) for n blocks.
    """

    def __init__(
        self, decoded: "Decode", whole: list[_Number], parts: "list[tuple[NDArray[np.intp], list[_Number]]]"
    ) -> None:
        self._decoded, self._whole, self._parts = decoded, whole, parts
        self._most = max((len(numbers) for _, numbers in parts), default=0)

    @classmethod
    def of(cls, decoded: "Decode", codes: "NDArray[np.uint8]", examples: "NDArray[np.uint8]") -> "Scales":
        """Find the numbers in encoded blocks, uint8 (n, type_size), with scales as they occur.

        ``codes``, uint8 (type_size,), has the bits set that are codes.
        """
        places = np.flatnonzero(np.unpackbits(codes, bitorder="little") == 0)
        if not 0 < len(places) <= MOST_BITS:
            return cls(decoded, [], [])
        effect = np.stack([_effect(decoded, block, places) for block in examples[:TRIED]])  # (blocks, columns, bits)
        reach = (effect != 0).any(axis=0)
        groups: dict[bytes, list[int]] = {}
        for bit in range(len(places)):
            groups.setdefault(reach[:, bit].tobytes(), []).append(bit)
        whole: list[_Number] = []
        parts = []
        for key, bits in groups.items():
            columns = np.flatnonzero(np.frombuffer(key, bool))
            if not len(columns):
                continue
            found = [one for one in _parallel(effect[:, columns], bits) if len(one) <= MOST_DIGITS]
            if len(columns) > effect.shape[1] // 2:  # floating-point numbers, whose bits have their usual order
                whole += [_Number(places[one]) for one in found]
            else:  # whole ones, whose bits may be anywhere
                found = [_by_size(effect[:, columns], one) for one in found[:TOGETHER]]
                parts.append((columns, [_Number(places[one]) for one in found]))
        return cls(decoded, whole, parts)

    def refit(
        self, q: "Floats", gradient: "Floats", metric: "Floats", encoded: "NDArray[np.uint8]"
    ) -> "tuple[NDArray[np.uint8], Floats]":
        """Change the numbers of blocks where that lowers the loss: the blocks, and how much their values changed.

        ``q`` holds the values of the blocks, float32 (columns, n). A change c of a column of q costs
        c metric c^T - 2 gradient c^T.
        """
        bits = np.unpackbits(encoded, axis=1, bitorder="little")
        with np.errstate(all="ignore"):
            self._refit_parts(bits, q, gradient.copy(), metric)
            if self._whole:
                self._refit_whole(bits, q, gradient, metric)
            found = np.packbits(bits, axis=1, bitorder="little")
            change = self._decoded(found) - q
            lower = np.einsum("ir,ir->r", change, metric @ change - 2 * gradient) < 0
        change[:, ~lower] = 0
        return np.where(lower[:, None], found, encoded), change

    def _values(self, bits: "NDArray[np.uint8]") -> "Floats":
        return self._decoded(np.packbits(bits, axis=1, bitorder="little"))

    def _refit_parts(self, bits: "NDArray[np.uint8]", q: "Floats", gradient: "Floats", metric: "Floats") -> None:
        """Change the numbers of one part after the other by a few steps. Changes ``bits`` and ``gradient``."""
        effects = [self._step(bits, q, place) for place in range(self._most)]  # parts share no columns
        for columns, numbers in self._parts:
            own = [effect[columns] for effect, _ in zip(effects, numbers, strict=False)]
            values = [number.read(bits) for number in numbers]
            steps = _best_steps(own, gradient[columns], metric[np.ix_(columns, columns)])
            fits = np.ones(len(bits), bool)
            for number, value, step in zip(numbers, values, steps, strict=True):
                fits &= (value + step >= 0) & (value + step <= number.most)
            change = np.zeros_like(own[0])
            for number, value, step, effect in zip(numbers, values, steps, own, strict=True):
                taken = np.where(fits, step, 0)
                number.write(bits, value + taken)
                change += effect * taken.astype(np.float32)
            gradient -= metric[:, columns] @ change

    def _step(self, bits: "NDArray[np.uint8]", q: "Floats", place: int) -> "Floats":
        """What one step up of the number ``place`` of each part changes: float32 (columns, n)."""
        trial, signs = bits.copy(), np.ones_like(q)
        for columns, numbers in self._parts:
            if place < len(numbers):
                signs[columns] = numbers[place].up(trial).astype(np.float32)
        effect: Floats = (self._values(trial) - q) * signs
        return effect

    def _refit_whole(self, bits: "NDArray[np.uint8]", q: "Floats", gradient: "Floats", metric: "Floats") -> None:
        """Give the numbers of the whole block the values of least loss, as far as steps are equal. Changes ``bits``."""
        now = self._values(bits)
        effects = []
        for number in self._whole:
            trial = bits.copy()
            step = number.up(trial).astype(np.float32)
            effects.append(step * (self._values(trial) - now))
        left = gradient - metric @ (now - q)
        count = len(effects)
        square, slope = np.empty((len(bits), count, count)), np.empty((len(bits), count, 1))
        for i, effect in enumerate(effects):
            moved = metric @ effect
            slope[:, i, 0] = np.einsum("ir,ir->r", effect, left)
            for j in range(count):
                square[:, i, j] = np.einsum("ir,ir->r", effects[j], moved)
        size = np.einsum("rii->ri", square)
        size += 1e-6 * size.max(axis=1, keepdims=True) + 1e-30  # numbers that do the same share the steps
        steps = np.clip(np.nan_to_num(np.rint(np.linalg.solve(square, slope)[..., 0])), -FAR, FAR).astype(np.int64)
        for number, step in zip(self._whole, steps.T, strict=True):
            number.write(bits, np.clip(number.read(bits) + step, 0, number.most))


def _effect(decoded: "Decode", block: "NDArray[np.uint8]", places: "NDArray[np.intp]") -> "NDArray[np.float64]":
    """What each of some bits of a block changes when it becomes 1 in place of 0: float64 (columns, bits)."""
    variants = np.repeat(block[None], len(places) + 1, axis=0)
    variants[np.arange(len(places)), places // 8] ^= (1 << (places % 8)).astype(np.uint8)
    with np.errstate(all="ignore"):
        values = decoded(variants).astype(np.float64)
        change = values[:, :-1] - values[:, -1:]
    change[~np.isfinite(change)] = 0
    found: NDArray[np.float64] = change * (1 - 2.0 * np.unpackbits(block, bitorder="little")[places])
    return found


def _parallel(effect: "NDArray[np.float64]", bits: list[int]) -> list[list[int]]:
    """Groups of bits whose effects, float64 (blocks, columns, bits), are parallel in each block."""
    found: list[list[int]] = []
    for bit in bits:
        for group in found:
            a, b = effect[..., group[0]], effect[..., bit]
            if ((a * b).sum(axis=1) ** 2 >= 0.99 * (a * a).sum(axis=1) * (b * b).sum(axis=1)).all():
                group.append(bit)
                break
        else:
            found.append([bit])
    return found


def _by_size(effect: "NDArray[np.float64]", bits: list[int]) -> list[int]:
    """Bits of one number, that with the smallest effect first."""
    size = abs(effect[..., bits]).max(axis=1)
    share = np.median(size / np.maximum(size.max(axis=1, keepdims=True), 1e-300), axis=0)
    return [bits[i] for i in np.argsort(share, kind="stable")]


def _best_steps(effects: "list[Floats]", gradient: "Floats", metric: "Floats") -> "list[NDArray[np.int64]]":
    """The steps of the numbers of one part that lower the loss most, ``STEPS`` at most, each int64 (n,)."""
    pairs = [(i, j) for i in range(len(effects)) for j in range(i + 1)]
    moved = [metric @ effect for effect in effects]
    terms = [np.einsum("ir,ir->r", effects[i], moved[j]) for i, j in pairs]
    terms += [np.einsum("ir,ir->r", effect, gradient) for effect in effects]
    grid, factors = _grid(len(effects))
    best = grid[(factors @ np.stack(terms)).argmin(axis=0)]
    return [best[:, i] for i in range(len(effects))]


@lru_cache(maxsize=TOGETHER)
def _grid(count: int) -> "tuple[NDArray[np.int64], Floats]":
    """All steps of some numbers, int64 (grid, count), no step first; and what the terms of a loss are multiplied by."""
    line = sorted(range(-STEPS, STEPS + 1), key=abs)
    grid = np.array(list(product(line, repeat=count)), np.int64)
    pairs = [(i, j) for i in range(count) for j in range(i + 1)]
    factors = [grid[:, i] * grid[:, j] * (1 if i == j else 2) for i, j in pairs]
    factors += [-2 * grid[:, i] for i in range(count)]
    return grid, np.stack(factors, axis=1).astype(np.float32)
