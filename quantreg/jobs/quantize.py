"""Quantizing a file: a model and a file type or plan in, a file or shards out."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import closing
from os import PathLike
from typing import Unpack

from quantreg.events import Event, Finished
from quantreg.importance import ImatrixLike
from quantreg.jobs.results import QuantizeResult
from quantreg.jobs.running import run
from quantreg.jobs.tuning_options import Keywords, TuningOptions, parted
from quantreg.keywords import names_nearest, takes
from quantreg.qtype import QuantType
from quantreg.recipes import FileType, Plan, PlanOptions

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
      ``device``: what computes the products meanwhile, such as "cuda" (see `quantreg.load`). ``across_layers``:
      matrices also make up for the errors of those before them; without it, the run takes about two thirds of the time.
    - ``target_size`` ("4.2GB" or bytes of the file) or ``target_bpw`` (bits per weight): the types are chosen so that
      the loss is least at this size, among ``types`` (names; by default those that suit the tensors). ``file_type`` is
      then None. ``tuning_cache``: a file that keeps what does not depend on the target, for other targets.

    dst appears under its name only when it is complete. Raises what `quantreg.plan` raises; NonFiniteError, naming
    tensor and row, for NaN or infinity; OutputError if dst exists, is the source, or does not fit on the disk. With a
    calibration text, also ModelError if the model cannot run, TokenizerError, DeviceError, and QualityError for a short
    text.
    """
    options, tuning = parted(given)
    events = run(
        src, [(dst, file_type)], imatrix, options, tuning, threads=threads, executor=executor, force=force,
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
    return run(
        src, [(dst, file_type)], imatrix, options, tuning, threads=threads, executor=executor, force=force,
        resumable=resumable, resume=resume, names=names, split_max_size=split_max_size,
        split_max_tensors=split_max_tensors,
    )  # fmt: skip
