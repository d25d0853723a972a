"""A safetensors model as GGUF would describe it: one TensorInfo per tensor, under its GGUF name."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantreg.errors import SafetensorsError
from quantreg.ggml import PLAIN_TYPES
from quantreg.gguf import TensorInfo
from quantreg.registry import find_layout
from quantreg.safetensors.files import SUFFIX, files_of, is_index, read_json
from quantreg.safetensors.header import Entry, read_header
from quantreg.whatis import model_path

__all__ = ["Model", "read_model"]


@dataclass(frozen=True, slots=True)
class Model:
    """The headers of all files of a model.

    ``places`` maps each tensor to the number of its file in ``paths`` and the position of its data in that file. The
    tensors are in the order of the files and of their data. ``sizes`` are those of the files in bytes, and
    ``warnings`` describe what is odd but readable.
    """

    paths: list[str]
    places: dict[TensorInfo, tuple[int, int]]
    sizes: list[int]
    warnings: list[str]


def read_model(
    path: str | bytes | os.PathLike[str],
    names: Mapping[str, str | None] | str | bytes | os.PathLike[str] | None = None,
    *,
    any_dtype: bool = False,
    partial: bool = False,
) -> Model:
    """Read the headers of a model: a safetensors file, any of several shards, their index, or the folder of a model.

    ``names`` is a mapping, or the path of a JSON file that holds one. It gives a tensor its GGUF name; None leaves the
    tensor out, and a tensor that it does not mention keeps its name. With ``any_dtype``, tensors of a dtype for which
    GGUF has no type are included: their TensorInfo has ``known`` False and the type id -1. With ``partial``, a shard
    whose siblings are missing is read alone, with a warning. Raises SafetensorsError, GGUFFormatError, OSError.
    """
    path = model_path(path)
    paths, warnings = files_of(path, partial=partial)
    if not (path.lower().endswith(SUFFIX) or is_index(path)):
        warnings.append(f"{path} is a safetensors file, though its name does not end in {SUFFIX}")
    renamed = _names(names)
    unused, taken, sizes = set(renamed), set[str](), list[int]()
    places: dict[TensorInfo, tuple[int, int]] = {}
    for number, shard in enumerate(paths):
        header = read_header(shard)
        sizes.append(header.file_size)
        warnings += header.warnings
        unused -= header.entries.keys()
        for info in _wanted(shard, header.entries, renamed, any_dtype):
            if info.name in taken:
                raise SafetensorsError(f"{shard}: two tensors would be named {info.name}: give them different names")
            taken.add(info.name)
            places[info] = (number, header.data_offset + info.offset)
    if unused:
        warnings.append(f"the names mention {len(unused)} tensors that the model lacks (the first is {min(unused)})")
    return Model(paths, places, sizes, warnings)


def _wanted(
    path: str, entries: Mapping[str, Entry], names: Mapping[str, str | None], any_dtype: bool
) -> list[TensorInfo]:
    """The TensorInfos, by position, of the tensors that the names do not leave out."""
    found = []
    for stored, entry in entries.items():
        name = names.get(stored, stored)
        if name is not None:
            try:
                name.encode()
            except UnicodeEncodeError:
                message = f"{path}: tensor {name!r:.80}: the name is not valid text: give it another one"
                raise SafetensorsError(message) from None
            found.append(_info(path, name, entry, any_dtype))
    return sorted(found, key=lambda info: info.offset)


def _names(names: Any) -> dict[str, str | None]:
    if names is None:
        return {}
    if isinstance(names, (str, bytes, os.PathLike)):
        data, where = read_json(names), os.fsdecode(names)
    else:
        data, where = dict(names), "names"
    if not isinstance(data, dict) or not all(v is None or (isinstance(v, str) and v) for v in data.values()):
        raise SafetensorsError(f'{where}: expected a JSON object {{"name in the file": "GGUF name" or null}}')
    return data


def _info(path: str, name: str, entry: Entry, any_dtype: bool) -> TensorInfo:
    if entry.dtype not in PLAIN_TYPES:  # the two formats name their types alike; GGUF lacks BOOL, U8, F8 ...
        if any_dtype:
            return TensorInfo(name, entry.shape[::-1], -1, entry.dtype, entry.start, entry.nbytes, 0, False)
        raise SafetensorsError(
            f"{path}: tensor {entry.name!r:.80} is {entry.dtype}, for which GGUF has no type: leave it out (names: "
            f"null), or convert it to one of {', '.join(PLAIN_TYPES)} first"
        )
    type_id, layout = find_layout(entry.dtype)
    dims = entry.shape[::-1]
    row_bytes = layout.row_bytes(dims[0] if dims else 1)
    return TensorInfo(name, dims, type_id, layout.name, entry.start, entry.nbytes, row_bytes, True)
