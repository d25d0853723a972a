"""Quantizing a file: a model and a file type or plan in, a file or shards out."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from os import PathLike
from typing import Any, Unpack

from quantreg.dispatch import check_executor
from quantreg.errors import NonFiniteError, PlanError
from quantreg.events import Event, Finished, TensorDone
from quantreg.importance import ImatrixLike
from quantreg.jobs.advice import with_advice
from quantreg.jobs.rehearsal import NO_TYPE, rehearse
from quantreg.jobs.results import QuantizeResult, WriteResult
from quantreg.jobs.resume import identity_of
from quantreg.jobs.tuning_options import Keywords, TuningOptions, parted
from quantreg.jobs.verify import about_blank, is_matrix
from quantreg.jobs.writing import write_files
from quantreg.keywords import names_nearest, takes
from quantreg.loss import explain, is_lost
from quantreg.qtype import QuantType
from quantreg.recipes import FileType, Plan, PlanOptions
from quantreg.storage import PartialFile

__all__ = ["quantize_events", "quantize_file"]


@names_nearest
@takes(PlanOptions, TuningOptions)
def quantize_file(
    src: str | bytes | PathLike[str],
    dst: str | bytes | PathLike[str],
    file_type: str | int | QuantType | FileType | Plan | None = None,
    imatrix: ImatrixLike | None = None,
    *,
    progress: Callable[[Event], object] | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    resumable: bool = False,
    resume: bool = False,
    names: Mapping[str, str | None] | str | bytes | PathLike[str] | None = None,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    **given: Unpack[Keywords],
) -> QuantizeResult:
    """Quantize the model at src to dst.

    ``src``, ``file_type``, ``imatrix``, ``names`` and the options from ``pure`` on are those of `quantreg.plan`;
    ``file_type`` may also be a Plan that was made from src, and then the options belong to the plan.

    - ``progress``: a callable that receives the events of `quantreg.events`.
    - ``threads``: how many slabs are in work at a time; by default as many as processors. The bytes do not depend on
      it.
    - ``executor``: any `concurrent.futures.Executor` whose workers see the files under the same paths; by default a
      pool of threads. With a calibration text, they also see the folder of dst, and compute as this process does:
      QuantregError if one has another NumPy, BLAS or CPU.
    - ``force``: replace an existing dst.
    - ``resumable``: keep what is done in dst.partial if the run ends early. ``resume``: also continue such a run.
    - ``split_max_size`` ("4G" or bytes) or ``split_max_tensors``: write shards ``dst-00001-of-00003.gguf`` and so on;
      with ``keep_split``, one for each of the source's.
    - ``calibration``: a text that shows what the model is used for. It gives the importance of columns, unless there is
      an ``imatrix``, and tensors are encoded with error feedback: each is as large as without, and its outputs are
      closer to those of the source. A str, token ids, the Path of a file, or a sequence of these. ``n_ctx``: tokens of
      a chunk of it; ``chunks``: the largest number of chunks. ``datasets``: the names of the texts, for the metadata.
      ``device``: what computes the products meanwhile, such as "cuda" (see `quantreg.load`).
    - ``target_size`` ("4.2GB" or bytes of the file) or ``target_bpw`` (bits per weight): the types are chosen so that
      the loss is least at this size, among ``types`` (names; by default those that suit the tensors). ``file_type`` is
      then None. ``tuning_cache``: a file that keeps what does not depend on the target, for other targets.

    dst appears under its name only when it is complete. Raises what `quantreg.plan` raises; NonFiniteError, naming
    tensor and row, for NaN or infinity; OutputError if dst exists, is the source, or does not fit on the disk. With a
    calibration text, also ModelError if the model cannot run, TokenizerError, DeviceError, and QualityError for a short
    text.
    """
    options, tuning = parted(given)
    events = _events(
        src, dst, file_type, imatrix, options, tuning, threads=threads, executor=executor, force=force,
        resumable=resumable, resume=resume, names=names, split_max_size=split_max_size,
        split_max_tensors=split_max_tensors,
    )  # fmt: skip
    with closing(events):
        for event in events:
            if progress is not None:
                progress(event)
            if isinstance(event, Finished):
                return event.result
    raise AssertionError("the last event is always Finished")


@names_nearest
@takes(PlanOptions, TuningOptions)
def quantize_events(
    src: str | bytes | PathLike[str],
    dst: str | bytes | PathLike[str],
    file_type: str | int | QuantType | FileType | Plan | None = None,
    imatrix: ImatrixLike | None = None,
    *,
    threads: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    resumable: bool = False,
    resume: bool = False,
    names: Mapping[str, str | None] | str | bytes | PathLike[str] | None = None,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    **given: Unpack[Keywords],
) -> Iterator[Event]:
    """Quantize the model at src to dst, as an iterator of the events of `quantreg.events`; the last is Finished.

    The arguments are those of `quantize_file`. Work goes on while the caller asks for the next event. Closing the
    iterator before its end leaves no output.
    """
    options, tuning = parted(given)
    return _events(
        src, dst, file_type, imatrix, options, tuning, threads=threads, executor=executor, force=force,
        resumable=resumable, resume=resume, names=names, split_max_size=split_max_size,
        split_max_tensors=split_max_tensors,
    )  # fmt: skip


def _events(
    src, dst, file_type, imatrix, options, tuning, *, threads, executor, force, resumable, resume, names,
    split_max_size, split_max_tensors,
):  # fmt: skip
    check_executor(executor)
    begun = time.perf_counter()
    layout = {"names": names, "dst": dst, "split_max_size": split_max_size, "split_max_tensors": split_max_tensors}
    inputs = [os.fsdecode(path) for path in (src, names, imatrix) if isinstance(path, (str, bytes, PathLike))]
    tuned, ready = None, None
    more: dict[str, Any] = {}
    with ExitStack() as stack:
        if tuning.used:
            from quantreg.jobs.tuned import Tuning  # loads the whole of inference, which takes 50 ms

            tuned = stack.enter_context(
                Tuning(
                    src, file_type, imatrix, options, tuning, layout, threads=threads, force=force,
                    resumable=resumable, resume=resume, inputs=inputs,
                )
            )  # fmt: skip
            yield from tuned.rehearse()
            rehearsal = tuned.rehearsal
        else:
            if file_type is None:
                raise PlanError(NO_TYPE)
            rehearsal = rehearse(src, file_type, imatrix, options, **layout)
        rehearsal.check()
        if tuned is not None:
            ready = yield from tuned.encode(rehearsal, executor)
            rehearsal = tuned.rehearsal
            rehearsal.check()
        source, planned, found, files, _ = rehearsal
        begin = None
        if resumable or resume:
            identity = identity_of(source, planned, found) | ({} if tuned is None else tuned.identity)

            def begin(file, **keywords):
                return PartialFile(file.path, identity | {"output": file.digest}, resume=resume, **keywords)

        written = write_files(
            source, planned, files, found, threads=threads, executor=executor, force=force, begin=begin,
            inputs=inputs, ready=ready,
        )  # fmt: skip
        warnings = yield from _told(written, planned)
        if tuned is not None:
            warnings = (*warnings, *tuned.warnings(planned))
            more = {"tuned": tuned.results, "found": tuned.found}
    warnings = (*warnings, *planned.warnings, *(() if found is None else found.warnings))
    done = WriteResult.of(files)
    yield Finished(
        QuantizeResult(
            done.paths, done.size, planned, source.size, time.perf_counter() - begun, tuple(dict.fromkeys(warnings)),
            **more,
        )
    )  # fmt: skip


def _told(events, planned):
    """Pass on the events of a run. Returns what they say that the user should know."""
    lost, blank = [], []
    try:
        for event in events:
            if isinstance(event, TensorDone) and event.error is not None and is_lost(event.error):
                lost.append(explain(event.tensor.name, event.tensor.to_type, event.error))
            if isinstance(event, TensorDone) and event.blank and is_matrix(event.tensor.source):
                blank.append(event.tensor.source.name)
            yield event
    except NonFiniteError as error:
        raise with_advice(error, planned) from error
    return (*lost, *about_blank(blank))
