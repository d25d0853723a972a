"""Planning a file: what `quantize_file` would do to each tensor. Without a target, this reads headers only."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, Unpack

from quantreg.errors import ImportanceError, PlanError
from quantreg.events import Event
from quantreg.importance import ImatrixLike
from quantreg.jobs.adapted import adapt
from quantreg.jobs.inputs import given_by, open_imatrix, open_source
from quantreg.jobs.rehearsal import NO_TYPE, Rehearsal, rehearse
from quantreg.jobs.tuning_options import Keywords, TuningOptions, parted
from quantreg.keywords import names_nearest, takes
from quantreg.qtype import QuantType
from quantreg.recipes import FileType, Plan, PlanFile, PlanOptions

__all__ = ["plan", "read_plan", "rehearse_run"]


@names_nearest
@takes(PlanOptions, TuningOptions)
def plan(
    src: str | bytes | PathLike[str],
    file_type: str | int | QuantType | FileType | None = None,
    *,
    imatrix: ImatrixLike | None = None,
    names: Mapping[str, str | None] | str | bytes | PathLike[str] | None = None,
    check: bool = True,
    threads: int | None = None,
    progress: Callable[[Event], object] | None = None,
    **given: Unpack[Keywords],
) -> Plan:
    """Plan what `quantreg.quantize_file` would do: the type of every tensor, with reasons and sizes.

    ``src`` is the path of a GGUF file, of any shard of one, of a safetensors file or index, or of the folder of a
    published model, which is read as the GGUF model that it becomes. For safetensors,
    ``names`` maps the names there to GGUF's (a mapping, or a JSON file that holds one; None leaves a tensor out), and
    ``override_kv`` gives the metadata. ``file_type`` is a name, alias or number ("Q4_K_M", 15), or a type
    for every tensor that is quantized. If the type is a plugin's, the output and the token embeddings get better types
    unless ``pure`` is true. ``imatrix`` is a path, an ImportanceMatrix, or a mapping of tensor names to arrays of
    column statistics. The options from ``pure`` on are those of llama-quantize; `quantreg.PlanOptions` describes each.
    With ``check=False``, what keeps the plan from being carried out is listed in ``Plan.problems`` instead of raised.

    The options from ``calibration`` on are those of `quantreg.quantize_file`. Only with a target does planning read
    tensor data and, with a text, run the model, on as many ``threads`` as given; ``progress`` hears of it.

    Raises GGUFFormatError, SafetensorsError, ImportanceError, UnknownFileTypeError, UnknownTypeError, PlanError,
    OSError.
    """
    options, tuning = parted(given)
    rehearsal = rehearse_run(
        src, file_type, imatrix, options, tuning, names=names, threads=threads, progress=progress
    )  # fmt: skip
    if check:
        rehearsal.check()
    return rehearsal.plan


def read_plan(
    path: str | bytes | PathLike[str],
    src: str | bytes | PathLike[str],
    *,
    imatrix: ImatrixLike | None = None,
    names: Mapping[str, str | None] | str | bytes | PathLike[str] | None = None,
) -> Plan:
    """Read a plan that `quantreg.write_plan` wrote, check it against the model at src, and return it.

    ``imatrix`` is that of `plan`; by default the file that the plan names. Raises what `plan` raises.
    """
    file = PlanFile(path)
    source = adapt(open_source(src, names, given=given_by(file.edits)))
    if imatrix is None:
        try:
            imatrix = open_imatrix(file.imatrix)
        except ImportanceError:
            raise
        except ValueError as error:  # a path that no system takes, such as one with a NUL byte
            raise PlanError(f"{file.path}: imatrix: {file.imatrix!r:.80} is not a path: {error}") from None
    made = file.plan_for(source, open_imatrix(imatrix))
    return replace(made, warnings=(*source.warnings, *made.warnings))


def rehearse_run(
    src: str | bytes | PathLike[str],
    file_type: str | int | QuantType | FileType | Plan | None,
    imatrix: ImatrixLike | None,
    options: PlanOptions,
    tuning: TuningOptions | Mapping[str, Any],
    *,
    names: Mapping[str, str | None] | str | bytes | PathLike[str] | None = None,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    threads: int | None = None,
    progress: Callable[[Event], object] | None = None,
) -> Rehearsal:
    """Do what `quantreg.quantize_file` does before it encodes, and write nothing.

    ``tuning`` holds the options about a calibration text and a target. A problem of the plan is not raised; see
    `Rehearsal.check`.
    """
    if not isinstance(tuning, TuningOptions):
        tuning = TuningOptions(**tuning)
    layout: dict[str, Any] = {
        "names": names, "dst": "out.gguf", "split_max_size": split_max_size, "split_max_tensors": split_max_tensors
    }  # fmt: skip
    if not tuning.used:
        if file_type is None:
            raise PlanError(NO_TYPE)
        return rehearse(src, file_type, imatrix, options, **layout)
    from quantreg.jobs.tuned import Tuning  # loads the whole of inference, which takes 50 ms

    with Tuning(src, file_type, imatrix, options, tuning, layout, threads=threads, writes=False) as tuned:
        for event in tuned.planning():
            if progress is not None:
                progress(event)
        return tuned.rehearsal
