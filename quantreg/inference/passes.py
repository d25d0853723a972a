"""One forward pass: its tokens and positions, who watches it, and the threads that it runs on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.cache import Cache
    from quantreg.inference.rope import Rope

__all__ = ["Normed", "Observe", "Pass"]

Observe = Callable[[str, "NDArray[np.float32]", "NDArray[np.intp] | None"], None]
Normed = Callable[["NDArray[np.float32]", "NDArray[np.float32] | None", "NDArray[np.float32]"], None]

BLOCK = 1 << 18  # values per piece of work that goes over an array element by element


@dataclass(slots=True)
class Pass:
    """What all layers share while some tokens go through a model.

    Hidden states have the shape (sequences * tokens, width): the sequences stand one after the other.

    - ``sequences``, ``tokens``: how many sequences there are, and how many tokens each has.
    - ``start``: the position of the first token of each sequence.
    - ``ids``: the tokens, intp (sequences, tokens).
    - ``cache``: the cache of the only sequence, or None.
    - ``observe``: called with the name of each matrix, its input, and the experts chosen for each row or None.
    - ``normed``: called with the input of each norm, its weight or None, and its result.
    - ``threads``: how many threads may work; ``pool`` runs them, or is None for one.
    - ``dry``: only shapes are of interest. Products give zeros, and no weight is decoded.
    """

    sequences: int
    tokens: int
    start: int = 0
    ids: "NDArray[np.intp] | None" = None
    cache: "Cache | None" = None
    observe: Observe | None = None
    normed: Normed | None = None
    threads: int = 1
    pool: ThreadPoolExecutor | None = None
    dry: bool = False
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def positions(self) -> "NDArray[np.intp]":
        """The positions of the tokens of each sequence."""
        return np.arange(self.start, self.start + self.tokens)

    def tables(self, rope: "Rope") -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """The cosines and sines of these positions, computed once for all layers with the same rotation."""
        key = (rope.pairs, rope.dims, rope.base, rope.scale, id(rope.factors), rope.yarn, rope.magnitude)
        if key not in self.shared:
            self.shared[key] = rope.tables(self.positions)
        tables: tuple[NDArray[np.float32], NDArray[np.float32]] = self.shared[key]
        return tables

    def run(self, work: Callable[[Any], None], items: "list[Any]") -> None:
        """Call ``work`` with each item, on the threads of the pass. Items must not write to the same memory."""
        if self.pool is None or len(items) < 2:
            for item in items:
                work(item)
        else:

            def quiet(item: Any) -> None:
                with np.errstate(all="ignore"):  # threads do not inherit what the caller set
                    work(item)

            for _ in self.pool.map(quiet, items):
                pass

    def by_rows(self, work: Callable[[slice], None], shape: tuple[int, ...]) -> None:
        """Call ``work`` with slices that together cover the rows of an array of this shape (rows, cols)."""
        step = max(1, BLOCK // max(1, shape[-1]))
        if shape[0] <= step:
            work(slice(0, shape[0]))
            return
        self.run(work, [slice(a, min(a + step, shape[0])) for a in range(0, shape[0], step)])
