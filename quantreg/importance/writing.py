"""Writing importance matrices, as GGUF and in the legacy format, with the layout of llama-imatrix."""

import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantreg.gguf import HeaderEdit, Value, encode_header, padded
from quantreg.importance.stored import COUNTS, SUMS, FileEntries
from quantreg.importance.sums import CHUNK
from quantreg.storage import AtomicFile

if TYPE_CHECKING:
    from quantreg.importance.matrix import ImportanceMatrix

__all__ = ["FORMATS", "write_matrix"]

FORMATS = ("gguf", "dat")
_ALIGNMENT = 32


def write_matrix(
    matrix: "ImportanceMatrix",
    path: str,
    format: str = "gguf",
    *,
    force: bool = False,
    metadata: Mapping[str, object] | None = None,
) -> list[str]:
    """Write a matrix. Returns sentences about entries that no or not all experts have data for.

    ``metadata``: more keys and values for a GGUF file.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}: use one of {', '.join(FORMATS)}")
    chunk = matrix.chunk_size or CHUNK
    names = sorted(matrix, key=lambda name: name.encode())
    notes = list(_incomplete(matrix, names, legacy=format == "dat"))
    with AtomicFile(path, force=force) as file:
        if format == "gguf":
            for piece in _gguf(matrix, names, chunk, metadata or {}):
                file.write(piece)
        else:
            for piece in _legacy(matrix, names, chunk):
                file.write(piece)
    return notes


def _incomplete(matrix: "ImportanceMatrix", names: list[str], legacy: bool) -> Iterator[str]:
    for name in names:
        counts = matrix.counts(name) or (1,)
        reached = sum(count > 0 for count in counts)
        if reached == 0 and legacy:
            yield f"entry {name} has no data and is left out: the legacy format cannot say so"
        elif reached < len(counts):
            yield f"entry {name} has data for {reached} of {len(counts)} experts: use more or other text to reach all"


def _counted(matrix: "ImportanceMatrix", name: str, chunk: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The sums and the counts of tokens of an entry. Legacy files count chunks."""
    sums, counts = matrix.sums(name), np.array(matrix.counts(name) or (1,), np.int64)
    entries = matrix.entries
    if isinstance(entries, FileEntries) and entries.legacy:
        return sums * np.float32(chunk), counts * chunk
    return sums, counts


def _gguf(
    matrix: "ImportanceMatrix", names: list[str], chunk: int, metadata: Mapping[str, object]
) -> Iterator[bytes | NDArray[np.float32]]:
    edit = HeaderEdit(
        {
            "general.type": "imatrix",
            "imatrix.datasets": Value("array[string]", list(matrix.datasets)),
            "imatrix.chunk_count": Value("u32", matrix.chunk_count),
            "imatrix.chunk_size": Value("u32", chunk),
            **metadata,
        }
    )
    tensors: list[tuple[str, tuple[int, ...], int, int]] = []
    for name in names:
        n_values, n_counts = matrix.n_values(name), len(matrix.counts(name) or (1,))
        rows = (n_counts,) if n_counts > 1 else ()
        tensors.append((name + SUMS, (n_values // n_counts, *rows), 0, 4 * n_values))
        tensors.append((name + COUNTS, (1, *rows), 0, 4 * n_counts))
    yield encode_header(edit.items(), tensors, _ALIGNMENT)
    for name in names:
        sums, counts = _counted(matrix, name, chunk)
        for part in (sums, counts):
            yield part.astype("<f4")
            yield bytes(padded(4 * part.size, _ALIGNMENT) - 4 * part.size)


def _legacy(matrix: "ImportanceMatrix", names: list[str], chunk: int) -> Iterator[bytes | NDArray[np.float32]]:
    kept = [name for name in names if any(matrix.counts(name) or (1,))]
    yield struct.pack("<i", len(kept))
    for name in kept:
        sums, counts = _counted(matrix, name, chunk)
        calls = -(-int(counts.max()) // chunk)
        rows = sums.reshape(len(counts), -1)
        divisors = counts.astype(np.float32)[:, None]
        values = np.ones_like(rows)  # of an expert without data
        np.divide(rows, divisors, out=values, where=divisors > 0)
        values *= np.float32(calls)
        raw = name.encode()
        yield struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, values.size)
        yield values.astype("<f4").reshape(-1)
    dataset = (matrix.datasets[-1] if matrix.datasets else "").encode("utf-8", "surrogateescape")
    yield struct.pack("<ii", matrix.chunk_count, len(dataset)) + dataset
