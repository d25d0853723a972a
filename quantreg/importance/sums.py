"""Sums of squared activations in memory: they grow during calibration, and those of several files add up."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantreg.errors import ImportanceError
from quantreg.importance.stored import FileEntries, divided, where

if TYPE_CHECKING:
    from quantreg.importance.matrix import ImportanceMatrix

__all__ = ["Sums"]

CHUNK = 512  # tokens, where neither the caller nor a file says how long a chunk is: the default of llama-imatrix


class Sums(Mapping[str, NDArray[np.float32]]):
    """Entries as sums and counts. As a mapping it gives the means: float32 (n_experts * n_cols,), read-only.

    Sums are kept in float64, so that the order in which parts are added does not matter in float32.
    """

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._counts: dict[str, NDArray[np.int64]] = {}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return divided(self.sums(name), self.counts(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def __contains__(self, name: object) -> bool:
        return name in self._sums

    def n_values(self, name: str) -> int:
        """The number of values in an entry."""
        return self._sums[name].size

    def counts(self, name: str) -> tuple[int, ...]:
        """How many tokens were added to each row of an entry."""
        return tuple(self._counts[name].tolist())

    def sums(self, name: str) -> NDArray[np.float32]:
        """The sums of an entry."""
        return self._sums[name].astype(np.float32)

    def add(self, name: str, sums: NDArray[np.floating], counts: NDArray[np.int64], path: str | None = None) -> None:
        """Add to an entry, or begin it: the sums of its rows (any shape), and one count per expert or one for all.

        Raises ImportanceError, which names the file at ``path``, if the entry has other dimensions.
        """
        sums = sums.reshape(-1)
        if name not in self._sums:
            self._sums[name] = sums.astype(np.float64)
            self._counts[name] = counts.astype(np.int64)
            return
        total, known = self._sums[name], self._counts[name]
        if total.size != sums.size or (len(known) != len(counts) and 1 not in (len(known), len(counts))):
            raise ImportanceError(
                f"{where(path)}entry {name} has {sums.size} values and {len(counts)} counts, but {total.size} values "
                f"and {len(known)} counts were collected before: combine matrices of the same model"
            )
        total += sums
        self._counts[name] = known + counts  # older files have one count for all experts, which holds for each

    def add_matrix(self, matrix: "ImportanceMatrix", chunk: int) -> None:
        """Add all entries of a matrix. ``chunk`` is how many tokens a chunk of a legacy file had."""
        entries = matrix.entries
        for name in entries:
            counts = np.array(matrix.counts(name) or (1,), np.int64)
            sums = matrix.sums(name).astype(np.float64)
            if isinstance(entries, FileEntries) and entries.legacy:
                self.add(name, sums * chunk, counts * chunk, matrix.path)
            else:
                self.add(name, sums, counts, matrix.path)

    def chunks(self, chunk: int) -> int:
        """How many chunks of this many tokens were added, going by the highest count."""
        return max((int(counts.max()) for counts in self._counts.values()), default=0) // chunk
