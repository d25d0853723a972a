"""Carrying out a plan: slabs of rows are read, decoded, encoded and written, several at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from quantreg.dispatch import cpu_count
from quantreg.errors import PlanError
from quantreg.events import Advanced, Started, TensorDone
from quantreg.importance import ImportanceMatrix
from quantreg.jobs import shards
from quantreg.jobs.shards import OutputFile
from quantreg.jobs.slabs import ImportanceRow, Slab, Worker, in_order, run_slab, slabs_of
from quantreg.jobs.source import Source, stamp_of
from quantreg.recipes import Plan, TensorPlan
from quantreg.storage import AtomicFile

__all__ = ["write_files"]


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
) -> Iterator[Any]:
    """Carry out a plan: write its files and yield the events Started, Advanced and TensorDone.

    ``begin(file, force=, size=, source=)`` opens a file for writing, by default as an AtomicFile. With ``check``, NaN
    and infinity are refused even in tensors that are only copied. No output replaces a file of the source, the imatrix
    or one of ``inputs``, even with ``force``.
    """
    begin = begin or (lambda file, **keywords: AtomicFile(file.path, **keywords))
    read = [*source.paths, *inputs, *([imatrix.path] if imatrix is not None and imatrix.path is not None else [])]

    def make(file):
        return begin(file, force=force, size=file.size, source=read)

    threads = threads or cpu_count()
    with source, shards.opened(files, make) as targets:
        for file, target in zip(files, targets, strict=True):
            target.pwrite(file.header, 0)
        yield Started(planned, sum(tensor.source.nbytes for tensor in planned.tensors))
        pieces = _pieces(source, files, targets, imatrix, by_path=executor is not None, check=check)
        if executor is not None:
            done = _elsewhere(pieces, executor, threads)
        elif threads == 1:
            done = _one_by_one(pieces, Worker(lambda path, stamp: source.file(path)))
        else:
            done = _on_threads(pieces, Worker(lambda path, stamp: source.file(path)), threads)
        index = 0
        with closing(done):  # its threads must end before the files are closed
            for piece in done:
                if piece.nbytes:
                    yield Advanced(piece.tensor, piece.nbytes)
                if piece.last:
                    index += 1
                    yield TensorDone(piece.tensor, index, len(planned.tensors))
        for file, target in zip(files, targets, strict=True):
            _pad(file, target)


@dataclass(slots=True)
class _Piece:
    """A slab of a tensor, or None if there is nothing to do, and where its bytes go.

    ``nbytes`` counts the bytes of the source that it finishes, and ``last`` marks the last piece of the tensor.
    """

    tensor: TensorPlan
    slab: Slab | None
    nbytes: int
    target: AtomicFile
    offset: int
    last: bool


def _pieces(source, files, targets, imatrix, by_path, check):
    stamps = [stamp_of(path) for path in source.paths]

    def rows_of(tensor):
        if not tensor.importance:
            return None
        if imatrix is None:
            raise PlanError(f"{tensor.name}: the plan uses importance: give the imatrix that the plan was made with")
        cols, count = tensor.source.n_cols, tensor.n_experts
        rows = imatrix.row(tensor.importance, cols, count).reshape(
            -1, cols
        )  # reading it here also collects its warnings
        if by_path and imatrix.path is not None:
            path = os.path.abspath(imatrix.path)
            return [ImportanceRow(path, stamp_of(path), tensor.importance, count, i) for i in range(count)]
        return list(rows)

    for file, target in zip(files, targets, strict=True):
        for tensor, offset in file.tensors:
            piece = None
            for slab, within, length in slabs_of(tensor, source, stamps, rows_of, check):
                if piece is not None:
                    yield piece
                done = target.has(offset + within, length)
                piece = _Piece(tensor, None if done else slab, slab.nbytes, target, offset + within, False)
            piece = piece or _Piece(tensor, None, 0, target, offset, True)
            piece.last = True
            yield piece


def _write(piece, data):
    if piece.slab is not None:
        piece.target.pwrite(data, piece.offset, piece.tensor.name)


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
    with closing(in_order(pieces, submit, threads)) as done:
        for piece, data in done:
            _write(piece, data)
            yield piece


def _pad(file, target):
    """Write the zeros after each tensor: an unfinished file of an earlier run may hold anything there."""
    starts = [offset for _, offset in file.tensors[1:]] + [file.size]
    for (tensor, offset), start in zip(file.tensors, starts, strict=False):
        end = offset + tensor.bytes
        if end < start:
            target.pwrite(bytes(start - end), end)
