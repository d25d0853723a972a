"""Planning a file: what `quantize_file` would do to each tensor. Reads headers only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from quantreg.errors import ImportanceError, PlanError
from quantreg.importance import ImportanceMatrix
from quantreg.jobs.adapted import adapt
from quantreg.jobs.inputs import open_imatrix, open_source
from quantreg.recipes import FileType, Plan, PlanFile, PlanOptions, plan_header

__all__ = ["plan", "read_plan"]


def plan(
    src: str | PathLike[str],
    file_type: str | int | FileType,
    *,
    imatrix: ImportanceMatrix | str | PathLike[str] | None = None,
    names: Mapping[str, str | None] | str | PathLike[str] | None = None,
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
) -> Plan:
    """Plan what `quantreg.quantize_file` would do: the type of every tensor, with reasons and sizes.

    ``src`` is the path of a GGUF file, of any shard of one, or of a safetensors file or index. For safetensors,
    ``names`` maps the names there to GGUF's (a mapping, or a JSON file that holds one; None leaves a tensor out), and
    ``override_kv`` gives the metadata. ``file_type`` is a name, alias or number ("Q4_K_M", 15), or the name of a type
    to use for every tensor that is quantized. ``imatrix`` is a path or an ImportanceMatrix. The options from ``pure``
    on are those of llama-quantize; `quantreg.PlanOptions` describes each. With ``check=False``, what keeps the plan
    from being carried out is listed in ``Plan.problems`` instead of raised.

    Raises GGUFFormatError, SafetensorsError, ImportanceError, UnknownFileTypeError, UnknownTypeError, PlanError,
    OSError.
    """
    options = PlanOptions(
        pure=pure, leave_output_tensor=leave_output_tensor, output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type, tensor_types=tensor_types, allow_requantize=allow_requantize,
        override_kv=override_kv, prune_layers=prune_layers, include_weights=include_weights,
        exclude_weights=exclude_weights, on_missing_importance=on_missing_importance, keep_split=keep_split,
        keep_dims=keep_dims, no_fallback=no_fallback,
    )  # fmt: skip
    source = adapt(open_source(src, names))
    made = plan_header(source, file_type, imatrix=open_imatrix(imatrix), options=options, check=check)
    return _with_warnings(made, source)


def read_plan(
    path: str | PathLike[str],
    src: str | PathLike[str],
    *,
    imatrix: ImportanceMatrix | str | PathLike[str] | None = None,
    names: Mapping[str, str | None] | str | PathLike[str] | None = None,
) -> Plan:
    """Read a plan that `quantreg.write_plan` wrote, check it against the model at src, and return it.

    ``imatrix`` is a path or an ImportanceMatrix; by default the file that the plan names. Raises what `plan` raises.
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
    return _with_warnings(file.plan_for(source, open_imatrix(imatrix)), source)


def _with_warnings(plan, source):
    return replace(plan, warnings=(*source.warnings, *plan.warnings))
