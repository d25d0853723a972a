"""Importance matrices: which input columns of each tensor mattered on calibration text, read from legacy or GGUF files.

The numbers are llama-quantize's, bit for bit: sums of squared activations divided by how often they were added to, in
float32. Files are read entry by entry, so a matrix for a model with hundreds of experts costs no more memory than one
entry.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from quantreg.errors import GGUFFormatError, ImportanceError
from quantreg.gguf import read_header

__all__ = ["ImportanceMatrix"]

_BLOCK = 32  # columns; the smallest block of a type that reads importance
_SUMS, _COUNTS = ".in_sum2", ".counts"
_METADATA = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


class ImportanceMatrix:
    """Importance of the input columns of each tensor.

    ``entries`` maps tensor names to float32 arrays of n_experts * n_cols values; of a file they are read when asked
    for. ``dataset`` names the calibration text (None: not known), ``chunk_count`` is how many chunks of it were used
    (0: not known), ``path`` is the file as given. ``warnings`` collects what `row` and reading found odd.
    """

    def __init__(self, entries: Mapping, *, dataset: str | None = None, chunk_count: int = 0, path: str | None = None):
        """From a mapping of names to arrays: statistics of your own. ImportanceError for values no file may hold."""
        self.dataset, self.chunk_count, self.path = dataset, chunk_count, path
        self.warnings: list[str] = []
        if not isinstance(entries, _FileEntries):
            entries = {name: np.asarray(values, np.float32).reshape(-1) for name, values in entries.items()}
            for name, values in entries.items():
                _check_values(name, values, path)
        self.entries = entries

    @classmethod
    def read(cls, path) -> "ImportanceMatrix":
        """Read a legacy or GGUF importance matrix and check every value of it.

        Raises ImportanceError, naming the file and the entry, for anything damaged, and OSError for what cannot be
        opened.
        """
        name = os.fspath(path)
        with open(path, "rb") as file:
            is_gguf = file.read(4) == b"GGUF"
        spans, dataset, chunk_count, warnings = (_index_gguf if is_gguf else _index_legacy)(name)
        if not spans:
            raise ImportanceError(f"{name}: holds no entries: not an importance matrix, or an empty one")
        matrix = cls(_FileEntries(name, spans), dataset=dataset, chunk_count=chunk_count, path=name)
        matrix.warnings += warnings
        matrix.entries.check(matrix._warn)
        return matrix

    def n_values(self, name: str) -> int:
        """Number of values of an entry, without reading it. KeyError if there is no such entry."""
        entries = self.entries
        return entries.spans[name].n_values if isinstance(entries, _FileEntries) else entries[name].size

    def counts(self, name: str) -> tuple[int, ...] | None:
        """How often each row of an entry was added to (0: never), None where that is not known. KeyError: no entry."""
        entries = self.entries
        return entries.spans[name].counts if isinstance(entries, _FileEntries) else None

    def row(self, name: str, n_cols: int, n_experts: int = 1) -> np.ndarray:
        """The entry of a tensor with rows of n_cols weights: float32 (n_cols,), or (n_experts, n_cols) if n_experts >
        1.

        A row that is all zero carries no information and becomes ones, with a warning (the reference would lose nearly
        all weights of some types). Raises ImportanceError if there is no such entry or it has another length.
        """
        if name not in self.entries:
            raise ImportanceError(f"{_where(self.path)}no entry for {name}: the imatrix does not cover this tensor")
        if self.n_values(name) != n_cols * n_experts:
            raise ImportanceError(
                f"{_where(self.path)}entry {name} has {self.n_values(name)} values, expected {n_experts} x {n_cols}: "
                f"the imatrix was made for another model"
            )
        rows = np.array(self.entries[name], np.float32).reshape(n_experts, n_cols)
        self._mend(name, rows)
        return rows if n_experts > 1 else rows[0]

    def _mend(self, name, rows):
        """Turn all-zero rows into ones in place, and tell of zero blocks in others."""
        alive = rows.any(axis=1)
        if not alive.all():
            dead = np.flatnonzero(~alive)
            which = f" of {len(dead)} of {len(rows)} experts (first: {dead[0]})" if len(rows) > 1 else ""
            self._warn(f"entry {name}: all values{which} are zero, taken as ones")
            rows[dead] = 1
        if rows.shape[1] and rows.shape[1] % _BLOCK == 0:
            empty = int((~rows.reshape(-1, _BLOCK).any(axis=1)).sum())
            if empty:
                self._warn(f"entry {name}: {empty} of {rows.size // _BLOCK} blocks of {_BLOCK} columns are all zero")

    def _warn(self, text):
        text = _where(self.path) + text
        if text not in self.warnings:
            self.warnings.append(text)

    def __repr__(self):
        return f"<ImportanceMatrix {self.path!r}: {len(self.entries)} entries, {self.chunk_count} chunks>"


class _Span(NamedTuple):
    """Where an entry's sums stand in the file, and what divides them (GGUF: one count an expert)."""

    offset: int
    n_values: int
    counts: tuple[int, ...]
    per_expert: bool


class _FileEntries(Mapping):
    """The entries of a file, read when asked for and never all at once."""

    def __init__(self, path: str, spans: dict[str, _Span]):
        self.path, self.spans = path, spans

    def __getitem__(self, name) -> np.ndarray:
        span = self.spans[name]
        with open(self.path, "rb") as file:
            return _divided(span, self._sums(file, name, span))

    def __iter__(self) -> Iterator[str]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    def __contains__(self, name) -> bool:
        return name in self.spans

    def _sums(self, file, name, span):
        file.seek(span.offset)
        raw = file.read(4 * span.n_values)
        if len(raw) != 4 * span.n_values:
            raise ImportanceError(f"{self.path}: entry {name}: the file has shrunk since it was opened")
        sums = np.frombuffer(raw, "<f4")
        _check_values(name, sums, self.path)
        return sums

    def check(self, warn) -> None:
        """Look at every value once."""
        with open(self.path, "rb") as file:
            for name, span in self.spans.items():
                self._sums(file, name, span)
                unused = sum(count == 0 for count in span.counts) if span.per_expert else 0
                if unused:
                    of = f" for {unused} of {len(span.counts)} experts" if len(span.counts) > 1 else ""
                    warn(f"entry {name}: the count is 0{of}, the importance is taken as ones")


def _divided(span: _Span, sums: np.ndarray) -> np.ndarray:
    """The mean from the sums, in float32; ones where nothing was counted (legacy files: the sums themselves)."""
    counts = np.array(span.counts, np.float32)
    if not span.per_expert:
        return sums / counts[0] if span.counts[0] > 0 else sums.copy()
    rows = sums.reshape(len(counts), -1)
    means = np.ones_like(rows)
    np.divide(rows, counts[:, None], out=means, where=counts[:, None] > 0)
    return means.reshape(-1)


def _index_gguf(path):
    """(spans by name, dataset, chunk count, warnings) of a GGUF file with in_sum2 and counts tensors."""
    try:
        header = read_header(path)
    except GGUFFormatError as error:
        raise ImportanceError(f"no readable importance matrix: {error}") from error
    missing = [key for key in _METADATA if key not in header.metadata]
    if missing:
        raise ImportanceError(f"{path}: no importance matrix: the GGUF file lacks the key {missing[0]}")
    sums = {t.name.removesuffix(_SUMS): t for t in header.tensors if t.name.endswith(_SUMS)}
    counts = {t.name.removesuffix(_COUNTS): t for t in header.tensors if t.name.endswith(_COUNTS)}
    for name in sorted(sums.keys() ^ counts.keys()):
        absent = _COUNTS if name in sums else _SUMS
        raise ImportanceError(f"{path}: entry {name} is incomplete: the tensor {name}{absent} is missing")

    spans = {}
    with open(path, "rb") as file:
        for name, tensor in sums.items():
            for part in (tensor, counts[name]):
                if part.type_id != 0:
                    raise ImportanceError(f"{path}: entry {name}: {part.name} is {part.type_name}, expected F32")
            n_values, n_counts = tensor.n_elements, counts[name].n_elements
            if not n_values or not n_counts or n_values % n_counts:
                raise ImportanceError(f"{path}: entry {name}: {n_values} sums do not divide among {n_counts} counts")
            file.seek(header.data_offset + counts[name].offset)
            raw = np.frombuffer(file.read(4 * n_counts), "<f4")
            _check_values(f"{name}{_COUNTS}", raw, path)
            if raw.size != n_counts or raw.max() >= 2**63:
                raise ImportanceError(f"{path}: entry {name}: counts are cut off or beyond 64 bits")
            whole = tuple(int(value) for value in np.floor(raw.astype(np.float64) + 0.5))  # halves go up, as in lround
            spans[name] = _Span(header.data_offset + tensor.offset, n_values, whole, True)

    datasets, chunks = header.metadata["imatrix.datasets"], header.metadata["imatrix.chunk_count"]
    if not isinstance(datasets, list) or not isinstance(chunks, int):
        raise ImportanceError(f"{path}: imatrix.datasets must be an array of strings, imatrix.chunk_count an integer")
    return spans, (str(datasets[0]) if datasets else None), chunks, list(header.warnings)


def _index_legacy(path):
    """The same of a legacy .dat file: counted entries (name, calls, values), then the chunk count and the dataset."""
    size = os.path.getsize(path)
    spans: dict[str, _Span] = {}
    with open(path, "rb") as file:

        def take(n_bytes, what):
            if not 0 <= n_bytes <= size - file.tell():
                raise ImportanceError(
                    f"{path}: {what} at byte {file.tell()} takes {n_bytes} bytes, but {size - file.tell()} are left: "
                    f"cut off, or not an importance matrix"
                )
            return n_bytes

        def number(what):
            return struct.unpack("<i", file.read(take(4, what)))[0]

        n_entries = number("the number of entries")
        if not 1 <= n_entries <= size // 16:  # an entry takes 16 bytes at least
            raise ImportanceError(f"{path}: no importance matrix: says it holds {n_entries} entries in {size} bytes")
        for i in range(n_entries):
            label = f"entry {i + 1} of {n_entries}"
            raw = file.read(take(number(f"the length of the name of {label}"), f"the name of {label}"))
            try:
                name = raw.decode()
            except UnicodeDecodeError:
                name = ""
            if not name or "\0" in name:
                raise ImportanceError(f"{path}: the name of {label} is no text: {raw[:80]!r}")
            label = f"entry {name}"
            if name in spans:
                raise ImportanceError(f"{path}: {label} is there twice")
            calls, n_values = number(f"the number of calls of {label}"), number(f"the number of values of {label}")
            if calls < 0 or n_values < 1:
                raise ImportanceError(f"{path}: {label} says it has {n_values} values from {calls} calls")
            spans[name] = _Span(file.tell(), take(4 * n_values, f"the data of {label}") // 4, (calls,), False)
            file.seek(4 * n_values, os.SEEK_CUR)

        chunk_count, dataset, warnings = 0, None, []
        if file.tell() < size:
            chunk_count = number("the number of chunks")
        if file.tell() < size:
            length = number("the length of the dataset's name")
            if length:
                raw = file.read(take(length, "the dataset's name"))
                dataset = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if file.tell() < size:
            warnings.append(f"{path}: {size - file.tell()} bytes after the end belong to nothing")
    return spans, dataset, max(chunk_count, 0), warnings


def _check_values(name, values, path):
    """Refuse what cannot be a sum of squares."""
    if np.isfinite(values).all() and not (values < 0).any():
        return
    at = int(np.flatnonzero(~np.isfinite(values) | (values < 0))[0])
    raise ImportanceError(
        f"{_where(path)}entry {name}: value {at} is {values[at]}, expected finite and not negative: "
        f"make the imatrix anew"
    )


def _where(path):
    return f"{path}: " if path else ""
