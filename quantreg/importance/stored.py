"""The entries of importance matrix files, legacy and GGUF. Each is read when it is asked for."""

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantreg.errors import GGUFFormatError, ImportanceError
from quantreg.gguf import read_header
from quantreg.whatis import LEGACY_IMATRIX, kind_of, read_head

__all__ = ["COUNTS", "SUMS", "UNFINISHED", "FileEntries", "Found", "check_values", "divided", "find_entries", "where"]

SUMS, COUNTS = ".in_sum2", ".counts"
UNFINISHED = "quantreg.imatrix.unfinished"  # what a run that was not finished writes about itself
_METADATA = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
_GIVE = "give the file that llama-imatrix wrote, or download it again"


@dataclass(frozen=True, slots=True)
class Found:
    """What a file says about itself, and where its entries are."""

    entries: "FileEntries"
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    warnings: list[str]


def find_entries(path: str) -> Found:
    """Read the index of an importance matrix, legacy or GGUF. Raises ImportanceError if it is none, OSError."""
    head, size = read_head(path)
    is_gguf = head.startswith(b"GGUF")
    kind = kind_of(head, size) if head.strip(b"\0") and not is_gguf else None
    if kind is not None and kind != LEGACY_IMATRIX:
        raise ImportanceError(f"{path}: is not an importance matrix but {kind.name}: {_GIVE}")
    found = (_index_gguf if is_gguf else _index_legacy)(path)
    if not found.entries:
        raise ImportanceError(f"{path}: has no entries: it is not an importance matrix, or an empty one")
    return found


class _Span(NamedTuple):
    """Where the sums of an entry are in the file, and the counts that divide them (in GGUF, one per expert)."""

    offset: int
    n_values: int
    counts: tuple[int, ...]
    per_expert: bool


class FileEntries(Mapping[str, NDArray[np.float32]]):
    """The entries of a file. Each is read when it is asked for; the file is never read as a whole.

    An entry is the mean of the squared activations, as llama-quantize computes it.
    """

    def __init__(self, path: str, spans: dict[str, _Span]) -> None:
        self.path = path
        self.spans = spans

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        span = self.spans[name]
        sums = self.sums(name)
        return divided(sums, span.counts) if span.per_expert else _legacy_means(sums, span.counts[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    def __contains__(self, name: object) -> bool:
        return name in self.spans

    @property
    def legacy(self) -> bool:
        """Whether the counts are chunks, as in legacy files, and not tokens."""
        return not all(span.per_expert for span in self.spans.values())

    def n_values(self, name: str) -> int:
        """The number of values in an entry."""
        return self.spans[name].n_values

    def counts(self, name: str) -> tuple[int, ...]:
        """How often calibration added to each row of an entry."""
        return self.spans[name].counts

    def sums(self, name: str) -> NDArray[np.float32]:
        """The sums of an entry, as the file holds them."""
        with open(self.path, "rb") as file:
            return self._sums(file, name, self.spans[name])

    def _sums(self, file: BinaryIO, name: str, span: _Span) -> NDArray[np.float32]:
        file.seek(span.offset)
        raw = file.read(4 * span.n_values)
        if len(raw) != 4 * span.n_values:
            raise ImportanceError(f"{self.path}: entry {name}: the file has shrunk since it was first read")
        sums = np.frombuffer(raw, "<f4")
        check_values(name, sums, self.path)
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


def divided(sums: NDArray[np.float32], counts: Sequence[int]) -> NDArray[np.float32]:
    """The means of the sums, in float32; ones where nothing was counted."""
    divisors = np.array(counts, np.float32)[:, None]
    rows = sums.reshape(len(divisors), -1)
    means = np.ones_like(rows)
    np.divide(rows, divisors, out=means, where=divisors > 0)
    return means.reshape(-1)


def _legacy_means(sums: NDArray[np.float32], calls: int) -> NDArray[np.float32]:
    """The means of the sums of a legacy file. If nothing was counted, the reference uses the sums themselves."""
    return sums / np.float32(calls) if calls > 0 else sums.copy()


def _index_gguf(path: str) -> Found:
    """The index of a GGUF file, which has a tensor of sums and one of counts per entry."""
    try:
        header = read_header(path)
    except GGUFFormatError as error:
        raise ImportanceError(f"not a readable importance matrix: {error}") from error
    missing = [key for key in _METADATA if key not in header.metadata]
    if missing:
        raise ImportanceError(f"{path}: not an importance matrix: the GGUF file lacks the key {missing[0]}: {_GIVE}")
    sums = {t.name.removesuffix(SUMS): t for t in header.tensors if t.name.endswith(SUMS)}
    counts = {t.name.removesuffix(COUNTS): t for t in header.tensors if t.name.endswith(COUNTS)}
    for name in sorted(sums.keys() ^ counts.keys()):
        absent = COUNTS if name in sums else SUMS
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
            check_values(f"{name}{COUNTS}", raw, path)
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
    size = header.metadata["imatrix.chunk_size"]
    return Found(
        FileEntries(path, spans),
        tuple(map(str, datasets)),
        chunks,
        size if isinstance(size, int) else 0,
        [*header.warnings, *_unfinished(path, header.metadata.get(UNFINISHED))],
    )


def _unfinished(path: str, said: Any) -> Iterator[str]:
    """Warn if the run that wrote the file was stopped."""
    with suppress(ValueError, TypeError, KeyError):
        if said is not None:
            state = json.loads(said)
            yield (
                f"{path}: was saved after {state['done']} of {state['chunks']} chunks of a run that did not finish: "
                "the same command goes on with it"
            )


def _index_legacy(path: str) -> Found:
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
    return Found(FileEntries(path, spans), () if dataset is None else (dataset,), max(chunk_count, 0), 0, warnings)


def check_values(name: str, values: NDArray[np.float32], path: str | None) -> None:
    """Raise ImportanceError for values that cannot be sums of squares."""
    if np.isfinite(values).all() and not (values < 0).any():
        return
    at = int(np.flatnonzero(~np.isfinite(values) | (values < 0))[0])
    raise ImportanceError(
        f"{where(path)}entry {name}: value {at} is {values[at]}, but must be finite and not negative: make the "
        "imatrix again"
    )


def where(path: str | None) -> str:
    return f"{path}: " if path else ""
