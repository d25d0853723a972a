"""Plan in, file out: slabs of rows are read, decoded, encoded and written, several at a time."""

import os
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from quantreg import gguf, recipes
from quantreg.dispatch import cpu_count, decode_slab, encode_slab
from quantreg.errors import NonFiniteError
from quantreg.events import Advanced, Finished, Started, TensorDone
from quantreg.importance import ImportanceMatrix
from quantreg.registry import registry, types
from quantreg.source import Source
from quantreg_kernels._run import first_nonfinite

__all__ = ["QuantizeResult", "plan", "quantize_file"]

SLAB_WEIGHTS = 1 << 20  # weights a work item
CHUNK_WEIGHTS = 1 << 16  # weights decoded at a time: 256 KiB of float32 stay in a core's cache until encoded
SLAB_BYTES = 1 << 22  # bytes a work item, where data is only copied
NEVER_NONFINITE = {"I8", "I16", "I32", "I64"}


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What `quantize_file` did.

    ``size`` and ``source_size`` are whole files in bytes; ``plan.tensors`` holds the decision for each tensor;
    ``warnings`` are sentences for the user.
    """

    path: str
    plan: recipes.Plan
    size: int
    source_size: int
    seconds: float
    warnings: tuple[str, ...]

    @property
    def tensors(self):
        return self.plan.tensors

    @property
    def bits_per_weight(self) -> float:
        return self.plan.bits_per_weight


def plan(src, file_type, *, imatrix=None, **options) -> recipes.Plan:
    """What `quantize_file` would do: the type of every tensor, with reasons and sizes. Reads headers only.

    ``src`` is the path of a GGUF file, or of any shard of one. ``file_type`` is a name, alias or number ("Q4_K_M", 15).
    ``imatrix`` is a path or an ImportanceMatrix. Options are those of `recipes.PlanOptions`.
    Raises GGUFFormatError, ImportanceError, UnknownFileTypeError, UnknownTypeError, PlanError, OSError.
    """
    return recipes.plan(Source(src), file_type, imatrix=_imatrix(imatrix), **options)


def quantize_file(
    src, dst, file_type, imatrix=None, *, threads=None, force=False, progress=None, **options
) -> QuantizeResult:
    """Quantize the GGUF model at src to dst.

    Arguments are those of `plan`; ``threads`` (default: all processors), ``force`` to replace an existing dst, and
    ``progress``, a callable that receives the events of `quantreg.events`. The bytes do not depend on threads.
    dst appears under its name only when it is complete. Raises what `plan` raises; NonFiniteError, naming tensor and
    row, for NaN or infinity; OutputError if dst exists, is the source, or does not fit on the disk.
    """
    begun = time.perf_counter()
    tell = progress or (lambda event: None)
    imatrix = _imatrix(imatrix)
    source = Source(src)
    planned = recipes.plan(source, file_type, imatrix=imatrix, **options)
    header, offsets, size = _layout(source, planned)
    with source, gguf.AtomicFile(dst, force=force, size=size, source=source.paths) as file:
        file.pwrite(header, 0)
        tell(Started(planned, sum(tensor.source.nbytes for tensor in planned.tensors)))
        run = _Run(source, imatrix, file)
        work = (
            item for tensor, offset in zip(planned.tensors, offsets, strict=True) for item in run.items(tensor, offset)
        )
        count = len(planned.tensors)
        index = 0
        for item in _in_order(work, threads or cpu_count()):
            if item.source_bytes:
                tell(Advanced(item.tensor, item.source_bytes))
            if item.last:
                index += 1
                tell(TensorDone(item.tensor, index, count))
        _pad_to(file, planned, offsets, size)
    warnings = (*source.warnings, *planned.warnings, *(imatrix.warnings if imatrix else ()))
    result = QuantizeResult(os.fspath(dst), planned, size, source.size, time.perf_counter() - begun, warnings)
    tell(Finished(result))
    return result


def _imatrix(imatrix):
    return imatrix if imatrix is None or isinstance(imatrix, ImportanceMatrix) else ImportanceMatrix.read(imatrix)


def _layout(source, planned):
    """(header bytes, offset of each tensor in the file, size of the file)."""
    edit = gguf.HeaderEdit(source.metadata)
    for change in planned.metadata:
        if change.type is None:
            edit.remove(change.key)
        else:
            edit.set(change.key, gguf.Value(change.type, change.value))
    stated = edit.get("general.alignment")
    alignment = stated.data if stated else gguf.DEFAULT_ALIGNMENT
    entries = [(tensor.name, tensor.dims, tensor.to_id, tensor.bytes) for tensor in planned.tensors]
    header = gguf.encode_header(edit.items(), entries, alignment)
    offsets, position = [], len(header)
    for *_, nbytes in entries:
        offsets.append(position)
        position += gguf.padded(nbytes, alignment)
    return header, offsets, position


def _pad_to(file, planned, offsets, size):
    """Zeros after the last tensor (those between tensors are holes, which read as zeros)."""
    end = offsets[-1] + planned.tensors[-1].bytes if offsets else size
    if end < size:
        file.pwrite(bytes(size - end), end)


# ---- work items ----


@dataclass(slots=True)
class _Item:
    """A piece of one tensor: `run()` does it, in any thread."""

    tensor: object
    source_bytes: int
    last: bool
    run: object


def _in_order(items, threads):
    """Run items, `threads` at a time, and yield each when it and all before it are done."""
    if threads <= 1:
        for item in items:
            item.run()
            yield item
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="quantreg") as pool:
        waiting = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(item.run)))
                if len(waiting) >= 3 * threads:
                    done, future = waiting.popleft()
                    future.result()
                    yield done
            while waiting:
                done, future = waiting.popleft()
                future.result()
                yield done
        finally:
            for _, future in waiting:
                future.cancel()


class _Run:
    """Makes and does the work items of one output file. Buffers are kept a thread, so memory does not grow."""

    def __init__(self, source, imatrix, file):
        self.source, self.imatrix, self.file = source, imatrix, file
        self._local = threading.local()

    def items(self, tensor, offset):
        """The items of one tensor whose data begins at `offset` of the output."""
        info = tensor.source
        if not tensor.converted:
            yield from self._split(tensor, info.nbytes, self._copy_step(tensor), 1, offset, self._copy)
            return
        cols, rows = info.n_cols, info.n_rows
        importance = None
        if tensor.importance:
            importance = self.imatrix.row(tensor.importance, cols, tensor.n_experts).reshape(-1, cols)
        encode = partial(self._encode, importance=importance, qtype=types[tensor.to_id])
        # rows of one expert share their importance, so that no slab may hold rows of two
        together = tensor.dims[1] if len(tensor.dims) > 2 else rows
        step = max(1, SLAB_WEIGHTS // max(1, cols))
        yield from self._split(tensor, rows, step, together, offset, encode)

    def _copy_step(self, tensor):
        """Bytes a work item: whole blocks, or whole rows where rows have headers."""
        qtype = types.get(tensor.source.type_id)
        unit = 1 if qtype is None else tensor.source.row_bytes if qtype.row_header_size else qtype.type_size
        return max(1, SLAB_BYTES // max(1, unit)) * max(1, unit)

    def _split(self, tensor, total, step, together, offset, work):
        """Ranges of up to `step` units (rows or bytes) that cross no multiple of `together` > 1."""
        if total == 0:
            yield _Item(tensor, 0, True, lambda: None)
            return
        unit_bytes = tensor.source.nbytes / total
        first = 0
        while first < total:
            last = min(first + step, total)
            if together > 1:
                last = min(last, (first // together + 1) * together)
            run = partial(work, tensor, offset, first, last)
            yield _Item(tensor, round((last - first) * unit_bytes), last == total, run)
            first = last

    def _copy(self, tensor, offset, first, last):
        info = tensor.source
        raw = self._buffer("raw", last - first)
        self.source.read_into(info, first, raw)
        if info.known and info.type_name not in NEVER_NONFINITE:
            self._check_finite(info, raw, first)
        self.file.pwrite(raw, offset + first)

    def _check_finite(self, info, raw, first):
        """Refuse what a model must not hold, also where its bytes are only copied."""
        qtype = types.get(info.type_id)
        if qtype is None:
            return
        unit = info.row_bytes if qtype.row_header_size else qtype.type_size
        weights = info.n_cols if qtype.row_header_size else qtype.block_size
        step = max(1, CHUNK_WEIGHTS // weights)
        for unit_index in range(0, len(raw) // unit, step):
            data = raw[unit_index * unit : (unit_index + step) * unit]
            rows = len(data) // unit if qtype.row_header_size else 1
            bad = first_nonfinite(self._floats(qtype, data.reshape(rows, -1), len(data) // unit // rows * weights))
            if bad >= 0:
                index = (first // unit + unit_index) * weights + bad
                raise NonFiniteError(f"{info.name}: holds NaN or infinity at index {index}")

    def _encode(self, tensor, offset, first, last, *, importance, qtype):
        info = tensor.source
        cols = info.n_cols
        out_bytes = qtype.row_bytes(cols)
        raw = self._buffer("raw", (last - first) * info.row_bytes).reshape(last - first, info.row_bytes)
        out = self._buffer("out", (last - first) * out_bytes).reshape(last - first, out_bytes)
        self.source.read_into(info, first * info.row_bytes, raw.reshape(-1))
        columns = None
        if importance is not None:
            columns = importance[first // tensor.dims[1] % tensor.n_experts if tensor.n_experts > 1 else 0]
        source_type = types[info.type_id]
        ask = registry.scorers(qtype)
        step = max(1, CHUNK_WEIGHTS // max(1, cols))
        for row in range(0, last - first, step):
            rows = self._floats(source_type, raw[row : row + step], cols)
            encode_slab(qtype, rows, out[row : row + step], columns, ask=ask, first_row=first + row, tensor=tensor.name)
        self.file.pwrite(out.reshape(-1), offset + first * out_bytes)

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
