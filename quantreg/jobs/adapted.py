"""A model as the tools of its kind store it in GGUF: its architecture named, its names without prefix, four dimensions.

The shape that a tensor had before it was folded is kept as ``comfy.gguf.orig_shape.NAME``, an array of i32 in NumPy
order, which the GGUF loaders of ComfyUI read and `quantreg.export` restores.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from quantreg import gguf
from quantreg.jobs.source import Source
from quantreg.recipes import architectures
from quantreg.recipes.architecture import ORIGINAL_SHAPE, Architecture, Recognised
from quantreg.recipes.order import trimmed
from quantreg.registry import layout_of
from quantreg.words import named

__all__ = ["adapt", "original_shape"]

_KEY = "general.architecture"
_MANY = 512  # ComfyUI's converter folds the rows of tensors with at least this many weights


def adapt(source: Source) -> Source:
    """Change the description of a model in place, and return it. No data moves: a folded tensor has the same bytes.

    A model without ``general.architecture`` whose tensors a plugin recognises gets the key, and its tensors lose the
    prefix before their names; tensors without the prefix are left out, with a warning. Tensors of more than four
    dimensions, which GGUF cannot hold, become matrices, as do the convolutions of architectures with `reshape_rows`.
    """
    metadata = source.metadata
    recognised = None
    if not isinstance(metadata.get(_KEY), str):
        recognised = architectures.recognise([info.name for info in source.tensors])
    names = _new_names(source, recognised)
    added: dict[str, gguf.Value] = {}
    architecture = architectures.get(str(metadata.get(_KEY, "")))
    if recognised is not None and not recognised.foreign:
        architecture = recognised.architecture
        added[_KEY] = gguf.Value("string", architecture.name)
    infos = {}
    for info in source.tensors:
        name = names[info.name]
        if name is None:
            continue
        dims = _folded(info, architecture, source.keeps_dims)
        new = info if name == info.name else replace(info, name=name)
        if dims != info.dims:
            layout = layout_of(info.type_id)
            new = replace(new, dims=dims, row_bytes=layout.row_bytes(dims[0]) if layout else 0)
            added[ORIGINAL_SHAPE + name] = gguf.Value("array[i32]", list(info.shape))
        infos[info.name] = new
    if added or len(infos) < len(source.tensors):
        source.describe(infos, _extended(metadata, added, names))
    return source


def original_shape(metadata: Mapping[str, object], name: str, n_elements: int) -> tuple[int, ...] | None:
    """The shape of a tensor before it was folded, or None if the metadata has none that fits its number of weights."""
    stored = metadata.get(ORIGINAL_SHAPE + name)
    if not isinstance(stored, list) or not all(isinstance(n, int) and n >= 0 for n in stored):
        return None
    shape = tuple(int(n) for n in stored)
    return shape if math.prod(shape) == n_elements else None


def _new_names(source: Source, recognised: Recognised | None) -> dict[str, str | None]:
    """The name of each tensor in the output, None if it is left out. Adds warnings to the source."""
    names: dict[str, str | None] = {info.name: info.name for info in source.tensors}
    if recognised is None:
        return names
    if recognised.foreign:
        source.warnings.append(
            f"the tensors have the names of another program's layout of {recognised.architecture.name} (such as "
            f"{recognised.names[0]}): ComfyUI does not load them from GGUF, and no rule keeps the layers that matter "
            "most. Start from the model's original file"
        )
        return names
    names = {name: recognised.new_name(name) for name in names}
    left_out = [name for name, new in names.items() if new is None]
    if left_out:
        tensors = "1 tensor that is" if len(left_out) == 1 else f"{len(left_out)} tensors that are"
        source.warnings.append(
            f"left out {tensors} not part of the {recognised.architecture.name} model ({named(left_out)})"
        )
    return names


def _folded(info: gguf.TensorInfo, architecture: Architecture | None, may_fold_rows: bool) -> tuple[int, ...]:
    """The dimensions of a tensor in the output, in ne order: at most four."""
    layout = layout_of(info.type_id)
    block = 1 if layout is None else layout.block_size
    rows = architecture.reshape_rows if architecture is not None and may_fold_rows else 0
    n = info.n_elements
    if rows and len(info.dims) > 1 and n >= _MANY and n % rows == 0 and info.dims[0] % rows and block == 1:
        return rows, n // rows
    if len(info.dims) <= gguf.MAX_DIMS:
        return info.dims
    fewer = trimmed(info.dims)
    if len(fewer) <= gguf.MAX_DIMS:
        return fewer
    cols = math.prod(info.dims[:-1])
    return (cols, info.dims[-1]) if block == 1 else (info.dims[0], math.prod(info.dims[1:]))


def _extended(
    metadata: Mapping[str, object], added: Mapping[str, gguf.Value], names: Mapping[str, str | None]
) -> gguf.Metadata:
    """The metadata with more keys, in which the shapes of renamed tensors belong to their new names."""
    items: dict[str, gguf.Value] = {_KEY: added[_KEY]} if _KEY in added else {}
    old = metadata.raw_items() if isinstance(metadata, gguf.Metadata) else [
        (key, gguf.Value.of(value)) for key, value in metadata.items()
    ]  # fmt: skip
    for key, value in old:
        if key.startswith(ORIGINAL_SHAPE):
            new = names.get(key[len(ORIGINAL_SHAPE) :], key[len(ORIGINAL_SHAPE) :])
            if new is None:
                continue
            key = ORIGINAL_SHAPE + new
        if key != _KEY or _KEY not in items:
            items[key] = value
    return gguf.Metadata.of({**items, **added})
