"""Work items: a range of rows of one tensor that is read, decoded, checked and encoded. They pickle and stand alone."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantreg.codec import RowCodec
from quantreg.dispatch import decode_slab, encode_slab, rows_per_slab
from quantreg.errors import ImportanceError, NonFiniteError, UnknownTypeError
from quantreg.faults import unknown_elsewhere
from quantreg.ggml import INTEGER_TYPES
from quantreg.gguf import TensorInfo
from quantreg.importance import ImportanceMatrix
from quantreg.jobs.alignment import aligned
from quantreg.jobs.source import DataFile, How, Source, stamp_of
from quantreg.loss import Loss, has_limit, measured
from quantreg.parameters import TensorContext
from quantreg.qtype import QuantType
from quantreg.recipes import TensorPlan
from quantreg.registry import registry, types
from quantreg_kernels._run import first_nonfinite

if TYPE_CHECKING:
    from quantreg.parameters import Fitted

__all__ = [
    "SLAB_BYTES",
    "Encoding",
    "ImportanceRow",
    "Slab",
    "Wanted",
    "Worker",
    "byte_ranges",
    "read_floats",
    "run_slab",
    "slabs_of",
]

SLAB_WEIGHTS: int = 1 << 18  # weights per work item: 1 MiB of float32 stays in cache until it is encoded
_TURNED = 4  # times as many of a tensor whose rows are columns in its file: each item reads past all that it skips
CHUNK_WEIGHTS: int = 1 << 17  # weights decoded at a time: 512 KiB of float32 stay in a core's cache until encoded
SLAB_BYTES: int = 1 << 22  # bytes per work item where data is only copied or compared


class ImportanceRow(NamedTuple):
    """Where a worker finds the importance of a slab's columns: row ``expert`` of an entry in an imatrix file.

    ``floor`` is that of `ImportanceMatrix.row`.
    """

    path: str
    stamp: tuple[int, int]
    entry: str
    n_experts: int
    expert: int
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Encoding:
    """What becomes of the rows of a slab: they are encoded to ``to_type`` or, if it is None, copied.

    ``importance`` is an `ImportanceRow` or the float32 row itself, or None. ``becomes`` says which tensor and matrix of
    the output it is, or is None if the codec does not ask; name, shape and metadata may differ from those in the
    source. ``parameters`` are those that the type fitted to the tensor, or None.
    """

    to_type: str | None
    importance: ImportanceRow | NDArray[np.float32] | None = None
    becomes: TensorContext | None = None
    parameters: "Fitted | None" = None


@dataclass(frozen=True, slots=True)
class Slab:
    """Some rows of a tensor, and what becomes of them.

    The file ``path``, as it was at ``stamp``, holds ``nbytes`` of ``from_type`` at ``position``, in rows of ``n_cols``
    weights. They are read and decoded once for all ``encodings``. Without encodings their bytes are copied; if
    ``from_type`` is None, without looking for NaN and infinity. ``start`` is the number of the first row in the tensor,
    or of the first byte if there are no encodings. ``context`` says which tensor and matrix of the source it is, or is
    None if the decoder does not ask. ``had`` are the fitted parameters of the source, or None. With ``stored``, the
    bytes are made while reading: ``position`` then counts from the start of the tensor, and ``files`` are the number,
    the path and the stamp of each file that they are made of.
    """

    tensor: str
    path: str
    stamp: tuple[int, int]
    position: int
    nbytes: int
    from_type: str | None
    n_cols: int
    start: int
    encodings: tuple[Encoding, ...] = ()
    context: TensorContext | None = None
    had: "Fitted | None" = None
    stored: How | None = None
    files: tuple[tuple[int, str, tuple[int, int]], ...] = ()


class Done(NamedTuple):
    """The bytes of a slab in the output, and what encoding lost of a sample of its rows: one of each per encoding.

    Without encodings there is one of each. ``all_zero`` says whether every weight is zero; it is known only for data
    that was copied and checked. ``blank`` says whether the source holds nothing but zero bytes here, as an unfinished
    download does.
    """

    data: "Sequence[NDArray[np.uint8]]"
    losses: Sequence[Loss] = (Loss(),)
    all_zero: bool = False
    blank: bool = False


class Wanted(NamedTuple):
    """What a tensor of the source becomes in one output.

    ``importance`` has one `Encoding.importance` per expert, or is empty. ``facts`` is the metadata of the output that
    codecs may know. ``parameters`` are those that the new type fitted to the tensor.
    """

    tensor: TensorPlan
    importance: Sequence[Any] = ()
    facts: Mapping[str, Any] = MappingProxyType({})
    parameters: "Fitted | None" = None


def byte_ranges(info: TensorInfo) -> Iterator[tuple[int, int]]:
    """Yield (first byte, bytes) of the pieces of a tensor that is not converted.

    A piece holds whole blocks, or whole rows where rows have a header. It lies in one matrix if the type has fitted
    parameters, of which each expert may have its own.
    """
    qtype = types.get(info.type_id)
    if qtype is not None and qtype.parameters is not None and info.known and info.nbytes:
        matrix = info.row_bytes * info.matrix_rows
        rows = rows_per_slab(info.row_bytes, SLAB_BYTES) * info.row_bytes
        for start in range(0, info.nbytes, matrix):
            for first in range(start, start + matrix, rows):
                yield first, min(rows, start + matrix - first)
        return
    unit = 1 if qtype is None else info.row_bytes if qtype.row_header_size else qtype.type_size
    unit = max(1, unit)
    step = rows_per_slab(unit, SLAB_BYTES) * unit
    for first in range(0, info.nbytes, step):
        yield first, min(step, info.nbytes - first)


def slabs_of(
    wanted: Sequence[Wanted], source: Source, stamps: Sequence[tuple[int, int]], check: bool = True
) -> Iterator[tuple[Slab, Sequence[tuple[int, int]]]]:
    """Yield each piece of a tensor as a Slab, with (offset in the tensor's data, bytes) of each of its results.

    All of ``wanted`` are made from the same tensor of the source, and a slab has one encoding for each, in order. If
    none of them is converted, it has no encodings, and one result that serves all. ``stamps`` belong to
    ``source.paths``. With ``check``, slabs that are only copied are searched for NaN and infinity.
    """
    info = wanted[0].tensor.source
    shard, position = source.place(info)
    path, stamp = os.path.abspath(source.paths[shard]), stamps[shard]  # a worker may be in another folder
    stored = source.stored.get(info.name)
    files = tuple((n, os.path.abspath(source.paths[n]), stamps[n]) for n in (stored.files if stored else ()))
    if not any(one.tensor.converted for one in wanted):
        qtype = types.get(info.type_id)
        look = check and qtype is not None and info.known and qtype.name not in INTEGER_TYPES
        had = source.parameters(info) if look else None
        for first, nbytes in byte_ranges(info):
            context = None if had is None else source.context(info, matrix_of(info, first // info.row_bytes))
            slab = Slab(
                info.name, path, stamp, position + first, nbytes, qtype.name if look else None, info.n_cols, first,
                context=context, had=had, stored=stored, files=files,
            )  # fmt: skip
            yield slab, [(first, nbytes)]
        return
    if not info.n_elements:
        return
    asks = [one.tensor.converted and types[one.tensor.to_id].by_matrix for one in wanted]
    row_bytes = [types[one.tensor.to_id].row_bytes(info.n_cols) for one in wanted]
    step = rows_per_slab(info.n_cols, SLAB_WEIGHTS * (_TURNED if getattr(stored, "turned", False) else 1))
    # The rows of an expert share their importance, so a slab must not hold rows of two experts.
    # A stack whose matrices have nothing of their own is cut as one: a convolution has a matrix for each few weights.
    decoder_asks = types[info.type_id].by_matrix
    alone = decoder_asks or any(asks) or any(len(one.importance) > 1 for one in wanted)
    together = info.matrix_rows if alone else info.n_rows
    had = source.parameters(info)
    first = 0
    while first < info.n_rows:
        matrix = first // together
        last = min(first + step, info.n_rows, (matrix + 1) * together)
        encodings = tuple(_encoding(one, matrix, ask) for one, ask in zip(wanted, asks, strict=True))
        slab = Slab(
            info.name, path, stamp, position + first * info.row_bytes, (last - first) * info.row_bytes,
            types[info.type_id].name, info.n_cols, first, encodings,
            source.context(info, matrix) if decoder_asks else None, had, stored, files,
        )  # fmt: skip
        yield slab, [(first * nbytes, (last - first) * nbytes) for nbytes in row_bytes]
        first = last


def _encoding(one: Wanted, matrix: int, asks: bool) -> Encoding:
    tensor = one.tensor
    if not tensor.converted:
        return Encoding(None)
    importance = one.importance[matrix % len(one.importance)] if one.importance else None
    becomes = TensorContext(tensor.name, tensor.shape, one.facts, matrix) if asks else None
    return Encoding(types[tensor.to_id].name, importance, becomes, one.parameters)


def matrix_of(info: TensorInfo, row: int) -> int:
    """Which matrix of a stack a row belongs to."""
    return row // max(1, info.matrix_rows)


class Worker:
    """Processes slabs, in any thread. Each thread keeps its buffers, so that memory does not grow.

    ``open_file(path, stamp)`` returns a `DataFile`.
    """

    def __init__(self, open_file: Callable[[str, tuple[int, int]], DataFile]) -> None:
        self._open = open_file
        self._local = threading.local()
        self._imatrix: tuple[str, tuple[int, int], ImportanceMatrix] | None = None

    def run(self, slab: Slab) -> Done:
        """Make the bytes of the slab in the output. They are valid until this thread's next call.

        Raises GGUFFormatError if the source has changed, NonFiniteError for NaN or infinity.
        """
        raw = self._raw(slab)
        blank = not raw[:4096].any() and not raw.any()
        if slab.encodings:
            return self._encode(slab, raw)._replace(blank=blank)
        if slab.from_type is not None:
            return Done([raw], all_zero=not self._check_finite(slab, raw), blank=blank)
        return Done([raw], blank=blank)

    def floats(self, slab: Slab) -> NDArray[np.float32]:
        """The rows of the slab as float32 (rows, cols), valid until this thread's next call."""
        raw = self._raw(slab)
        qtype = types[slab.from_type]
        codec = qtype.codec_for(slab.had, slab.context)
        return self._floats(qtype, codec, raw.reshape(-1, qtype.row_bytes(slab.n_cols)), slab.n_cols, slab.tensor)

    def _raw(self, slab: Slab) -> NDArray[np.uint8]:
        """The bytes of the slab in ``slab.from_type``, in this thread's buffer."""
        raw = self._buffer("raw", slab.nbytes)
        if slab.stored is None:
            self._open(slab.path, slab.stamp).read_into(slab.position, raw, slab.tensor)
        else:
            files = {number: self._open(path, stamp) for number, path, stamp in slab.files}
            slab.stored.read_into(
                lambda file, position, out: files[file].read_into(position, out, slab.tensor), slab.position, raw
            )
        return raw

    def _encode(self, slab: Slab, raw: NDArray[np.uint8]) -> Done:
        source_type, cols = types[slab.from_type], slab.n_cols
        raw = raw.reshape(-1, source_type.row_bytes(cols))
        decoder = source_type.codec_for(slab.had, slab.context)
        encoders = [self._encoder(slab, number, len(raw)) for number in range(len(slab.encodings))]
        losses = [Loss() for _ in slab.encodings]
        step = rows_per_slab(cols, CHUNK_WEIGHTS)
        for row in range(0, len(raw), step):
            rows = self._floats(source_type, decoder, raw[row : row + step], cols, slab.tensor)
            for number, encoder in enumerate(encoders):
                if encoder is None:  # the others tell of weights that they cannot hold, and a copy holds all
                    _refuse_nonfinite(rows, slab.tensor, (slab.start + row) * cols)
                    continue
                qtype, codec, scorer, columns, out = encoder
                data = out[row : row + step]
                encode_slab(
                    qtype, rows, data, columns, scorer=scorer, first_row=slab.start + row, tensor=slab.tensor,
                    codec=codec,
                )  # fmt: skip
                if row == 0 or has_limit(codec):
                    losses[number] = losses[number].plus(measured(codec, rows, data))
        data = [raw.reshape(-1) if encoder is None else encoder[-1].reshape(-1) for encoder in encoders]
        return Done(data, losses)

    def _encoder(self, slab: Slab, number: int, n_rows: int) -> tuple[Any, ...] | None:
        """The type, codec, scorer, importance and output buffer of an encoding; None for a copy."""
        encoding = slab.encodings[number]
        if encoding.to_type is None:
            return None
        qtype = types[encoding.to_type]
        row_bytes = qtype.row_bytes(slab.n_cols)
        out = self._buffer(f"out {number}", n_rows * row_bytes).reshape(n_rows, row_bytes)
        codec = qtype.codec_for(encoding.parameters, encoding.becomes)
        return qtype, codec, registry.scorer(qtype), self.columns(encoding, slab.n_cols), out

    def columns(self, encoding: Encoding, n_cols: int) -> NDArray[np.float32] | None:
        """The importance of a slab's columns for an encoding, float32 (cols,), or None."""
        row = encoding.importance
        if not isinstance(row, ImportanceRow):
            return row
        kept = self._imatrix  # read once: another thread may set it for another run at any time
        if kept is None or kept[:2] != (row.path, row.stamp):
            if stamp_of(row.path) != tuple(row.stamp):
                raise ImportanceError(f"{row.path}: the imatrix has changed since the run began: start the run again")
            kept = self._imatrix = (row.path, row.stamp, ImportanceMatrix.read(row.path))
        rows = kept[2].row(row.entry, n_cols, row.n_experts, row.floor)
        return rows.reshape(-1, n_cols)[row.expert]

    def _check_finite(self, slab: Slab, raw: NDArray[np.uint8]) -> bool:
        """Refuse NaN and infinity, which a model must not hold, in data that is only copied.

        Returns whether any weight is not zero.
        """
        found = False
        qtype = types[slab.from_type]
        unit = qtype.row_bytes(slab.n_cols) if qtype.row_header_size else qtype.type_size
        weights = slab.n_cols if qtype.row_header_size else qtype.block_size
        step = rows_per_slab(weights, CHUNK_WEIGHTS)
        codec = qtype.codec_for(slab.had, slab.context)
        for first in range(0, len(raw) // unit, step):
            data = raw[first * unit : (first + step) * unit]
            rows = len(data) // unit if qtype.row_header_size else 1
            cols = len(data) // unit // rows * weights
            floats = self._floats(qtype, codec, data.reshape(rows, -1), cols, slab.tensor)
            _refuse_nonfinite(floats, slab.tensor, (slab.start // unit + first) * weights)
            found = found or bool(floats.any())
        return found

    def _floats(
        self, qtype: QuantType, codec: RowCodec, data: NDArray[np.uint8], cols: int, tensor: str
    ) -> NDArray[np.float32]:
        """Rows as float32: a view if they are stored so, else decoded into this thread's buffer."""
        if qtype.name == "F32" and np.little_endian:
            return data.view(np.float32)
        out = self._buffer("floats", len(data) * cols * 4).view(np.float32).reshape(len(data), cols)
        decode_slab(qtype, codec, data, out, tensor=tensor)
        return out

    def _buffer(self, name: str, nbytes: int) -> NDArray[np.uint8]:
        """uint8 (nbytes,) from this thread's buffer of this name, which grows if needed; aligned to 64 bytes."""
        have = getattr(self._local, name, None)
        if have is None or len(have) < nbytes:
            base = np.empty(nbytes + 64, np.uint8)
            start = -base.ctypes.data % 64
            have = base[start : start + nbytes]
            setattr(self._local, name, have)
        return have[:nbytes]


def _refuse_nonfinite(floats: NDArray[np.float32], tensor: str, start: int) -> None:
    """Raise NonFiniteError for weights of a tensor, the first of which has the index ``start``."""
    bad = first_nonfinite(floats)
    if bad >= 0:
        raise NonFiniteError(f"{tensor}: holds NaN or infinity at index {start + bad}")


# ---- in other processes ----


class _OpenFiles:
    """The files that a worker process keeps open between slabs."""

    LIMIT = 64

    def __init__(self) -> None:
        self._files: dict[tuple[str, tuple[int, int]], DataFile] = {}
        self._lock = threading.Lock()

    def __call__(self, path: str, stamp: tuple[int, int]) -> DataFile:
        with self._lock:
            key = (path, stamp)
            if key not in self._files:
                if len(self._files) >= self.LIMIT:
                    self._files = {}  # a file that is still in use is closed when its slab is done
                self._files[key] = DataFile(path, stamp)
            return self._files[key]


_worker = Worker(_OpenFiles())


def read_floats(slab: Slab) -> "NDArray[np.float32]":
    """The rows of a slab as float32 (rows, cols), for a worker of an executor."""
    return _worker.floats(aligned(slab)).copy()


def run_slab(slab: Slab) -> tuple[list[bytes], list[Loss], bool, bool]:
    """Run `Worker.run` for an executor whose workers are other processes, perhaps on other machines."""
    try:
        done = _worker.run(aligned(slab))
    except UnknownTypeError as error:
        raise unknown_elsewhere(error) from None
    return [data.tobytes() for data in done.data], list(done.losses), done.all_zero, done.blank
