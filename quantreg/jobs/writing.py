"""Carrying out a plan: slabs of rows are read, decoded, encoded and written, several at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quantreg.dispatch import cpu_count
from quantreg.errors import PlanError
from quantreg.events import Advanced, Started, TensorDone
from quantreg.importance import ImportanceMatrix
from quantreg.jobs import shards
from quantreg.jobs.fitter import Fitter, little_endian
from quantreg.jobs.shards import OutputFile
from quantreg.jobs.slabs import SLAB_BYTES, Done, ImportanceRow, Slab, Worker, in_order, run_slab, slabs_of
from quantreg.jobs.source import DataFile, Source, stamp_of
from quantreg.loss import Loss
from quantreg.recipes import Plan, TensorPlan
from quantreg.scores import BLOWN_UP_BY_ZEROS, mostly_zero
from quantreg.storage import AtomicFile

if TYPE_CHECKING:
    from quantreg.parameters import Fitted

__all__ = ["Ready", "write_files"]


class Ready(Protocol):
    """Tensors that are encoded already, by their names in the output: each is the path of a file of its bytes."""

    def __contains__(self, name: object) -> bool: ...
    def __getitem__(self, name: str) -> Path: ...

    def parameters(self, name: str) -> "Fitted | None":
        """What the type fitted to the tensor, or None."""
        ...


def write_files(
    source: Source,
    planned: Plan,
    files: Sequence[OutputFile],
    imatrix: ImportanceMatrix | None = None,
    *,
    threads: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    begin: Callable[..., AtomicFile] | None = None,
    check: bool = True,
    inputs: Sequence[str | os.PathLike[str]] = (),
    ready: Ready | None = None,
) -> Iterator[Any]:
    """Carry out a plan: write its files and yield the events Started, Advanced and TensorDone.

    ``begin(file, force=, size=, source=)`` opens a file for writing, by default as an AtomicFile. With ``check``, NaN
    and infinity are refused even in tensors that are only copied. No output replaces a file of the source, the imatrix
    or one of ``inputs``, even with ``force``. Tensors that are ``ready`` are copied from there instead of encoded.
    """
    begin = begin or (lambda file, **keywords: AtomicFile(file.path, **keywords))
    read = [*source.paths, *inputs, *([imatrix.path] if imatrix is not None and imatrix.path is not None else [])]

    def make(file):
        return begin(file, force=force, size=file.size, source=read)

    threads = threads or cpu_count()
    own = {os.path.abspath(path) for path in source.paths}
    with source, shards.opened(files, make) as targets:
        for file, target in zip(files, targets, strict=True):
            target.pwrite(file.header, 0)
        yield Started(planned, sum(tensor.source.nbytes for tensor in planned.tensors))
        floor = planned.options.imatrix_floor
        by_path = executor is not None
        pieces = _pieces(source, planned, files, targets, imatrix, floor, by_path=by_path, check=check, ready=ready)
        worker = Worker(lambda path, stamp: source.file(path) if path in own else DataFile(path, stamp))
        if executor is not None:
            done = _elsewhere(pieces, executor, threads)
        elif threads == 1:
            done = _one_by_one(pieces, worker)
        else:
            done = _on_threads(pieces, worker, threads)
        index, loss, blank = 0, Loss(), True
        with closing(done):  # its threads must end before the files are closed
            for piece in done:
                if piece.nbytes:
                    yield Advanced(piece.tensor, piece.nbytes)
                loss, blank = loss.plus(piece.loss), blank and piece.blank
                if piece.last:
                    index += 1
                    yield TensorDone(piece.tensor, index, len(planned.tensors), loss.share, blank)
                    loss, blank = Loss(), True
        for file, target in zip(files, targets, strict=True):
            _pad(file, target)


@dataclass(slots=True)
class _Piece:
    """A slab of a tensor, or None if there is nothing to do, and where its bytes go.

    ``nbytes`` counts the bytes of the source that it finishes, and ``last`` marks the last piece of the tensor.
    ``loss`` is what encoding lost of it, and ``blank`` that of `Done`.
    """

    tensor: TensorPlan
    slab: Slab | None
    nbytes: int
    target: AtomicFile
    offset: int
    last: bool
    loss: Loss = field(default_factory=Loss)
    blank: bool = False


def _pieces(source, planned, files, targets, imatrix, floor, by_path, check, ready):
    stamps = [stamp_of(path) for path in source.paths]
    begun = None  # the imatrix file as it was when the run began, for workers that read it themselves
    if by_path and imatrix is not None and imatrix.path is not None:
        begun = os.path.abspath(imatrix.path), stamp_of(imatrix.path)
    facts = planned.facts(source.metadata)

    def rows_of(tensor):
        if not tensor.importance:
            return None
        if imatrix is None:
            raise PlanError(f"{tensor.name}: the plan uses importance: give the imatrix that the plan was made with")
        cols, count = tensor.source.n_cols, tensor.n_experts
        # Reading it here, not only in the workers, also collects its warnings.
        rows = imatrix.row(tensor.importance, cols, count, floor).reshape(-1, cols)
        if tensor.to_type in BLOWN_UP_BY_ZEROS and (share := mostly_zero(rows)):
            imatrix.warn(
                f"entry {tensor.importance}: {share:.0%} of the values are zero (calibration did not use these "
                f"columns), and {tensor.to_type} decodes such columns to several times the largest weight: use "
                "--imatrix-floor 0.01 (imatrix_floor=0.01), or another type"
            )
        if begun is not None:
            return [ImportanceRow(*begun, tensor.importance, count, i, floor) for i in range(count)]
        return list(rows)

    def cut(tensor, parameters=None):
        return slabs_of(tensor, source, stamps, rows_of, facts, check, parameters)

    fitter = Fitter(source, planned, cut, facts)
    for file, target in zip(files, targets, strict=True):
        stored = {parameter.name: offset for parameter, offset in file.parameters}
        for name, values in fitter.of_model():
            if name in stored:
                target.pwrite(values, stored[name])
        for tensor, offset in file.tensors:
            fitted = None
            is_ready = ready is not None and tensor.converted and tensor.name in ready
            if is_ready:
                fitted = ready.parameters(tensor.name) or {}
                for parameter in tensor.parameters:
                    target.pwrite(little_endian(fitted[parameter.parameter]), stored[parameter.name])
            elif tensor.converted and not target.has(offset, tensor.bytes):
                fitted = fitter.of_tensor(tensor) or {}
                for parameter in tensor.parameters:
                    target.pwrite(little_endian(fitted[parameter.parameter]), stored[parameter.name])
            piece = None
            read = 0
            for slab, within, length in (
                _copies(tensor, ready[tensor.name]) if is_ready else cut(tensor, fitted or None)
            ):
                if piece is not None:
                    yield piece
                done = target.has(offset + within, length)
                before, read = read, tensor.source.nbytes * (within + length) // tensor.bytes
                nbytes = read - before if is_ready else slab.nbytes
                piece = _Piece(tensor, None if done else slab, nbytes, target, offset + within, False)
            piece = piece or _Piece(tensor, None, 0, target, offset, True)
            piece.last = True
            yield piece


def _copies(tensor, path):
    """Yield what `slabs_of` yields, for a tensor whose bytes are in a file of their own."""
    path, stamp = os.path.abspath(path), stamp_of(path)
    for first in range(0, tensor.bytes, SLAB_BYTES):
        nbytes = min(SLAB_BYTES, tensor.bytes - first)
        yield Slab(tensor.source.name, path, stamp, first, nbytes, None, None, 0, first), first, nbytes


def _write(piece, done):
    piece.target.pwrite(done.data, piece.offset, piece.tensor.name)
    piece.loss, piece.blank = done.loss, done.blank


def _one_by_one(pieces, worker):
    for piece in pieces:
        if piece.slab is not None:
            _write(piece, worker.run(piece.slab))
        yield piece


def _on_threads(pieces, worker, threads):
    with ThreadPoolExecutor(threads, thread_name_prefix="quantreg") as pool:

        def work(piece):
            _write(piece, worker.run(piece.slab))

        submit = lambda piece: None if piece.slab is None else pool.submit(work, piece)  # noqa: E731
        with closing(in_order(pieces, submit, threads)) as done:
            for piece, _ in done:
                yield piece


def _elsewhere(pieces, executor, threads):
    submit = lambda piece: None if piece.slab is None else executor.submit(run_slab, piece.slab)  # noqa: E731
    with closing(in_order(pieces, submit, threads, twice=True)) as done:
        for piece, result in done:
            if piece.slab is not None:
                _write(piece, Done(*result))
            yield piece


def _pad(file, target):
    """Write the zeros after each tensor: an unfinished file of an earlier run may hold anything there."""
    starts = [offset for offset, _ in file.data[1:]] + [file.size]
    for (offset, nbytes), start in zip(file.data, starts, strict=False):
        end = offset + nbytes
        if end < start:
            target.pwrite(bytes(start - end), end)
