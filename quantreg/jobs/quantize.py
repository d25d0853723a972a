"""Quantizing a file: a model and a file type or plan in, a file or shards out."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from os import PathLike
from typing import Any

from quantreg.errors import PlanError
from quantreg.events import Event, Finished
from quantreg.importance import ImportanceMatrix
from quantreg.jobs import shards
from quantreg.jobs.adapted import adapt
from quantreg.jobs.inputs import open_imatrix, open_source
from quantreg.jobs.results import QuantizeResult, WriteResult
from quantreg.jobs.resume import identity_of
from quantreg.jobs.writing import write_files
from quantreg.recipes import FileType, Plan, PlanOptions, plan_header
from quantreg.storage import PartialFile

__all__ = ["quantize_events", "quantize_file"]


def quantize_file(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    file_type: str | int | FileType | Plan,
    imatrix: ImportanceMatrix | str | PathLike[str] | None = None,
    *,
    progress: Callable[[Event], object] | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    resumable: bool = False,
    resume: bool = False,
    names: Mapping[str, str | None] | str | PathLike[str] | None = None,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    pure: bool = False,
    leave_output_tensor: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    tensor_types: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    allow_requantize: bool = False,
    override_kv: Mapping[str, Any] | Sequence[tuple[str, Any]] = (),
    prune_layers: Sequence[int] = (),
    include_weights: str | Sequence[str] = (),
    exclude_weights: str | Sequence[str] = (),
    on_missing_importance: str = "error",
    keep_split: bool = False,
    keep_dims: bool = False,
    no_fallback: bool = False,
) -> QuantizeResult:
    """Quantize the model at src to dst.

    ``src``, ``file_type``, ``imatrix``, ``names`` and the options from ``pure`` on are those of `quantreg.plan`;
    ``file_type`` may also be a Plan that was made from src, and then the options belong to the plan.

    - ``progress``: a callable that receives the events of `quantreg.events`.
    - ``threads``: how many slabs are in work at a time; by default as many as processors. The bytes do not depend on
      it.
    - ``executor``: any `concurrent.futures.Executor` whose workers see the files under the same paths; by default a
      pool of threads.
    - ``force``: replace an existing dst.
    - ``resumable``: keep what is done in dst.partial if the run ends early. ``resume``: also continue such a run.
    - ``split_max_size`` ("4G" or bytes) or ``split_max_tensors``: write shards ``dst-00001-of-00003.gguf`` and so on;
      with ``keep_split``, one for each of the source's.

    dst appears under its name only when it is complete. Raises what `quantreg.plan` raises; NonFiniteError, naming
    tensor and row, for NaN or infinity; OutputError if dst exists, is the source, or does not fit on the disk.
    """
    options = PlanOptions(
        pure=pure, leave_output_tensor=leave_output_tensor, output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type, tensor_types=tensor_types, allow_requantize=allow_requantize,
        override_kv=override_kv, prune_layers=prune_layers, include_weights=include_weights,
        exclude_weights=exclude_weights, on_missing_importance=on_missing_importance, keep_split=keep_split,
        keep_dims=keep_dims, no_fallback=no_fallback,
    )  # fmt: skip
    events = _events(
        src, dst, file_type, imatrix, options, threads=threads, executor=executor, force=force, resumable=resumable,
        resume=resume, names=names, split_max_size=split_max_size, split_max_tensors=split_max_tensors,
    )  # fmt: skip
    with closing(events):
        for event in events:
            if progress is not None:
                progress(event)
            if isinstance(event, Finished):
                return event.result
    raise AssertionError("the last event is always Finished")


def quantize_events(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    file_type: str | int | FileType | Plan,
    imatrix: ImportanceMatrix | str | PathLike[str] | None = None,
    *,
    threads: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    resumable: bool = False,
    resume: bool = False,
    names: Mapping[str, str | None] | str | PathLike[str] | None = None,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    pure: bool = False,
    leave_output_tensor: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    tensor_types: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    allow_requantize: bool = False,
    override_kv: Mapping[str, Any] | Sequence[tuple[str, Any]] = (),
    prune_layers: Sequence[int] = (),
    include_weights: str | Sequence[str] = (),
    exclude_weights: str | Sequence[str] = (),
    on_missing_importance: str = "error",
    keep_split: bool = False,
    keep_dims: bool = False,
    no_fallback: bool = False,
) -> Iterator[Event]:
    """Quantize the model at src to dst, as an iterator of the events of `quantreg.events`; the last is Finished.

    The arguments are those of `quantize_file`. Work goes on while the caller asks for the next event. Closing the
    iterator before its end leaves no output.
    """
    options = PlanOptions(
        pure=pure, leave_output_tensor=leave_output_tensor, output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type, tensor_types=tensor_types, allow_requantize=allow_requantize,
        override_kv=override_kv, prune_layers=prune_layers, include_weights=include_weights,
        exclude_weights=exclude_weights, on_missing_importance=on_missing_importance, keep_split=keep_split,
        keep_dims=keep_dims, no_fallback=no_fallback,
    )  # fmt: skip
    return _events(
        src, dst, file_type, imatrix, options, threads=threads, executor=executor, force=force, resumable=resumable,
        resume=resume, names=names, split_max_size=split_max_size, split_max_tensors=split_max_tensors,
    )  # fmt: skip


def _events(
    src, dst, file_type, imatrix, options, *, threads, executor, force, resumable, resume, names, split_max_size,
    split_max_tensors,
):  # fmt: skip
    begun = time.perf_counter()
    source = adapt(open_source(src, names))
    if isinstance(file_type, Plan):
        planned = _checked(file_type, source, options)
        if imatrix is None and any(tensor.importance for tensor in planned.tensors):
            imatrix = planned.imatrix
        imatrix = open_imatrix(imatrix)
    else:
        imatrix = open_imatrix(imatrix)
        planned = plan_header(source, file_type, imatrix=imatrix, options=options)
    groups, warnings = shards.group_tensors(
        planned, source, split_max_size=split_max_size, split_max_tensors=split_max_tensors,
        keep_split=planned.options.keep_split,
    )  # fmt: skip
    files = shards.lay_out(dst, planned, source, groups)
    begin = None
    if resumable or resume:
        identity = identity_of(source, planned, imatrix)

        def begin(file, **keywords):
            return PartialFile(file.path, identity | {"output": file.digest}, resume=resume, **keywords)

    yield from write_files(
        source, planned, files, imatrix, threads=threads, executor=executor, force=force, begin=begin
    )  # fmt: skip
    warnings = (*source.warnings, *planned.warnings, *warnings, *(() if imatrix is None else imatrix.warnings))
    written = WriteResult.of(files)
    yield Finished(
        QuantizeResult(
            written.paths, written.size, planned, source.size, time.perf_counter() - begun,
            tuple(dict.fromkeys(warnings)),  # a plan made by `quantreg.plan` repeats those of the source
        )
    )  # fmt: skip


def _checked(planned, source, options):
    """A plan that was made before: it must fit this source, have no problems, and take no further options."""
    changed = options.changed()
    if changed:
        raise PlanError(f"{changed[0]} has no effect on a plan that is already made: give options when you make it")
    here = {info.name: info for info in source.tensors}
    for tensor in planned.tensors:
        if here.get(tensor.source.name) != tensor.source:
            raise PlanError(
                f"{source.paths[0]} does not hold the tensor {tensor.source.name} that the plan was made for: make a "
                "new plan for this model"
            )
    if planned.problems:
        raise PlanError("; ".join(planned.problems))
    return planned
