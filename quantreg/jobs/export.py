"""Writing a model as safetensors: a header of JSON, then the bytes of the tensors."""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantreg.errors import SafetensorsError, UnknownTypeError
from quantreg.ggml import PLAIN_TYPES
from quantreg.jobs.adapted import original_shape
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
) -> WriteResult:
    """Decode the GGUF model at src to a safetensors file.

    ``dtype`` is "f16", "bf16" or "f32" for every tensor, or a dtype of NumPy or torch. None keeps the tensors that
    safetensors can hold as they are and decodes the others to f16. The names stay GGUF's, and metadata is left behind.
    A tensor whose shape before it was folded is stored as ``comfy.gguf.orig_shape.NAME`` gets that shape again.

    Raises NonFiniteError for values that overflow f16 (use bf16 or f32), UnknownTypeError for types that no plugin
    reads, SafetensorsError for another dtype, OutputError, GGUFFormatError, OSError.
    """
    name = getattr(dtype, "__name__", str(dtype or "f16")).removeprefix("torch.")  # of NumPy or torch
    wanted = name.lower().replace("float", "f").upper()
    if wanted not in ("F16", "BF16", "F32"):
        raise SafetensorsError(f"dtype is {dtype!r}: expected f16, bf16 or f32")
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


def _lay_out(path: str, plan: Plan, metadata: Mapping[str, Any]) -> OutputFile:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position, places = 0, []
    for tensor in plan.tensors:
        end = position + tensor.bytes
        shape = original_shape(metadata, tensor.name, tensor.n_elements) or tensor.source.shape
        header[tensor.name] = {"dtype": tensor.to_type, "shape": list(shape), "data_offsets": [position, end]}
        places.append(position)
        position = end
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    raw = len(raw).to_bytes(8, "little") + raw
    placed = tuple((tensor, len(raw) + place) for tensor, place in zip(plan.tensors, places, strict=True))
    return OutputFile(path, raw, placed, len(raw) + position)
