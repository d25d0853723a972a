"""Importance matrices: which input columns of each tensor mattered on calibration text, read from legacy or GGUF files.

The values are llama-quantize's, bit for bit: sums of squared activations divided by the number of additions, in
float32. Files are read entry by entry, so even a matrix for a model with hundreds of experts takes no more memory than
its largest entry.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantreg.arrays import as_array, check_numbers
from quantreg.errors import GGUFFormatError, ImportanceError
from quantreg.gguf import read_header
from quantreg.html import table
from quantreg.whatis import LEGACY_IMATRIX, kind_of, read_head

__all__ = ["ImatrixLike", "ImportanceMatrix"]

_BLOCK = 16  # columns; the smallest block with a scale of its own in a type that reads importance
_SUMS, _COUNTS = ".in_sum2", ".counts"
_METADATA = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


class ImportanceMatrix(Mapping[str, NDArray[np.float32]]):
    """The importance of the input columns of each tensor.

    ``matrix[name]`` is the entry of a tensor: float32 (n_experts * n_cols,), where a plain matrix counts as one expert.
    An entry of a file is read each time it is asked for. A name without an entry raises KeyError. Two matrices are
    equal only if they are the same object.

    - ``entries``: the mapping that the matrix was made from, or that reads the file.
    - ``dataset``: the name of the calibration text, or None if it is not known.
    - ``chunk_count``: how many chunks of the text were used; 0 if that is not known.
    - ``path``: the path of the file, or None.
    - ``warnings``: what `read` and `row` noticed, as sentences.
    """

    def __init__(
        self,
        entries: Mapping[str, ArrayLike],
        *,
        dataset: str | None = None,
        chunk_count: int = 0,
        path: str | None = None,
    ) -> None:
        """Make a matrix from statistics of your own: a mapping of tensor names to arrays of any shape.

        Raises ImportanceError for values that are negative or not finite, ShapeError for what is not numbers.
        """
        self.dataset: str | None = dataset
        self.chunk_count: int = chunk_count
        self.path: str | None = path
        self.warnings: list[str] = []
        self.entries: Mapping[str, NDArray[np.float32]]
        if isinstance(entries, _FileEntries):
            self.entries = entries
        else:
            with np.errstate(over="ignore"):  # infinity is refused below
                self.entries = {name: _numbers(values, name) for name, values in entries.items()}
            for name, values in self.entries.items():
                _check_values(name, values, path)

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
        head, size = read_head(name)
        is_gguf = head.startswith(b"GGUF")
        kind = kind_of(head, size) if head.strip(b"\0") and not is_gguf else None
        if kind is not None and kind != LEGACY_IMATRIX:
            raise ImportanceError(f"{name}: is not an importance matrix but {kind.name}: {_GIVE}")
        spans, dataset, chunk_count, warnings = (_index_gguf if is_gguf else _index_legacy)(name)
        if not spans:
            raise ImportanceError(f"{name}: has no entries: it is not an importance matrix, or an empty one")
        entries = _FileEntries(name, spans)
        matrix = cls(entries, dataset=dataset, chunk_count=chunk_count, path=name)
        matrix.warnings += warnings
        entries.check(matrix.warn)
        return matrix

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
        return entries.spans[name].n_values if isinstance(entries, _FileEntries) else entries[name].size

    def counts(self, name: str) -> tuple[int, ...] | None:
        """How often calibration added to each row of an entry (0: never), or None if that is not known.

        Raises KeyError if there is no such entry.
        """
        entries = self.entries
        return entries.spans[name].counts if isinstance(entries, _FileEntries) else None

    def row(self, name: str, n_cols: int, n_experts: int = 1, floor: float = 0.0) -> NDArray[np.float32]:
        """The importance for a tensor whose rows have n_cols weights.

        Returns float32 (n_cols,), or (n_experts, n_cols) if n_experts > 1. A row of zeros carries no information and
        becomes ones, with a warning; the reference would lose nearly all weights of some types. Values below ``floor``
        times the mean of their row are raised to that. Raises ImportanceError if there is no such entry or its length
        is wrong.
        """
        if name not in self.entries:
            raise ImportanceError(
                f"{_where(self.path)}no entry for {name}: use an imatrix that covers this tensor, or encode it without "
                "importance"
            )
        if self.n_values(name) != n_cols * n_experts:
            raise ImportanceError(
                f"{_where(self.path)}entry {name} has {self.n_values(name)} values, expected {n_experts} x {n_cols}: "
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
        text = _where(self.path) + text
        if text not in self.warnings:
            self.warnings.append(text)


# What stands for an importance matrix: one, a mapping of tensor names to arrays, or the path of a file.
ImatrixLike: TypeAlias = ImportanceMatrix | Mapping[str, ArrayLike] | str | bytes | os.PathLike[str]


class _Span(NamedTuple):
    """Where the sums of an entry are in the file, and the counts that divide them (in GGUF, one per expert)."""

    offset: int
    n_values: int
    counts: tuple[int, ...]
    per_expert: bool


class _FileEntries(Mapping[str, NDArray[np.float32]]):
    """The entries of a file. Each is read when it is asked for; the file is never read as a whole."""

    def __init__(self, path: str, spans: dict[str, _Span]) -> None:
        self.path = path
        self.spans = spans

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        span = self.spans[name]
        with open(self.path, "rb") as file:
            return _divided(span, self._sums(file, name, span))

    def __iter__(self) -> Iterator[str]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    def __contains__(self, name: object) -> bool:
        return name in self.spans

    def _sums(self, file: BinaryIO, name: str, span: _Span) -> NDArray[np.float32]:
        file.seek(span.offset)
        raw = file.read(4 * span.n_values)
        if len(raw) != 4 * span.n_values:
            raise ImportanceError(f"{self.path}: entry {name}: the file has shrunk since it was first read")
        sums = np.frombuffer(raw, "<f4")
        _check_values(name, sums, self.path)
        return sums

    def check(self, warn: Callable[[str], None]) -> None:
        """Read and check every value once."""
        with open(self.path, "rb") as file:
            for name, span in self.spans.items():
                self._sums(file, name, span)
                unused = sum(count == 0 for count in span.counts) if span.per_expert else 0
                if unused:
                    of = f" for {unused} of {len(span.counts)} experts" if len(span.counts) > 1 else ""
                    warn(f"entry {name}: the count is 0{of}, so an importance of ones is used")


def _divided(span: _Span, sums: NDArray[np.float32]) -> NDArray[np.float32]:
    """The means of the sums, in float32. If nothing was counted: ones, or in legacy files the sums themselves."""
    counts = np.array(span.counts, np.float32)
    if not span.per_expert:
        return sums / counts[0] if span.counts[0] > 0 else sums.copy()
    rows = sums.reshape(len(counts), -1)
    means = np.ones_like(rows)
    np.divide(rows, counts[:, None], out=means, where=counts[:, None] > 0)
    return means.reshape(-1)


_GIVE = "give the file that llama-imatrix wrote, or download it again"
_Index: TypeAlias = tuple[dict[str, _Span], str | None, int, list[str]]  # spans, dataset, chunk count, warnings


def _index_gguf(path: str) -> _Index:
    """The index of a GGUF file, which has a tensor of sums and one of counts per entry."""
    try:
        header = read_header(path)
    except GGUFFormatError as error:
        raise ImportanceError(f"not a readable importance matrix: {error}") from error
    missing = [key for key in _METADATA if key not in header.metadata]
    if missing:
        raise ImportanceError(f"{path}: not an importance matrix: the GGUF file lacks the key {missing[0]}: {_GIVE}")
    sums = {t.name.removesuffix(_SUMS): t for t in header.tensors if t.name.endswith(_SUMS)}
    counts = {t.name.removesuffix(_COUNTS): t for t in header.tensors if t.name.endswith(_COUNTS)}
    for name in sorted(sums.keys() ^ counts.keys()):
        absent = _COUNTS if name in sums else _SUMS
        raise ImportanceError(f"{path}: entry {name} is incomplete: the tensor {name}{absent} is missing")

    spans: dict[str, _Span] = {}
    with open(path, "rb") as file:
        for name, tensor in sums.items():
            for part in (tensor, counts[name]):
                if part.type_id != 0:
                    raise ImportanceError(f"{path}: entry {name}: {part.name} is {part.type_name}, expected F32")
            n_values, n_counts = tensor.n_elements, counts[name].n_elements
            if not n_values or not n_counts or n_values % n_counts:
                raise ImportanceError(f"{path}: entry {name}: {n_values} sums do not divide into {n_counts} rows")
            file.seek(header.data_offset + counts[name].offset)
            raw = np.frombuffer(file.read(4 * n_counts), "<f4")
            _check_values(f"{name}{_COUNTS}", raw, path)
            if raw.size != n_counts or raw.max() >= 2**63:
                raise ImportanceError(f"{path}: entry {name}: the counts are cut off or do not fit into 64 bits")
            whole = tuple(int(value) for value in np.floor(raw.astype(np.float64) + 0.5))  # halves go up, as in lround
            spans[name] = _Span(header.data_offset + tensor.offset, n_values, whole, True)

    datasets, chunks = header.metadata["imatrix.datasets"], header.metadata["imatrix.chunk_count"]
    if not isinstance(datasets, list) or not isinstance(chunks, int):
        raise ImportanceError(
            f"{path}: imatrix.datasets must be an array of strings, and imatrix.chunk_count an integer: make the "
            "imatrix again"
        )
    return spans, (str(datasets[0]) if datasets else None), chunks, list(header.warnings)


def _index_legacy(path: str) -> _Index:
    """The index of a legacy .dat file: entries of name, calls and values, then the chunk count and the dataset."""
    size = os.path.getsize(path)
    spans: dict[str, _Span] = {}
    with open(path, "rb") as file:

        def take(n_bytes: int, what: str) -> int:
            if not 0 <= n_bytes <= size - file.tell():
                raise ImportanceError(
                    f"{path}: {what} at byte {file.tell()} takes {n_bytes} bytes, but {size - file.tell()} are left: "
                    "the file is cut off, or it is not an importance matrix"
                )
            return n_bytes

        def number(what: str) -> int:
            return struct.unpack("<i", file.read(take(4, what)))[0]

        n_entries = number("the number of entries")
        if not 1 <= n_entries <= size // 16:  # an entry takes at least 16 bytes
            raise ImportanceError(f"{path}: not an importance matrix: it claims {n_entries} entries in {size} bytes")
        for i in range(n_entries):
            label = f"entry {i + 1} of {n_entries}"
            raw = file.read(take(number(f"the length of the name of {label}"), f"the name of {label}"))
            try:
                name = raw.decode()
            except UnicodeDecodeError:
                name = ""
            if not name or "\0" in name:
                raise ImportanceError(f"{path}: the name of {label} is not text: {raw[:80]!r}")
            label = f"entry {name}"
            if name in spans:
                raise ImportanceError(f"{path}: {label} appears twice")
            calls, n_values = number(f"the number of calls of {label}"), number(f"the number of values of {label}")
            if calls < 0 or n_values < 1:
                raise ImportanceError(f"{path}: {label} claims {n_values} values from {calls} calls")
            spans[name] = _Span(file.tell(), take(4 * n_values, f"the data of {label}") // 4, (calls,), False)
            file.seek(4 * n_values, os.SEEK_CUR)

        chunk_count = 0
        dataset: str | None = None
        warnings: list[str] = []
        if file.tell() < size:
            chunk_count = number("the number of chunks")
        if file.tell() < size:
            length = number("the length of the dataset's name")
            if length:
                raw = file.read(take(length, "the dataset's name"))
                dataset = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if file.tell() < size:
            warnings.append(f"{path}: {size - file.tell()} unexpected bytes after the end")
    return spans, dataset, max(chunk_count, 0), warnings


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float32]:
    array = as_array(values, name)
    check_numbers(array, name)
    return array.astype(np.float32, copy=False).reshape(-1)


def _check_values(name: str, values: NDArray[np.float32], path: str | None) -> None:
    """Raise ImportanceError for values that cannot be sums of squares."""
    if np.isfinite(values).all() and not (values < 0).any():
        return
    at = int(np.flatnonzero(~np.isfinite(values) | (values < 0))[0])
    raise ImportanceError(
        f"{_where(path)}entry {name}: value {at} is {values[at]}, but must be finite and not negative: make the "
        "imatrix again"
    )


def _where(path: str | None) -> str:
    return f"{path}: " if path else ""
