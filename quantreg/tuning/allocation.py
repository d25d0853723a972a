"""Allocation: a type for each tensor, so that the loss is small and the bytes fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from quantreg.errors import PlanError

__all__ = ["Choice", "allocate"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store a tensor: the name of a type, how many bytes it takes, and the loss that it costs."""

    type: str
    nbytes: int
    loss: float


def allocate(choices: Mapping[str, Sequence[Choice]], budget: int) -> dict[str, Choice]:
    """Choose one way to store each tensor, of least total loss within a budget of bytes.

    ``choices`` maps the names of tensors to what they may become. The method is a Lagrange multiplier, the price of a
    byte, found by bisection; then single upgrades and pairs of an upgrade and a downgrade use what is left. Raises
    PlanError if even the smallest choices do not fit.
    """
    names = list(choices)
    tables = [_useful(choices[name]) for name in names]
    smallest = sum(table[0].nbytes for table in tables)
    if smallest > budget:
        raise PlanError(f"the smallest that these types allow is {smallest} bytes, but the budget is {budget} bytes")
    low, high = 0.0, _steepest(tables)
    chosen = [0] * len(tables)
    for _ in range(100):
        price = (low + high) / 2 if low else high / 2**20 if high else 0.0
        tried = [_cheapest(table, price) for table in tables]
        if sum(t[i].nbytes for t, i in zip(tables, tried, strict=True)) <= budget:
            chosen, high = tried, price
        else:
            low = price
        if high - low <= 1e-9 * high:
            break
    _fill(tables, chosen, budget)
    return {name: table[i] for name, table, i in zip(names, tables, chosen, strict=True)}


def _useful(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that no other one beats in both size and loss, the smallest first."""
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.nbytes, c.loss)):
        if not found or choice.loss < found[-1].loss:
            found.append(choice)
    return found


def _cheapest(table: list[Choice], price: float) -> int:
    """Which choice costs least if a byte has a price; the smaller of equals."""
    costs = [(choice.loss + price * choice.nbytes, choice.nbytes) for choice in table]
    return costs.index(min(costs))


def _steepest(tables: list[list[Choice]]) -> float:
    """A price of a byte at which every tensor takes its smallest choice."""
    rates = [(a.loss - b.loss) / (b.nbytes - a.nbytes) for t in tables for a, b in pairwise(t)]
    return 2 * max(rates, default=0.0)


def _fill(tables: list[list[Choice]], chosen: list[int], budget: int) -> None:
    """Use the bytes that are left, as long as that lowers the loss. Changes ``chosen``."""
    used = sum(t[i].nbytes for t, i in zip(tables, chosen, strict=True))
    while True:
        moves = [
            (n, i, t[i].nbytes - t[chosen[n]].nbytes, t[i].loss - t[chosen[n]].loss)
            for n, t in enumerate(tables)
            for i in range(len(t))
            if i != chosen[n]
        ]
        if not moves:
            return
        tensor = np.array([m[0] for m in moves])
        size = np.array([m[2] for m in moves], np.float64)
        gain = np.array([m[3] for m in moves])
        left = budget - used
        alone = np.where(size <= left, gain, 0.0)
        best = int(alone.argmin())
        if alone[best] < 0:
            picked = [best]
        else:
            up, down = np.flatnonzero(gain < 0), np.flatnonzero(gain > 0)
            fits = size[up][:, None] + size[down][None] <= left
            fits &= tensor[up][:, None] != tensor[down][None]
            both = np.where(fits, gain[up][:, None] + gain[down][None], 0.0)
            if not both.size or both.min() >= 0:
                return
            a, b = np.unravel_index(int(both.argmin()), both.shape)
            picked = [int(up[a]), int(down[b])]
        for index in picked:
            n, i, change, _ = moves[index]
            chosen[n] = i
            used += change
