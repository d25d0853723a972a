"""From the tensors of a checkpoint to those of GGUF: their shapes and types, and how their bytes are read."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from quantreg.checkpoints.checkpoint import Checkpoint
from quantreg.checkpoints.common import FLOAT32
from quantreg.checkpoints.layout import Layout
from quantreg.checkpoints.made import Given, Made, MadeMxfp4, Piece, simplified
from quantreg.checkpoints.matching import Match
from quantreg.checkpoints.transforms import Generated, Mxfp4, arranged
from quantreg.errors import CheckpointError
from quantreg.ggml import FLOAT_TYPES
from quantreg.gguf import TensorInfo
from quantreg.registry import find_layout
from quantreg.safetensors import Part, Place, Stored

__all__ = ["Built", "How", "build", "is_float32"]

How = Stored | Made | MadeMxfp4 | Given


class Built(NamedTuple):
    """A tensor of GGUF: its description, where its data begins (file, position), and how it is read if not as it is."""

    info: TensorInfo
    place: tuple[int, int]
    how: How | None


class _Part(NamedTuple):
    """A tensor of the checkpoint: its values and its shape."""

    source: Part | Stored
    shape: tuple[int, ...]
    name: str


def build(
    found: Match, places: Mapping[str, Place], stored: Mapping[str, Stored], checkpoint: Checkpoint, where: str
) -> Built:
    """Describe a tensor of GGUF. ``stored`` says which tensors of the checkpoint are decoded, as those of FP8.

    Raises CheckpointError, with the names of the tensors and the path ``where``, if their shapes or types do not fit.
    """
    parts = [[_part(name, places[name], stored) for name in names] for names in found.parts]
    try:
        first = found.how[0] if found.how else None
        if isinstance(first, Generated):
            data = np.array(first.values, "<f4").tobytes()
            return _described(found.name, (len(first.values),), "F32", Given(data))
        if isinstance(first, Mxfp4):
            return _mxfp4(found.name, first, [part for group in parts for part in group])
        shape, pieces = _joined(found, parts)
        return _floats(found, shape, pieces, checkpoint)
    except CheckpointError as error:
        names = ", ".join(part.name for group in parts for part in group[:1]) or found.name
        more = sum(len(group) - 1 for group in parts)
        raise CheckpointError(
            f"{where}: tensor {names:.200}{f' and {more} more' if more else ''} (for {found.name}): {error}"
        ) from None


def _part(name: str, place: Place, stored: Mapping[str, Stored]) -> _Part:
    return _Part(stored.get(name, place.part), place.entry.shape, name)


def _joined(found: Match, parts: list[list[_Part]]) -> tuple[tuple[int, ...], list[Piece]]:
    """The shape of a tensor that is made of several, and its pieces in order."""
    shapes: list[tuple[int, ...]] = []
    pieces: list[Piece] = []
    for group, stacked in zip(parts, found.stacked, strict=True):
        inner: tuple[int, ...] | None = None
        for part in group:
            shape, layouts = arranged(part.shape, found.how)
            if inner is not None and shape != inner:
                raise CheckpointError(
                    f"the shape {list(part.shape)} of {part.name} is not that of {group[0].name}, "
                    f"{list(group[0].shape)}: download the model again"
                )
            inner = shape
            pieces += [Piece(part.source, layout) for layout in layouts]
        assert inner is not None
        shapes.append((len(group), *inner) if stacked else inner)
    if len({shape[1:] for shape in shapes}) > 1 or (len(shapes) > 1 and not shapes[0]):
        raise CheckpointError(f"tensors of the shapes {shapes} cannot be joined: download the model again")
    if len(shapes) == 1:
        return shapes[0], pieces
    return (sum(shape[0] for shape in shapes), *shapes[0][1:]), pieces


def _floats(found: Match, shape: tuple[int, ...], pieces: list[Piece], checkpoint: Checkpoint) -> Built:
    if len({piece.dtype for piece in pieces}) > 1:  # of FP8, some may be BF16 exactly and some not
        pieces = [
            Piece(replace(p.source, to_type="F32"), p.layout) if isinstance(p.source, Stored) else p for p in pieces
        ]
    dtypes = sorted({piece.dtype for piece in pieces})
    if len(dtypes) > 1:
        raise CheckpointError(f"its parts are stored as {' and '.join(dtypes)}: save the model again in one type")
    dtype, changes = dtypes[0], tuple(step for step in found.how if step.changes)
    if dtype not in (*FLOAT_TYPES, "F64"):
        raise CheckpointError(
            f"it is stored as {dtype}, but expected one of F32, F16, BF16 and FP8: start from the BF16 or F16 model"
        )
    forced = len(shape) < 2 or is_float32(found.name, checkpoint)
    to_type = "F32" if forced or dtype == "F64" or (changes and dtype == "BF16") else dtype
    how = Made(tuple(pieces), dtype, to_type, changes)
    only = pieces[0].source if len(pieces) == 1 and to_type == dtype and not changes else None
    if only is not None and simplified(pieces[0].layout) == Layout((max(1, math.prod(shape)),), (1,), 0):
        if isinstance(only, Stored):
            return _described(found.name, shape, to_type, only)
        return _described(found.name, shape, to_type, None, only)
    return _described(found.name, shape, to_type, how)


def is_float32(name: str, checkpoint: Checkpoint) -> bool:
    """Whether a matrix of this name is F32 in every file."""
    if not name.endswith(".weight") or name.endswith("_norm.weight"):
        return True
    parts = name.split(".")
    pattern = ".".join("{i}" if part.isdecimal() else part for part in parts)
    return pattern in FLOAT32 or pattern in checkpoint.float32 or name in checkpoint.float32


def _mxfp4(name: str, how: Mxfp4, parts: list[_Part]) -> Built:
    if len(parts) != 2:
        raise CheckpointError("MXFP4 needs two tensors, the codes and the scales: correct the table of the plugin")
    codes, scales = parts
    for part in parts:
        if not isinstance(part.source, Part) or part.source.dtype != "U8":
            raise CheckpointError(f"{part.name} is not stored as U8: start from another copy of the model")
    shape = how.after(codes.shape)
    if scales.shape != codes.shape[:-1]:
        raise CheckpointError(
            f"scales of the shape {list(scales.shape)} do not belong to codes of the shape {list(codes.shape)}: "
            "download the model again"
        )

    def rows(part: _Part, axis: int) -> Piece:
        whole = Layout.whole(part.shape)
        return Piece(part.source, whole.taken(axis, how.index, part.shape[axis] // how.of, how.of))

    return _described(name, shape, "MXFP4", MadeMxfp4(rows(codes, len(shape) - 2), rows(scales, len(shape) - 2)))


def _described(name: str, shape: tuple[int, ...], type_name: str, how: How | None, part: Part | None = None) -> Built:
    dims = shape[::-1]
    type_id, layout = find_layout(type_name)
    row_bytes = layout.row_bytes(dims[0] if dims else 1)
    nbytes = row_bytes * math.prod(dims[1:])
    if part is not None:
        place = (part.file, part.position)
    else:  # that of a made tensor is where its first part is
        place = (how.files[0] if how is not None and how.files else 0, 0)
    return Built(TensorInfo(name, dims, type_id, layout.name, place[1], nbytes, row_bytes, True), place, how)
