"""The changes to a model's metadata, in the order in which the reference makes them."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from quantreg.errors import PlanError
from quantreg.ggml import SPLIT_KEYS
from quantreg.recipes.calibration import Importance
from quantreg.recipes.catalog import file_types
from quantreg.recipes.contradictions import is_per_layer
from quantreg.recipes.filetype import FileType
from quantreg.recipes.model import ModelHeader
from quantreg.recipes.options import PlanOptions, pairs
from quantreg.recipes.order import arrange
from quantreg.recipes.plans import MetadataEdit

__all__ = ["imatrix_edits", "labelled", "metadata_edits"]

_LABEL = "general.file_type"
_GUESSED = 1024  # the reference adds this to a file type that it guessed from the tensors


def metadata_edits(
    file_type: FileType,
    header: ModelHeader,
    options: PlanOptions,
    architecture: str,
    imatrix: Importance | None,
    n_entries: int,
    block_count: int | None,
) -> tuple[MetadataEdit, ...]:
    """The edits for one output file.

    ``n_entries`` is the number of imatrix entries that the plan may use. ``block_count`` is the number of layers left
    after pruning, or None if nothing was pruned. Raises PlanError for an override that GGUF cannot hold.
    """
    number = _copied_number(header, options) if file_type.only_copy else file_type.number
    edits = [
        MetadataEdit("general.quantization_version", "u32", 2),
        _label(number),
        *(MetadataEdit(key) for key in SPLIT_KEYS),
        *(_override(key, value) for key, value in pairs(options.override_kv)),
    ]
    edits += imatrix_edits(imatrix, n_entries)
    if block_count is not None and architecture:
        edits += _pruned_arrays(header, options, architecture)
        edits.append(MetadataEdit(f"{architecture}.block_count", "u32", block_count))
    return tuple(edits)


def labelled(edits: Sequence[MetadataEdit], file_type: FileType) -> tuple[MetadataEdit, ...]:
    """The edits of a file of another file type. One that an override gives the number of stays."""
    found = list(edits)
    at = next((i for i, edit in enumerate(found) if edit.key == _LABEL), None)
    if at is not None:
        found[at] = _label(file_type.number)
    return tuple(found)


def _label(number: int | None) -> MetadataEdit:
    return MetadataEdit(_LABEL) if number is None else MetadataEdit(_LABEL, "u32", number)


def imatrix_edits(imatrix: Importance | None, n_entries: int) -> Iterator[MetadataEdit]:
    """Yield the edits that say which importance matrix was used. ``n_entries``: how many entries the plan may use."""
    if imatrix is None or not n_entries:
        return
    if imatrix.path:
        yield MetadataEdit("quantize.imatrix.file", "string", _cut(imatrix.path))
    if imatrix.dataset is not None:
        yield MetadataEdit("quantize.imatrix.dataset", "string", _cut(imatrix.dataset))
    yield MetadataEdit("quantize.imatrix.entries_count", "u32", n_entries)
    if imatrix.chunk_count > 0:
        yield MetadataEdit("quantize.imatrix.chunks_count", "u32", imatrix.chunk_count)


def _pruned_arrays(header: ModelHeader, options: PlanOptions, architecture: str) -> Iterator[MetadataEdit]:
    """Yield the edits that take the values of pruned layers out of arrays with one value per layer.

    The reference leaves such arrays as they are, and then refuses to load its own output.
    """
    given = {key for key, _ in pairs(options.override_kv)}
    n_layers = header.metadata.get(f"{architecture}.block_count")
    for key in header.metadata:
        values = header.metadata[key] if key.startswith(f"{architecture}.") and key not in given else []
        if is_per_layer(key, values, architecture, n_layers):
            kept = [value for layer, value in enumerate(values) if layer not in options.prune_layers]
            plain = {bool: "array[bool]", float: "array[f32]"}.get(type(values[0]), "array[i32]")
            yield MetadataEdit(key, getattr(values, "gguf_type", plain), kept)


def _override(key: str, value: Any) -> MetadataEdit:
    """The edit for a user's override.

    As in the reference, an integer is stored as the u32 of its absolute value and a float as f32. A gguf.Value keeps
    its type.
    """
    if key.startswith("split."):
        raise PlanError(
            f"override {key}: quantreg sets this key from the files that it writes: use --keep-split or `quantreg "
            "split` to change them"
        )
    if hasattr(value, "type") and hasattr(value, "data"):
        return MetadataEdit(key, value.type, value.data)
    if isinstance(value, bool):
        return MetadataEdit(key, "bool", value)
    if isinstance(value, int):
        if abs(value) > 0xFFFFFFFF:
            wide = "u64" if value > 0 else "i64"
            raise PlanError(
                f"override {key}: {value} does not fit into 32 bits (an int holds 0 to 4294967295): use --override-kv "
                f"{key}={wide}:{value}, or in Python quantreg.gguf.Value({wide!r}, {value})"
            )
        return MetadataEdit(key, "u32", abs(value))
    if isinstance(value, float):
        return MetadataEdit(key, "f32", value)
    if isinstance(value, str):
        return MetadataEdit(key, "string", value)
    raise PlanError(f"override {key}: got {value!r}, expected a bool, int, float or str")


def _cut(text: str) -> str:
    """At most 127 bytes of a text, as in the reference's buffer; half a character becomes surrogate escapes."""
    return os.fsencode(text)[:127].decode("utf-8", "surrogateescape")


def _copied_number(header: ModelHeader, options: PlanOptions) -> int:
    """The file type that a copy stores: the override, else the model's own, else a guess from the tensors."""
    for key, value in pairs(options.override_kv):
        if key == _LABEL and isinstance(value, int) and not isinstance(value, bool):
            return value & 0xFFFFFFFF
    stored = header.metadata.get(_LABEL)
    if isinstance(stored, int):
        return stored
    counts: dict[str, int] = {}
    most = "F32"
    for _, tensor in arrange(header.tensors, ())[0]:
        counts[tensor.type_name] = counts.get(tensor.type_name, 0) + 1
        if counts[tensor.type_name] > counts.get(most, 0):
            most = tensor.type_name
    known = most in file_types and most != "MXFP4"  # the reference never guesses MXFP4
    return _GUESSED + ((file_types[most].number or 0) if known else 0)
