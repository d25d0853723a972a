"""Carrying out plans: slabs of rows are read, decoded, encoded and written, several at a time."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from typing import Any

from quantreg.dispatch import cpu_count
from quantreg.events import Advanced, Started, TensorDone
from quantreg.importance import ImportanceMatrix
from quantreg.jobs import shards
from quantreg.jobs.in_order import in_order
from quantreg.jobs.pieces import Output, Pieces, Ready
from quantreg.jobs.shards import OutputFile
from quantreg.jobs.slabs import Done, Worker, run_slab
from quantreg.jobs.source import DataFile, Source
from quantreg.loss import Loss
from quantreg.recipes import Plan
from quantreg.storage import AtomicFile

__all__ = ["Output", "Ready", "write_files", "write_outputs"]


def write_files(
    source: Source,
    planned: Plan,
    files: Sequence[OutputFile],
    imatrix: ImportanceMatrix | None = None,
    *,
    ready: Ready | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Carry out one plan, as `write_outputs` does. Tensors that are ``ready`` are copied instead of encoded."""
    for target in (yield from write_outputs(source, [Output(planned, files, ready)], imatrix, **options)):
        target.finish()


def write_outputs(
    source: Source,
    outputs: Sequence[Output],
    imatrix: ImportanceMatrix | None = None,
    *,
    threads: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    begin: Callable[..., AtomicFile] | None = None,
    check: bool = True,
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> Generator[Any, None, list[AtomicFile]]:
    """Carry out plans for one source: write their files and yield the events Started, Advanced and TensorDone.

    Each slab of a tensor is read and decoded once for all outputs, and encoded once for those that want the same bytes
    of it. The plans must keep the same tensors. Returns the files, which have their names then; the caller is to call
    ``finish`` of each.

    ``begin(file, force=, size=, source=)`` opens a file for writing, by default as an AtomicFile. With ``check``, NaN
    and infinity are refused even in tensors that are only copied. No output replaces a file of the source, the imatrix
    or one of ``inputs``, even with ``force``.
    """
    begin = begin or (lambda file, **keywords: AtomicFile(file.path, **keywords))
    read = [*source.paths, *inputs, *([imatrix.path] if imatrix is not None and imatrix.path is not None else [])]

    def make(file):
        return begin(file, force=force, size=file.size, source=read)

    threads = threads or cpu_count()
    own = {os.path.abspath(path) for path in source.paths}
    with source, shards.opened([output.files for output in outputs], make) as opened:
        pairs = [
            pair
            for output, targets in zip(outputs, opened, strict=True)
            for pair in zip(output.files, targets, strict=True)
        ]
        for file, target in pairs:
            target.pwrite(file.header, 0)
        plans = tuple(output.plan for output in outputs)
        pieces = Pieces(source, outputs, opened, imatrix, by_path=executor is not None, check=check)
        yield Started(plans[0], pieces.source_bytes, plans)
        worker = Worker(lambda path, stamp: source.file(path) if path in own else DataFile(path, stamp))
        if executor is not None:
            done = _elsewhere(pieces, executor, threads)
        elif threads == 1:
            done = _one_by_one(pieces, worker)
        else:
            done = _on_threads(pieces, worker, threads)
        index, losses, blank = 0, [Loss() for _ in outputs], True
        with closing(done):  # its threads must end before the files are closed
            for piece in done:
                if piece.nbytes:
                    yield Advanced(piece.tensors[0], piece.nbytes)
                for write in piece.writes:
                    losses[write.output] = losses[write.output].plus(write.loss)
                blank = blank and piece.blank
                if piece.last:
                    index += 1
                    for number, tensor in enumerate(piece.tensors):
                        yield TensorDone(tensor, index, len(plans[0].tensors), losses[number].share, blank, number)
                    losses, blank = [Loss() for _ in outputs], True
        for file, target in pairs:
            _pad(file, target)
    return [target for _, target in pairs]


def _write(piece, done):
    for write in piece.writes:
        write.target.pwrite(done.data[write.result], write.offset, write.tensor)
        write.loss = done.losses[write.result]
    piece.blank = done.blank


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
