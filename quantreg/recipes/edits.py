"""The changes to a model's metadata, in the order in which the reference makes them."""

import os

from quantreg.errors import PlanError
from quantreg.ggml import SPLIT_KEYS
from quantreg.recipes.catalog import file_types
from quantreg.recipes.filetype import FileType
from quantreg.recipes.options import PlanOptions
from quantreg.recipes.order import arrange
from quantreg.recipes.plans import MetadataEdit

__all__ = ["metadata_edits"]

GUESSED = 1024  # added to a file type that was not stored but told from the tensors


def metadata_edits(
    file_type: FileType,
    header,
    options: PlanOptions,
    architecture: str,
    imatrix,
    n_entries: int,
    block_count: int | None,
) -> tuple[MetadataEdit, ...]:
    """The edits for one output file.

    ``n_entries`` counts the imatrix entries that are used, ``block_count`` the layers left after pruning (None: not
    pruned). Raises PlanError for an override that GGUF cannot hold.
    """
    number = _copied_number(header, options) if file_type.only_copy else file_type.number
    edits = [
        MetadataEdit("general.quantization_version", "u32", 2),
        MetadataEdit("general.file_type") if number is None else MetadataEdit("general.file_type", "u32", number),
        *(MetadataEdit(key) for key in SPLIT_KEYS),
        *(_override(key, value) for key, value in options.override_kv),
    ]
    if n_entries:
        if imatrix.path:
            edits.append(MetadataEdit("quantize.imatrix.file", "string", _cut(imatrix.path)))
        if imatrix.dataset is not None:
            edits.append(MetadataEdit("quantize.imatrix.dataset", "string", _cut(imatrix.dataset)))
        edits.append(MetadataEdit("quantize.imatrix.entries_count", "u32", n_entries))
        if imatrix.chunk_count > 0:
            edits.append(MetadataEdit("quantize.imatrix.chunks_count", "u32", imatrix.chunk_count))
    if block_count is not None and architecture:
        edits.append(MetadataEdit(f"{architecture}.block_count", "u32", block_count))
    return tuple(edits)


def _override(key: str, value) -> MetadataEdit:
    """A user's override: integers become u32 of their absolute value, floats f32. A gguf.Value keeps its type."""
    if key.startswith("split."):
        raise PlanError(f"override {key}: follows from the files that are written: give --keep-split or another split")
    if hasattr(value, "type") and hasattr(value, "data"):
        return MetadataEdit(key, value.type, value.data)
    if isinstance(value, bool):
        return MetadataEdit(key, "bool", value)
    if isinstance(value, int):
        if abs(value) > 0xFFFFFFFF:
            raise PlanError(f"override {key}: {value} does not fit into 32 bits; give a wider quantreg.gguf.Value")
        return MetadataEdit(key, "u32", abs(value))
    if isinstance(value, float):
        return MetadataEdit(key, "f32", value)
    if isinstance(value, str):
        return MetadataEdit(key, "string", value)
    raise PlanError(f"override {key}: expected a bool, int, float or str, got {value!r}")


def _cut(text) -> str:
    """At most 127 bytes, as the reference's buffer holds; a character cut in two stays as surrogate escapes."""
    return os.fsencode(text)[:127].decode("utf-8", "surrogateescape")


def _copied_number(header, options) -> int:
    """The file type a copy says it has: the override, else the stored one, else a guess from the tensors."""
    for key, value in options.override_kv:
        if key == "general.file_type" and type(value) is int:
            return value & 0xFFFFFFFF
    stored = header.metadata.get("general.file_type")
    if isinstance(stored, int):
        return stored
    counts: dict[str, int] = {}
    most = "F32"
    for _, tensor in arrange(header.tensors, ())[0]:
        counts[tensor.type_name] = counts.get(tensor.type_name, 0) + 1
        if counts[tensor.type_name] > counts.get(most, 0):
            most = tensor.type_name
    known = most in file_types and most != "MXFP4"  # the reference does not take a guess at MXFP4
    return GUESSED + (file_types[most].number if known else 0)
