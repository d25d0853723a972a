"""Importance matrices: which input columns of each tensor mattered on calibration text.

The values are llama-quantize's, bit for bit: sums of squared activations divided by the number of additions, in
float32. Files are read entry by entry, so even a matrix for a model with hundreds of experts takes no more memory than
its largest entry.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantreg.arrays import as_array, check_numbers
from quantreg.errors import ImportanceError
from quantreg.html import table
from quantreg.importance.statistics import TensorStatistics, statistics
from quantreg.importance.stored import FileEntries, check_values, find_entries, where
from quantreg.importance.sums import CHUNK, Sums
from quantreg.importance.writing import write_matrix

__all__ = ["ImatrixLike", "ImportanceMatrix"]

_BLOCK = 16  # columns; the smallest block with a scale of its own in a type that reads importance


class ImportanceMatrix(Mapping[str, NDArray[np.float32]]):
    """The importance of the input columns of each tensor.

    ``matrix[name]`` is the entry of a tensor: float32 (n_experts * n_cols,), where a plain matrix counts as one expert.
    An entry of a file is read each time it is asked for. A name without an entry raises KeyError. Two matrices are
    equal only if they are the same object.

    - ``entries``: the mapping that the matrix was made from, or that reads the file.
    - ``dataset``: the name of the calibration text, or None if it is not known. ``datasets``: the names of all texts.
    - ``chunk_count``: how many chunks of the text were used; 0 if that is not known.
    - ``chunk_size``: how many tokens a chunk has; 0 if that is not known, as in legacy files.
    - ``path``: the path of the file, or None.
    - ``warnings``: what `read` and `row` noticed, as sentences.
    """

    def __init__(
        self,
        entries: Mapping[str, ArrayLike],
        *,
        dataset: str | None = None,
        datasets: Sequence[str] = (),
        chunk_count: int = 0,
        chunk_size: int = 0,
        path: str | None = None,
    ) -> None:
        """Make a matrix from statistics of your own: a mapping of tensor names to arrays of any shape.

        Raises ImportanceError for values that are negative or not finite, ShapeError for what is not numbers.
        """
        self.datasets: tuple[str, ...] = tuple(datasets) or (() if dataset is None else (dataset,))
        self.dataset: str | None = self.datasets[0] if self.datasets else None
        self.chunk_count: int = chunk_count
        self.chunk_size: int = chunk_size
        self.path: str | None = path
        self.warnings: list[str] = []
        self.entries: Mapping[str, NDArray[np.float32]]
        if isinstance(entries, FileEntries | Sums):
            self.entries = entries
        else:
            with np.errstate(over="ignore"):  # infinity is refused below
                self.entries = {name: _numbers(values, name) for name, values in entries.items()}
            for name, values in self.entries.items():
                check_values(name, values, path)

    @classmethod
    def of(cls, given: "ImatrixLike") -> "ImportanceMatrix":
        """The matrix itself, one made of a mapping of names to arrays, or the one in the file at a path."""
        if isinstance(given, ImportanceMatrix):
            return given
        return cls(given) if isinstance(given, Mapping) else cls.read(given)

    @classmethod
    def read(cls, path: str | bytes | os.PathLike[str]) -> "ImportanceMatrix":
        """Read a legacy or GGUF importance matrix and check every value in it.

        Raises ImportanceError, naming the file and the entry, for damaged data, and OSError if the file cannot be
        opened.
        """
        name = os.fsdecode(path)
        found = find_entries(name)
        matrix = cls(
            found.entries,
            datasets=found.datasets,
            chunk_count=found.chunk_count,
            chunk_size=found.chunk_size,
            path=name,
        )
        matrix.warnings += found.warnings
        found.entries.check(matrix.warn)
        return matrix

    @classmethod
    def combined(cls, parts: "Iterable[ImatrixLike]", *, chunk_size: int | None = None) -> "ImportanceMatrix":
        """Add up several matrices, of several texts for example: their sums and counts.

        ``chunk_size``: how many tokens a chunk has. It defaults to what the parts say, or 512 if they do not agree or
        do not say; legacy files count in chunks of this size. Raises ImportanceError for parts that do not fit
        together, and what `read` raises.
        """
        matrices = [cls.of(part) for part in parts]
        if not matrices:
            raise ImportanceError("there are no matrices to combine: give at least one")
        sizes = {matrix.chunk_size for matrix in matrices} - {0}
        chunk = chunk_size or (sizes.pop() if len(sizes) == 1 else CHUNK)
        sums = Sums()
        for matrix in matrices:
            sums.add_matrix(matrix, chunk)
        datasets = [dataset for matrix in matrices for dataset in matrix.datasets]
        return cls(sums, datasets=datasets, chunk_count=sums.chunks(chunk), chunk_size=chunk)

    def write(self, path: str | bytes | os.PathLike[str], *, format: str = "gguf", force: bool = False) -> list[str]:
        """Write the matrix to a file that llama-quantize and `quantreg.quantize_file` read.

        ``format`` is "gguf", or "dat" for the legacy format, and ``force`` replaces an existing file. A matrix made of
        a mapping gets counts of 1. Returns what the format cannot hold, as sentences. Raises OutputError if the file
        cannot be written, and ValueError for another format.
        """
        return write_matrix(self, os.fsdecode(path), format, force=force)

    def statistics(self) -> list[TensorStatistics]:
        """What llama-imatrix prints with ``--show-statistics``: see `TensorStatistics`."""
        return statistics(self)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<ImportanceMatrix {self.path!r}: {len(self)} entries, {self.chunk_count} chunks>"

    def _repr_html_(self) -> str:
        where = f" {self.path}" if self.path else ""
        chunks = f", {self.chunk_count} chunks" if self.chunk_count else ""
        dataset = f" of {self.dataset}" if self.dataset else ""
        return table(
            f"ImportanceMatrix{where}: {len(self)} entries{chunks}{dataset}",
            ("entry", "values"),
            ((name, self.n_values(name)) for name in self),
        )

    def n_values(self, name: str) -> int:
        """The number of values in an entry, without reading it. Raises KeyError if there is no such entry."""
        entries = self.entries
        return entries.n_values(name) if isinstance(entries, FileEntries | Sums) else entries[name].size

    def counts(self, name: str) -> tuple[int, ...] | None:
        """How often calibration added to each row of an entry (0: never), or None if that is not known.

        Raises KeyError if there is no such entry.
        """
        entries = self.entries
        return entries.counts(name) if isinstance(entries, FileEntries | Sums) else None

    def sums(self, name: str) -> NDArray[np.float32]:
        """The sums of squared activations of an entry, or its values if nothing counts them: float32, flat.

        Raises KeyError if there is no such entry.
        """
        entries = self.entries
        return entries.sums(name) if isinstance(entries, FileEntries | Sums) else entries[name]

    def row(self, name: str, n_cols: int, n_experts: int = 1, floor: float = 0.0) -> NDArray[np.float32]:
        """The importance for a tensor whose rows have n_cols weights.

        Returns float32 (n_cols,), or (n_experts, n_cols) if n_experts > 1. A row of zeros carries no information and
        becomes ones, with a warning; the reference would lose nearly all weights of some types. Values below ``floor``
        times the mean of their row are raised to that. Raises ImportanceError if there is no such entry or its length
        is wrong.
        """
        if name not in self.entries:
            raise ImportanceError(
                f"{where(self.path)}no entry for {name}: use an imatrix that covers this tensor, or encode it without "
                "importance"
            )
        if self.n_values(name) != n_cols * n_experts:
            raise ImportanceError(
                f"{where(self.path)}entry {name} has {self.n_values(name)} values, expected {n_experts} x {n_cols}: "
                "use an imatrix that was made for this model"
            )
        rows = np.array(self.entries[name], np.float32).reshape(n_experts, n_cols)
        self._mend(name, rows, floor)
        return rows if n_experts > 1 else rows[0]

    def _mend(self, name: str, rows: NDArray[np.float32], floor: float) -> None:
        """Turn rows of zeros into ones and raise values to the floor, in place; warn about blocks of zeros."""
        alive = rows.any(axis=1)
        if not alive.all():
            dead = np.flatnonzero(~alive)
            which = f" of {len(dead)} of {len(rows)} experts (the first is {dead[0]})" if len(rows) > 1 else ""
            self.warn(f"entry {name}: all values{which} are zero, so ones are used instead")
            rows[dead] = 1
        if floor:
            np.maximum(rows, floor * rows.mean(axis=1, dtype=np.float64, keepdims=True), out=rows, casting="same_kind")
        if rows.shape[1] and rows.shape[1] % _BLOCK == 0:
            empty = int((~rows.reshape(-1, _BLOCK).any(axis=1)).sum())
            if empty:
                self.warn(
                    f"entry {name}: {empty} of {rows.size // _BLOCK} blocks of {_BLOCK} columns are all zero, and many "
                    "types lose the weights of such a block: --imatrix-floor (imatrix_floor=) keeps them"
                )

    def warn(self, text: str) -> None:
        """Add a sentence about this matrix to ``warnings``, once."""
        text = where(self.path) + text
        if text not in self.warnings:
            self.warnings.append(text)


# What stands for an importance matrix: one, a mapping of tensor names to arrays, or the path of a file.
ImatrixLike: TypeAlias = ImportanceMatrix | Mapping[str, ArrayLike] | str | bytes | os.PathLike[str]


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float32]:
    array = as_array(values, name)
    check_numbers(array, name)
    return array.astype(np.float32, copy=False).reshape(-1)
