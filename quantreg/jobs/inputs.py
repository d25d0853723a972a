"""Opening what a job reads: a GGUF or safetensors model, an importance matrix."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from quantreg.checkpoints.folder import is_published
from quantreg.errors import CheckpointError, PlanError, TokenizerError
from quantreg.gguf import Metadata, Value
from quantreg.importance import ImatrixLike, ImportanceMatrix
from quantreg.jobs.folder import FolderSource
from quantreg.jobs.safetensors import SafetensorsSource
from quantreg.jobs.source import Source
from quantreg.recipes import MetadataEdit
from quantreg.safetensors import SUFFIX, is_safetensors
from quantreg.whatis import model_path

__all__ = ["MANY_DIMS", "given_by", "open_described", "open_imatrix", "open_source", "open_to_show"]

MANY_DIMS: int = 8  # some GGUF files of video models have tensors of 5 dimensions


def open_source(
    path: str | bytes | os.PathLike[str],
    names: Mapping[str, str | None] | str | bytes | os.PathLike[str] | None = None,
    *,
    partial: bool = False,
    any_type: bool = False,
    decode: bool = True,
    given: Mapping[str, Any] | None = None,
) -> Source:
    """The model at path: a GGUF or safetensors file, any of several shards, their index, or the folder of one model.

    A folder with a config.json that names a class is read as the GGUF model that it becomes, see `FolderSource`, unless
    there are ``names`` or ``decode`` is False: then its tensors keep the names that they have. ``given`` is metadata
    that the user sets, by key: it may make up for what the files do not say.

    What the file holds decides, not its name. ``names`` maps the names in a safetensors file to GGUF's, see
    `SafetensorsSource`; ``partial``, ``any_type`` and ``decode`` are those of the sources. Raises GGUFFormatError,
    SafetensorsError, PlanError, OSError.
    """
    if decode and names is None and isinstance(path, (str, bytes, os.PathLike)) and is_published(os.fsdecode(path)):
        return FolderSource(os.fsdecode(path), given)
    path = model_path(path)
    if is_safetensors(path):
        return SafetensorsSource(path, names, partial=partial, any_type=any_type, decode=decode)
    if names is not None:
        raise PlanError(f"{path}: names are for safetensors files, and this is a GGUF file: leave them out")
    source = Source(path, partial=partial, any_type=any_type, max_dims=MANY_DIMS)
    if path.endswith(SUFFIX):
        source.warnings.append(f"{path} is a GGUF file, though its name ends in {SUFFIX}")
    return source


def open_described(path: str | bytes | os.PathLike[str], *, partial: bool = False) -> Source:
    """The GGUF model at path, or the folder of a published model as the GGUF model that it becomes.

    Unlike `open_source`, it takes no safetensors file, which does not say what model it is. With ``partial``, it also
    takes a shard alone, types that ggml has removed, and tensors of many dimensions. Raises what both sources raise.
    """
    if isinstance(path, (str, bytes, os.PathLike)) and is_published(os.fsdecode(path)):
        return FolderSource(os.fsdecode(path))
    return Source(path, partial=True, any_type=True, max_dims=MANY_DIMS) if partial else Source(path)


def open_to_show(path: str | os.PathLike[str]) -> tuple[Source, Metadata, Mapping[str, tuple[str, ...]]]:
    """The model at path, whatever it holds, its metadata, and which tensors of a published folder each is made of.

    A folder that does not become GGUF is read as it is stored, with a warning that says why. Raises what `open_source`
    raises.
    """
    why = []
    if is_published(path):
        try:
            found = FolderSource(path)
            return found, found.described, found.folder.names
        except (CheckpointError, TokenizerError) as error:
            why.append(f"the model is shown as it is stored, because it does not become GGUF: {error}")
    source = open_source(path, partial=True, any_type=True, decode=False)
    source.warnings += why
    return source, source.headers[0].metadata if source.headers else Metadata(memoryview(b""), {}), {}


def given_by(edits: Iterable[MetadataEdit]) -> dict[str, Value]:
    """The metadata that a plan sets, by key, as `open_source` takes it."""
    return {edit.key: Value(edit.type, edit.value) for edit in edits if edit.type is not None}


def open_imatrix(imatrix: "ImatrixLike | None") -> ImportanceMatrix | None:
    """The importance matrix, made of a mapping or read if it is a path; None without one."""
    return None if imatrix is None else ImportanceMatrix.of(imatrix)
