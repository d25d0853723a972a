"""Converting a folder with a published model to a GGUF file of plain types, as llama.cpp's converter does."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from os import PathLike
from typing import Any

from quantreg.checkpoints.building import is_float32
from quantreg.checkpoints.folder import find, is_published, read_config, stored_type
from quantreg.errors import CheckpointError
from quantreg.events import Event
from quantreg.ggml import FLOAT_TYPES
from quantreg.gguf import Value
from quantreg.jobs.adapted import adapt
from quantreg.jobs.inputs import open_source
from quantreg.jobs.quantize import quantize_file
from quantreg.jobs.results import QuantizeResult
from quantreg.keywords import names_nearest
from quantreg.recipes import Plan, PlanOptions, plan_header
from quantreg.recipes.keep import kept_because
from quantreg.recipes.options import pairs
from quantreg.recipes.retyped import retyped

__all__ = [
    "TYPES",
    "convert",
]

_MXFP4_MOE = 38  # the number of the file type
# The types that a converted file may have, besides "auto".
TYPES: tuple[str, ...] = ("F16", "BF16", "F32", "Q8_0")


@names_nearest
def convert(
    src: str | bytes | PathLike[str],
    dst: str | bytes | PathLike[str],
    type: str = "auto",
    *,
    progress: Callable[[Event], object] | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    resumable: bool = False,
    resume: bool = False,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    override_kv: Mapping[str, Any] | Sequence[tuple[str, Any]] = (),
) -> QuantizeResult:
    """Convert a folder with a published model to a GGUF file.

    ``src`` is a folder with config.json, the files of a tokenizer, and safetensors files. ``type`` is the type of the
    matrices: "F16", "BF16", "F32", "Q8_0", or "auto", which is BF16 or F16, as most of the model is stored. Vectors,
    norms and a few small matrices are F32 in each. Tensors that are stored as MXFP4 stay MXFP4. ``override_kv`` sets
    metadata. The other arguments are those of `quantreg.quantize_file`.

    The bytes of the tensors are those that llama.cpp's convert_hf_to_gguf.py writes. Neither PyTorch nor transformers
    is needed, and tensors are read piece by piece, so memory does not grow with the model.

    Raises CheckpointError if ``src`` is not such a folder, or no plugin knows its class; and what
    `quantreg.quantize_file` raises.
    """
    file_type: str | Plan = _file_type_of(src, type)
    options: dict[str, Any] = {"override_kv": override_kv, "keep_dims": True}
    if _has_mxfp4(os.fsdecode(src)) or _has_kept(os.fsdecode(src)):
        file_type, options = _planned(os.fsdecode(src), str(file_type), PlanOptions(**options)), {}
    return quantize_file(
        src, dst, file_type, progress=progress, threads=threads, executor=executor, force=force, resumable=resumable,
        resume=resume, split_max_size=split_max_size, split_max_tensors=split_max_tensors, **options,
    )  # fmt: skip


def _has_mxfp4(folder: str) -> bool:
    said = read_config(folder).get("quantization_config")
    return isinstance(said, dict) and said.get("quant_method") == "mxfp4"


def _has_kept(folder: str) -> bool:
    """Whether the model may have matrices that recipes leave alone, but a conversion does not."""
    architecture, checkpoint = find(read_config(folder))
    names = {row.new for row in checkpoint.rows if row.new.endswith(".weight")}
    return any(_is_kept(name, architecture.name) and not is_float32(name, checkpoint) for name in names)


def _is_kept(name: str, architecture: str) -> bool:
    return kept_because(name, (1, 2), architecture) is not None


def _planned(folder: str, file_type: str, options: PlanOptions) -> Plan:
    """The plan in which matrices that recipes leave alone get the type of the file, and MXFP4 stays as it is stored.

    The file type is that of models of MXFP4 if there is such a tensor.
    """
    source = adapt(open_source(folder, given=dict(pairs(options.override_kv))))
    architecture, checkpoint = find(read_config(folder))
    others = {
        info.name: ("F16" if file_type == "Q8_0" and info.dims[0] % 32 else file_type, "converted")
        for info in source.tensors
        if len(info.dims) > 1 and info.name.endswith(".weight") and info.type_name in FLOAT_TYPES
        if _is_kept(info.name, architecture.name) and not is_float32(info.name, checkpoint)
    }
    blocks = [info.name for info in source.tensors if info.type_name == "MXFP4"]
    if blocks and file_type != "Q8_0":
        given = (("general.file_type", Value("u32", _MXFP4_MOE)), *pairs(options.override_kv))
        options = replace(options, override_kv=given)
    made = plan_header(source, file_type, options=options, check=False)
    return retyped(made, source, None, others | dict.fromkeys(blocks, ("MXFP4", "stored as MXFP4")))


def _file_type_of(src: str | bytes | PathLike[str], type: str = "auto") -> str:
    """The file type for `convert`: ``type``, or what "auto" means for this folder.

    Raises CheckpointError if the folder is not that of a published model, and for a type that is none of `TYPES`.
    """
    wanted = type.upper()
    if wanted not in (*TYPES, "AUTO"):
        raise CheckpointError(
            f"cannot convert to {type!r:.40}: the types are auto, {', '.join(TYPES)}. For others, use `quantreg "
            "quantize FOLDER OUT.gguf TYPE`, which needs no converted file"
        )
    folder = os.fsdecode(src)
    if not is_published(folder):
        raise CheckpointError(
            f"{folder} is not the folder of a published model: expected config.json, which names the class of the "
            "model, and *.safetensors beside it. A model in GGUF is converted already: use `quantreg quantize`"
        )
    return stored_type(folder) if wanted == "AUTO" else wanted
