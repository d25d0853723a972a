"""Work items: a range of rows of one tensor, read, decoded, checked, encoded. They pickle, and need no other state."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from quantreg.dispatch import decode_slab, encode_slab, rows_per_slab
from quantreg.errors import NonFiniteError, QuantregError
from quantreg.ggml import INTEGER_TYPES
from quantreg.gguf import TensorInfo
from quantreg.importance import ImportanceMatrix
from quantreg.jobs.source import DataFile, stamp_of
from quantreg.registry import registry, types
from quantreg_kernels._run import first_nonfinite

__all__ = ["SLAB_BYTES", "ImportanceRow", "Slab", "Worker", "byte_ranges", "in_order", "run_slab", "slabs_of"]

SLAB_WEIGHTS = 1 << 20  # weights a work item
CHUNK_WEIGHTS = 1 << 17  # weights decoded at a time: 512 KiB of float32 stay in a core's cache until encoded
SLAB_BYTES = 1 << 22  # bytes a work item, where data is only copied


class ImportanceRow(NamedTuple):
    """Where a worker finds the importance of its columns: row ``expert`` of an entry of an imatrix file."""

    path: str
    stamp: tuple[int, int]
    entry: str
    n_experts: int
    expert: int


@dataclass(frozen=True, slots=True)
class Slab:
    """Some rows of a tensor, and what becomes of them.

    ``path`` (as it was at ``stamp``) holds ``nbytes`` of ``from_type`` at ``position``, in rows of ``n_cols`` weights.
    They become ``to_type``; None copies them, ``from_type`` None copies them unseen. ``start`` is the number of the
    first row (copied: of the first byte) in the tensor. ``importance`` is an `ImportanceRow`, or the float32 row.
    """

    tensor: str
    path: str
    stamp: tuple[int, int]
    position: int
    nbytes: int
    from_type: str | None
    to_type: str | None
    n_cols: int
    start: int
    importance: object = None


def byte_ranges(info: TensorInfo) -> Iterator[tuple[int, int]]:
    """(first byte, bytes) of the pieces of a tensor that is not converted.

    A piece holds whole blocks, or whole rows where rows have a header.
    """
    qtype = types.get(info.type_id)
    unit = 1 if qtype is None else info.row_bytes if qtype.row_header_size else qtype.type_size
    unit = max(1, unit)
    step = rows_per_slab(unit, SLAB_BYTES) * unit
    for first in range(0, info.nbytes, step):
        yield first, min(step, info.nbytes - first)


def slabs_of(tensor, source, stamps, rows_of, check=True):
    """(Slab, offset of its result in the tensor's data, bytes of it) for each piece of a TensorPlan, in order.

    ``stamps`` are those of ``source.paths``; ``rows_of(tensor)`` gives for each expert what `Slab.importance` holds, or
    None; ``check`` looks for NaN and infinity where data is only copied.
    """
    info = tensor.source
    shard, position = source.place(info)
    path, stamp = os.path.abspath(source.paths[shard]), stamps[shard]  # a worker may be in another folder
    if not tensor.converted:
        qtype = types.get(info.type_id)
        look = check and qtype is not None and info.known and qtype.name not in INTEGER_TYPES
        for first, nbytes in byte_ranges(info):
            slab = Slab(
                info.name, path, stamp, position + first, nbytes, qtype.name if look else None,
                None, info.n_cols, first,
            )  # fmt: skip
            yield slab, first, nbytes
        return
    if not info.n_elements:
        return
    importance = rows_of(tensor) or [None]
    out_bytes = types[tensor.to_id].row_bytes(info.n_cols)
    step = rows_per_slab(info.n_cols, SLAB_WEIGHTS)
    # rows of one expert share their importance, so that no slab may hold rows of two
    together = tensor.dims[1] if len(tensor.dims) > 2 else info.n_rows
    first = 0
    while first < info.n_rows:
        matrix = first // together
        last = min(first + step, info.n_rows, (matrix + 1) * together)
        slab = Slab(
            info.name, path, stamp, position + first * info.row_bytes,
            (last - first) * info.row_bytes, types[info.type_id].name, types[tensor.to_id].name, info.n_cols, first,
            importance[matrix % len(importance)],
        )  # fmt: skip
        yield slab, first * out_bytes, (last - first) * out_bytes
        first = last


class Worker:
    """Does slabs, in any thread. Buffers are kept a thread, so memory does not grow.

    ``open_file(path, stamp)`` gives a `DataFile`.
    """

    def __init__(self, open_file):
        self._open = open_file
        self._local = threading.local()
        self._imatrix = None  # (path, stamp, ImportanceMatrix)

    def run(self, slab: Slab) -> np.ndarray:
        """The bytes of the slab in the output: uint8, valid until this thread's next call.

        Raises GGUFFormatError if the source has changed, NonFiniteError for NaN or infinity.
        """
        raw = self._buffer("raw", slab.nbytes)
        self._open(slab.path, slab.stamp).read_into(slab.position, raw, slab.tensor)
        if slab.to_type is not None:
            return self._encode(slab, raw)
        if slab.from_type is not None:
            self._check_finite(slab, raw)
        return raw

    def _encode(self, slab, raw):
        source_type, qtype, cols = types[slab.from_type], types[slab.to_type], slab.n_cols
        raw = raw.reshape(-1, source_type.row_bytes(cols))
        out_bytes = qtype.row_bytes(cols)
        out = self._buffer("out", len(raw) * out_bytes).reshape(len(raw), out_bytes)
        columns = self._columns(slab)
        scorer = registry.scorer(qtype)
        step = rows_per_slab(cols, CHUNK_WEIGHTS)
        for row in range(0, len(raw), step):
            rows = self._floats(source_type, raw[row : row + step], cols)
            first = slab.start + row
            encode_slab(qtype, rows, out[row : row + step], columns, scorer=scorer, first_row=first, tensor=slab.tensor)
        return out.reshape(-1)

    def _columns(self, slab):
        row = slab.importance
        if not isinstance(row, ImportanceRow):
            return row
        if self._imatrix is None or self._imatrix[:2] != (row.path, row.stamp):
            if stamp_of(row.path) != tuple(row.stamp):
                raise NonFiniteError(f"{row.path}: the imatrix has changed since the run began: start it again")
            self._imatrix = (row.path, row.stamp, ImportanceMatrix.read(row.path))
        return self._imatrix[2].row(row.entry, slab.n_cols, row.n_experts).reshape(-1, slab.n_cols)[row.expert]

    def _check_finite(self, slab, raw):
        """Refuse what a model must not hold, also where its bytes are only copied."""
        qtype = types[slab.from_type]
        unit = qtype.row_bytes(slab.n_cols) if qtype.row_header_size else qtype.type_size
        weights = slab.n_cols if qtype.row_header_size else qtype.block_size
        step = rows_per_slab(weights, CHUNK_WEIGHTS)
        for first in range(0, len(raw) // unit, step):
            data = raw[first * unit : (first + step) * unit]
            rows = len(data) // unit if qtype.row_header_size else 1
            bad = first_nonfinite(self._floats(qtype, data.reshape(rows, -1), len(data) // unit // rows * weights))
            if bad >= 0:
                index = (slab.start // unit + first) * weights + bad
                raise NonFiniteError(f"{slab.tensor}: holds NaN or infinity at index {index}")

    def _floats(self, qtype, data, cols):
        """Rows as float32: a view where they are stored so, else decoded into this thread's buffer."""
        if qtype.name == "F32" and np.little_endian:
            return data.view(np.float32)
        out = self._buffer("floats", len(data) * cols * 4).view(np.float32).reshape(len(data), cols)
        decode_slab(qtype, data, out)
        return out

    def _buffer(self, name, nbytes):
        """uint8 (nbytes,) of this thread's memory of this name, grown if needed; 64-byte aligned."""
        have = getattr(self._local, name, None)
        if have is None or len(have) < nbytes:
            base = np.empty(nbytes + 64, np.uint8)
            start = -base.ctypes.data % 64
            have = base[start : start + nbytes]
            setattr(self._local, name, have)
        return have[:nbytes]


def in_order(items, submit, threads):
    """Yield (item, result) in order; ``submit(item)`` gives a Future, or None if there is nothing to do.

    Submits up to 3 items a thread ahead, and cancels what waits when it is closed.
    """
    waiting = deque()

    def finish():
        item, future = waiting.popleft()
        return item, None if future is None else future.result()

    try:
        for item in items:
            waiting.append((item, submit(item)))
            if len(waiting) >= 3 * threads:
                yield finish()
        while waiting:
            yield finish()
    except BrokenExecutor as error:
        raise QuantregError(f"a worker of the executor died ({error}): run it again with another executor") from error
    finally:
        for _, future in waiting:
            if future is not None:
                future.cancel()


# ---- in other processes ----


class _OpenFiles:
    """The files that a worker process keeps open between slabs."""

    LIMIT = 64

    def __init__(self):
        self._files = {}
        self._lock = threading.Lock()

    def __call__(self, path, stamp):
        with self._lock:
            key = (path, tuple(stamp))
            if key not in self._files:
                if len(self._files) >= self.LIMIT:
                    self._files = {}  # what is still in use closes when it is done
                self._files[key] = DataFile(path, stamp)
            return self._files[key]


_worker = Worker(_OpenFiles())


def run_slab(slab: Slab) -> bytes:
    """`Worker.run` for an executor whose workers are other processes, perhaps on other machines."""
    return _worker.run(slab).tobytes()
