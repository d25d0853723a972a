"""What a run does before it reads tensor data.

A plan, a dry run and a run must refuse the same models with the same message. So all of them go through `rehearse`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import NamedTuple

from quantreg import gguf
from quantreg.errors import GGUFFormatError, PlanError, QuantregError
from quantreg.importance import ImatrixLike, ImportanceMatrix
from quantreg.jobs import shards
from quantreg.jobs.adapted import adapt
from quantreg.jobs.inputs import given_by, open_imatrix, open_source
from quantreg.jobs.source import Source
from quantreg.qtype import QuantType
from quantreg.recipes import FileType, Plan, PlanOptions, plan_header
from quantreg.recipes.options import pairs
from quantreg.registry import types
from quantreg.words import count, listed, named

__all__ = ["NO_TYPE", "Rehearsal", "check_all", "rehearse"]

NO_TYPE: str = "file_type is missing: give one, or a target_size or target_bpw that decides the types"


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


def check_all(rehearsals: Sequence[Rehearsal]) -> None:
    """Raise what `Rehearsal.check` raises for the first plan that cannot be carried out, and name the others."""
    wrong = [one for one in rehearsals if one.plan.problems]
    if len(wrong) > 1:
        names = listed([one.plan.file_type.name for one in wrong[1:]], 9)
        raise PlanError(f"{'; '.join(wrong[0].plan.problems)}. Nor can {names} be made")
    for one in wrong:
        one.check()


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
    source: Source | None = None,
) -> Rehearsal:
    """Do everything that `quantreg.quantize_file` does before it reads tensor data or opens the output.

    ``source`` is the model at ``src``, if the same options have opened it already. Raises what `quantreg.plan` raises,
    except for problems of the plan: `Rehearsal.check` raises those.
    """
    if source is None:
        given = given_by(file_type.metadata) if isinstance(file_type, Plan) else dict(pairs(options.override_kv))
        source = adapt(open_source(src, names, given=given))
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
