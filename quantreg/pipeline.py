"""Plan in, file out: slabs of rows are read, decoded, encoded and written, several at a time."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

from quantreg import gguf, output, recipes
from quantreg.dispatch import cpu_count
from quantreg.errors import PlanError
from quantreg.events import Advanced, Finished, Started, TensorDone
from quantreg.importance import ImportanceMatrix
from quantreg.resume import identity_of
from quantreg.source import open_source, stamp_of
from quantreg.work import ImportanceRow, Slab, Worker, in_order, run_slab, slabs_of

__all__ = ["QuantizeResult", "plan", "quantize_events", "quantize_file", "read_plan"]


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What `quantize_file` did.

    ``paths`` are the files written: one, or the shards in order; ``path`` is the first. ``size`` and ``source_size``
    are whole files in bytes; ``plan.tensors`` holds the decision for each tensor; ``warnings`` are sentences for the
    user.
    """

    path: str
    plan: recipes.Plan
    size: int
    source_size: int
    seconds: float
    warnings: tuple[str, ...]
    paths: tuple[str, ...] = ()

    @property
    def tensors(self):
        return self.plan.tensors

    @property
    def bits_per_weight(self) -> float:
        return self.plan.bits_per_weight


def plan(src, file_type, *, imatrix=None, names=None, **options) -> recipes.Plan:
    """What `quantize_file` would do: the type of every tensor, with reasons and sizes. Reads headers only.

    ``src`` is the path of a GGUF file, of any shard of one, or of a safetensors file or index: ``names`` then maps its
    names to GGUF's (a mapping, or a JSON file of one; None leaves a tensor out), and override_kv gives the metadata.
    ``file_type`` is a name, alias or number ("Q4_K_M", 15). ``imatrix`` is a path or an ImportanceMatrix. Options are
    those of `recipes.PlanOptions`.
    Raises GGUFFormatError, ImportanceError, UnknownFileTypeError, UnknownTypeError, PlanError, OSError.
    """
    source = open_source(src, names)
    return _with_warnings(recipes.plan(source, file_type, imatrix=_imatrix(imatrix), **options), source)


def read_plan(path, src, *, imatrix=None, names=None) -> recipes.Plan:
    """The plan in a file that `recipes.write_plan` wrote, checked against the model at src; for `quantize_file`.

    ``imatrix``: a path or ImportanceMatrix; default the file that the plan names. Raises what `plan` raises.
    """
    source = open_source(src, names)
    return _with_warnings(recipes.read_plan(path, source, imatrix=_imatrix(imatrix)), source)


def _with_warnings(plan, source):
    return replace(plan, warnings=(*source.warnings, *plan.warnings))


def quantize_file(src, dst, file_type, imatrix=None, *, progress=None, **keywords) -> QuantizeResult:
    """Quantize the GGUF model at src to dst.

    Arguments are those of `plan`; file_type may also be a `recipes.Plan` that was made from src. Keywords:

    - ``threads``: slabs at a time, default all processors. The bytes do not depend on it.
    - ``executor``: any `concurrent.futures.Executor`, whose workers must see the files under the same paths; default a
      pool of threads.
    - ``force``: replace an existing dst.
    - ``resumable``: keep what is done in dst.partial if the run ends early; ``resume``: also go on with one that did.
    - ``split_max_size`` ("4G" or bytes) or ``split_max_tensors``: write shards ``dst-00001-of-00003.gguf`` ...; with
      ``keep_split`` one for each of the source's.
    - ``progress``: a callable that receives the events of `quantreg.events`.
    - and the options of `recipes.PlanOptions`.

    dst appears under its name only when it is complete. Raises what `plan` raises; NonFiniteError, naming tensor and
    row, for NaN or infinity; OutputError if dst exists, is the source, or does not fit on the disk.
    """
    with closing(quantize_events(src, dst, file_type, imatrix, **keywords)) as events:
        for event in events:
            if progress is not None:
                progress(event)
    return event.result


def quantize_events(
    src, dst, file_type, imatrix=None, *, threads=None, executor=None, force=False, resumable=False, resume=False,
    names=None, split_max_size=None, split_max_tensors=None, **options,
) -> Iterator[object]:  # fmt: skip
    """The same as `quantize_file`, as an iterator of the events of `quantreg.events`, the last of which is Finished.

    Work goes on while the caller asks for the next event. Closing the iterator before its end leaves no output.
    """
    begun = time.perf_counter()
    source = open_source(src, names)
    if isinstance(file_type, recipes.Plan):
        planned = _checked(file_type, source, options)
        imatrix = _imatrix(imatrix or (planned.imatrix if any(t.importance for t in planned.tensors) else None))
    else:
        imatrix = _imatrix(imatrix)
        planned = recipes.plan(source, file_type, imatrix=imatrix, **options)
    groups, warnings = output.group_tensors(
        planned, source, split_max_size=split_max_size, split_max_tensors=split_max_tensors,
        keep_split=planned.options.keep_split,
    )  # fmt: skip
    files = output.lay_out(dst, planned, source, groups)
    begin = None
    if resumable or resume:
        identity = identity_of(source, planned, imatrix)

        def begin(file, **keywords):
            return gguf.PartialFile(file.path, identity | {"output": file.digest}, resume=resume, **keywords)

    yield from write_files(
        source, planned, files, imatrix, threads=threads, executor=executor, force=force, begin=begin
    )  # fmt: skip
    warnings = (*source.warnings, *planned.warnings, *warnings, *(imatrix.warnings if imatrix else ()))
    warnings = tuple(dict.fromkeys(warnings))  # a plan made here has those of the source, too
    size, seconds = sum(file.size for file in files), time.perf_counter() - begun
    paths = tuple(file.path for file in files)
    yield Finished(QuantizeResult(paths[0], planned, size, source.size, seconds, warnings, paths))


def _imatrix(imatrix):
    return imatrix if imatrix is None or isinstance(imatrix, ImportanceMatrix) else ImportanceMatrix.read(imatrix)


def _checked(planned, source, options):
    """A plan that was made before: of this source, without problems, and not to be changed any more."""
    if options:
        raise PlanError(f"{next(iter(options))}: the plan is made already, give options when it is made")
    here = {info.name: info for info in source.tensors}
    for tensor in planned.tensors:
        if here.get(tensor.source.name) != tensor.source:
            raise PlanError(f"{tensor.source.name}: not, or not like this, in {source.paths[0]}: plan this model anew")
    if planned.problems:
        raise PlanError("; ".join(planned.problems))
    return planned


# ---- writing ----


def write_files(
    source, planned, files, imatrix=None, *, threads=None, executor=None, force=False, begin=None, check=True
):
    """Carry out a plan: write its files (`output.OutputFile`), yielding events.

    ``begin(file, force, size, source)`` opens a file, default as AtomicFile. ``check`` refuses NaN and infinity in
    tensors that are only copied, too.
    """
    begin = begin or (lambda file, **keywords: gguf.AtomicFile(file.path, **keywords))
    read = [*source.paths, *([imatrix.path] if imatrix is not None and imatrix.path is not None else [])]

    def make(file):
        return begin(file, force=force, size=file.size, source=read)

    threads = threads or cpu_count()
    with source, output.opened(files, make) as targets:
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
        with closing(done):  # its threads must have ended before the files are closed
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
    """A slab of a tensor (None: nothing is to be done) and where its bytes go; ``last`` of its tensor.

    ``nbytes`` of the source are done with it.
    """

    tensor: object
    slab: Slab | None
    nbytes: int
    target: object
    offset: int
    last: bool


def _pieces(source, files, targets, imatrix, by_path, check):
    stamps = [stamp_of(path) for path in source.paths]

    def rows_of(tensor):
        if not tensor.importance:
            return None
        if imatrix is None:
            raise PlanError(f"{tensor.name}: the plan uses importance: give the imatrix that it was made with")
        cols, count = tensor.source.n_cols, tensor.n_experts
        rows = imatrix.row(tensor.importance, cols, count).reshape(-1, cols)  # also in order to hear its warnings
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
    """Zeros after each tensor: an unfinished file of an earlier run may hold anything there."""
    starts = [offset for _, offset in file.tensors[1:]] + [file.size]
    for (tensor, offset), start in zip(file.tensors, starts, strict=False):
        end = offset + tensor.bytes
        if end < start:
            target.pwrite(bytes(start - end), end)
