"""Writing a model as safetensors: a header of JSON, then the bytes of the tensors; or as a folder for transformers."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantreg.errors import SafetensorsError, UnknownTypeError
from quantreg.ggml import PLAIN_TYPES
from quantreg.jobs.adapted import original_shape
from quantreg.jobs.export_folder import SHARD_BYTES, export_folder
from quantreg.jobs.inputs import MANY_DIMS
from quantreg.jobs.results import WriteResult
from quantreg.jobs.shards import OutputFile
from quantreg.jobs.source import Source
from quantreg.jobs.writing import write_files
from quantreg.keywords import names_nearest
from quantreg.recipes import Plan, PlanOptions, file_types
from quantreg.recipes.calibration import Calibration, decided
from quantreg.recipes.fitted import with_parameters
from quantreg.registry import types
from quantreg.safetensors import SUFFIX, encode_header

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["export"]


@names_nearest
def export(
    src: str | bytes | os.PathLike[str],
    dst: str | bytes | os.PathLike[str],
    *,
    dtype: "DTypeLike | None" = None,
    threads: int | None = None,
    force: bool = False,
    split_max_size: int | str = SHARD_BYTES,
) -> WriteResult:
    """Decode the GGUF model at src to a safetensors file, or to a folder that transformers loads.

    ``dst`` is a folder if it ends in a slash, exists as one, or has no suffix that begins with a letter. ``dtype`` is
    "f16", "bf16" or "f32" for every tensor, or a dtype of NumPy or torch.

    In a **file** the names stay GGUF's, and metadata is left behind. dtype None keeps the tensors that safetensors can
    hold as they are and decodes the others to f16. A tensor whose shape before it was folded is stored as
    ``comfy.gguf.orig_shape.NAME`` gets that shape again.

    A **folder** gets config.json, generation_config.json, the files of the tokenizer, and model.safetensors, in shards
    of up to ``split_max_size`` (bytes, or text such as "5G") with an index. The names and the order of the values are
    those of the class of transformers, as the table of a `quantreg.Checkpoint` says. dtype None decodes quantized
    tensors to bf16, or to the type of most other matrices, and keeps plain numbers that this would change as they are.
    With ``force``, the files of a model in the folder are replaced, and others stay. The result is a `FolderResult`.

    Raises CheckpointError if the model cannot be written as a folder; NonFiniteError for values that overflow f16 (use
    bf16 or f32), UnknownTypeError for types that no plugin reads, SafetensorsError for another dtype, TokenizerError,
    OutputError, GGUFFormatError, OSError.
    """
    name = getattr(dtype, "__name__", str(dtype or "f16")).removeprefix("torch.")  # of NumPy or torch
    wanted = name.lower().replace("float", "f").upper()
    if wanted not in ("F16", "BF16", "F32"):
        raise SafetensorsError(f"dtype is {dtype!r}: expected f16, bf16 or f32")
    if _is_folder(os.fsdecode(dst)):
        return export_folder(
            os.fsdecode(src), os.fsdecode(dst), None if dtype is None else wanted, threads=threads, force=force,
            split_max_size=split_max_size,
        )  # fmt: skip
    source = Source(src, max_dims=MANY_DIMS)
    calibration = Calibration(file_types["COPY"], None, PlanOptions())
    planned = []
    for info in source.tensors:
        if not info.known or types.get(info.type_id) is None:
            raise UnknownTypeError(f"{info.name} cannot be exported: no installed plugin reads {info.type_name}")
        keep = dtype is None and info.type_name in PLAIN_TYPES
        qtype = None if keep else types[wanted]
        planned.append(decided(info.name, info, info.dims or (1,), qtype, "export", calibration))
    planned = list(with_parameters(planned, source.tensors, source.metadata, (), types, file_types["COPY"]).tensors)
    planned.sort(
        key=lambda tensor: (-types[tensor.to_id].type_size, tensor.name)
    )  # as the safetensors library does: aligned, no gaps
    plan = Plan(file_types["COPY"], tuple(planned), ())
    file = _lay_out(os.fsdecode(dst), plan, source.metadata)
    for _ in write_files(source, plan, [file], threads=threads, force=force):
        pass
    return WriteResult.of([file])


def _is_folder(path: str) -> bool:
    """Whether a model is written as a folder. "Qwen3-0.6B" is one: what follows its last point is no suffix."""
    if path == "-":  # standard output, which is refused as for a file
        return False
    name = os.path.basename(path)
    return (
        not name or os.path.isdir(path) or (not name.endswith(SUFFIX) and not os.path.splitext(name)[1][1:2].isalpha())
    )


def _lay_out(path: str, plan: Plan, metadata: Mapping[str, Any]) -> OutputFile:
    entries, position, places = {}, 0, []
    for tensor in plan.tensors:
        end = position + tensor.bytes
        shape = original_shape(metadata, tensor.name, tensor.n_elements) or tensor.source.shape
        entries[tensor.name] = (tensor.to_type, tuple(shape), (position, end))
        places.append(position)
        position = end
    raw = encode_header(entries)
    placed = tuple((tensor, len(raw) + place) for tensor, place in zip(plan.tensors, places, strict=True))
    return OutputFile(path, raw, placed, len(raw) + position)
