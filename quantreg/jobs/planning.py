"""Planning a file: what `quantize_file` would do to each tensor. Reads headers only.

A plan, a dry run and a run must refuse the same models with the same message. So all of them go through `rehearse`,
which does everything that a run does before it reads tensor data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

from quantreg import gguf
from quantreg.errors import GGUFFormatError, ImportanceError, PlanError, QuantregError
from quantreg.importance import ImatrixLike, ImportanceMatrix
from quantreg.jobs import shards
from quantreg.jobs.adapted import adapt
from quantreg.jobs.inputs import open_imatrix, open_source
from quantreg.jobs.source import Source
from quantreg.keywords import names_nearest
from quantreg.qtype import QuantType
from quantreg.recipes import FileType, Plan, PlanFile, PlanOptions, plan_header
from quantreg.registry import types
from quantreg.words import count, named

__all__ = ["Rehearsal", "plan", "read_plan", "rehearse"]


@names_nearest
def plan(
    src: str | bytes | PathLike[str],
    file_type: str | int | QuantType | FileType,
    *,
    imatrix: ImatrixLike | None = None,
    names: Mapping[str, str | None] | str | bytes | PathLike[str] | None = None,
    check: bool = True,
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
    imatrix_floor: float = 0.0,
) -> Plan:
    """Plan what `quantreg.quantize_file` would do: the type of every tensor, with reasons and sizes.

    ``src`` is the path of a GGUF file, of any shard of one, or of a safetensors file or index. For safetensors,
    ``names`` maps the names there to GGUF's (a mapping, or a JSON file that holds one; None leaves a tensor out), and
    ``override_kv`` gives the metadata. ``file_type`` is a name, alias or number ("Q4_K_M", 15), or a type
    for every tensor that is quantized. If the type is a plugin's, the output and the token embeddings get better types
    unless ``pure`` is true. ``imatrix`` is a path, an ImportanceMatrix, or a mapping of tensor names to arrays of
    column statistics. The options from ``pure`` on are those of llama-quantize; `quantreg.PlanOptions` describes each.
    With ``check=False``, what keeps the plan from being carried out is listed in ``Plan.problems`` instead of raised.

    Raises GGUFFormatError, SafetensorsError, ImportanceError, UnknownFileTypeError, UnknownTypeError, PlanError,
    OSError.
    """
    options = PlanOptions(
        pure=pure, leave_output_tensor=leave_output_tensor, output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type, tensor_types=tensor_types, allow_requantize=allow_requantize,
        override_kv=override_kv, prune_layers=prune_layers, include_weights=include_weights,
        exclude_weights=exclude_weights, on_missing_importance=on_missing_importance, keep_split=keep_split,
        keep_dims=keep_dims, no_fallback=no_fallback, imatrix_floor=imatrix_floor,
    )  # fmt: skip
    rehearsal = rehearse(src, file_type, imatrix, options, names=names)
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
    source = adapt(open_source(src, names))
    if imatrix is None:
        try:
            imatrix = open_imatrix(file.imatrix)
        except ImportanceError:
            raise
        except ValueError as error:  # a path that no system takes, such as one with a NUL byte
            raise PlanError(f"{file.path}: imatrix: {file.imatrix!r:.80} is not a path: {error}") from None
    made = file.plan_for(source, open_imatrix(imatrix))
    return replace(made, warnings=(*source.warnings, *made.warnings))


class Rehearsal(NamedTuple):
    """What a run has before it reads tensor data. ``files`` is empty if they cannot be laid out.

    ``plan`` has the warnings about the source, the plan and the shards, and all problems. ``errors`` are those among
    the problems that have an exception class of their own.
    """

    source: Source
    plan: Plan
    imatrix: ImportanceMatrix | None
    files: list[shards.OutputFile]
    errors: tuple[QuantregError, ...]

    def check(self) -> None:
        """Raise PlanError, or the only error that there is, if the plan cannot be carried out."""
        if len(self.errors) == len(self.plan.problems) == 1:
            raise self.errors[0]
        if self.plan.problems:
            raise PlanError("; ".join(self.plan.problems))


def rehearse(
    src: str | bytes | PathLike[str],
    file_type: str | int | QuantType | FileType | Plan,
    imatrix: ImatrixLike | None,
    options: PlanOptions,
    *,
    names: Mapping[str, str | None] | str | bytes | PathLike[str] | None = None,
    dst: str | bytes | PathLike[str] = "out.gguf",
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
) -> Rehearsal:
    """Do everything that `quantreg.quantize_file` does before it reads tensor data or opens the output.

    Raises what `quantreg.plan` raises, except for problems of the plan: `Rehearsal.check` raises those.
    """
    source = adapt(open_source(src, names))
    if isinstance(file_type, Plan):
        made = _fitting(file_type, source, options)
        if imatrix is None and any(tensor.importance for tensor in made.tensors):
            imatrix = made.imatrix
        found = open_imatrix(imatrix)
    else:
        found = open_imatrix(imatrix)
        made = plan_header(source, file_type, imatrix=found, options=options, check=False)
    groups, warnings = shards.group_tensors(
        made, source, split_max_size=split_max_size, split_max_tensors=split_max_tensors,
        keep_split=made.options.keep_split,
    )  # fmt: skip
    errors = list(_codec_errors(made))
    files: list[shards.OutputFile] = []
    try:
        files = shards.lay_out(dst, made, source, groups)
    except (GGUFFormatError, PlanError) as error:
        errors.append(error)
    made = replace(
        made,
        # A plan that was made before has the warnings about its source already.
        warnings=tuple(dict.fromkeys((*source.warnings, *made.warnings, *warnings, *_long_names(made, source)))),
        problems=tuple(dict.fromkeys((*made.problems, *map(str, errors)))),
    )
    return Rehearsal(source, made, found, files, tuple(errors))


def _long_names(planned: Plan, source: Source) -> Iterator[str]:
    """Say which tensors get names that llama.cpp refuses. Those of a GGUF source are told when it is read."""
    told = {info.name for header in source.headers for info in header.tensors}
    names = [parameter.name for parameter in planned.parameters]
    for tensor in planned.tensors:
        names += [tensor.name, *(parameter.name for parameter in tensor.parameters)]
    long = [name for name in names if len(name.encode()) >= gguf.LONG_TENSOR_NAME and name not in told]
    if long:
        yield (
            f"{count(len(long), 'tensor name')} of {gguf.LONG_TENSOR_NAME} bytes or more, which llama.cpp refuses "
            f"({named(long)}): `names` (--names) gives tensors of safetensors shorter names"
        )


def _codec_errors(planned: Plan) -> Iterator[QuantregError]:
    """Yield an error for each type of the plan whose codec cannot be loaded, or cannot do what is asked."""
    converted = [tensor for tensor in planned.tensors if tensor.converted]
    first: dict[int, str] = {}
    for tensor in converted:
        first.setdefault(tensor.to_id, tensor.name)
    for type_id, name in first.items():
        try:
            codec = types[type_id].codec
        except QuantregError as error:
            yield error
            continue
        if not codec.can_encode:
            yield PlanError(
                f"{name}: {types[type_id].name} can be decoded, but not encoded: choose another file type, or another "
                "type for this tensor with tensor_types (--tensor-type)"
            )
    for type_id in dict.fromkeys(tensor.from_id for tensor in converted):
        if type_id in types and type_id not in first:
            try:
                types[type_id].codec  # noqa: B018
            except QuantregError as error:
                yield error


def _fitting(planned: Plan, source: Source, options: PlanOptions) -> Plan:
    """A plan that was made before: it must fit this source and take no further options."""
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
    return planned
