"""A safetensors model as GGUF would describe it: one TensorInfo per tensor, under its GGUF name."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantreg.errors import SafetensorsError
from quantreg.ggml import PLAIN_TYPES
from quantreg.gguf import TensorInfo
from quantreg.registry import find_layout
from quantreg.safetensors.files import SUFFIX, files_of, is_index, read_json
from quantreg.safetensors.header import Entry, Header, read_header
from quantreg.safetensors.scales import Decoding, Place, decoding
from quantreg.safetensors.stored import Stored
from quantreg.whatis import model_path
from quantreg.words import count, named

__all__ = ["Model", "every_place", "read_model", "read_numbers"]


@dataclass(frozen=True, slots=True)
class Model:
    """The headers of all files of a model.

    ``places`` maps each tensor to the number of its file in ``paths`` and the position of its data in that file. The
    tensors are in the order of the files and of their data. ``sizes`` are those of the files in bytes, and
    ``warnings`` describe what is odd but readable. ``stored`` says how to read the tensors that are decoded to floats,
    by name; the position of such a tensor is 0.
    """

    paths: list[str]
    places: dict[TensorInfo, tuple[int, int]]
    sizes: list[int]
    warnings: list[str]
    stored: dict[str, Stored]


def read_model(
    path: str | bytes | os.PathLike[str],
    names: Mapping[str, str | None] | str | bytes | os.PathLike[str] | None = None,
    *,
    any_dtype: bool = False,
    partial: bool = False,
    decode: bool = False,
) -> Model:
    """Read the headers of a model: a safetensors file, any of several shards, their index, or the folder of a model.

    ``names`` is a mapping, or the path of a JSON file that holds one. It gives a tensor its GGUF name; None leaves the
    tensor out, and a tensor that it does not mention keeps its name. With ``any_dtype``, tensors of a dtype for which
    GGUF has no type are included: their TensorInfo has ``known`` False and the type id -1. With ``partial``, a shard
    whose siblings are missing is read alone, with a warning. With ``decode``, tensors of FP8 are described as the
    floats that they stand for, without their scales, and formats that quantreg cannot decode are refused unless
    ``any_dtype`` is set. Raises SafetensorsError, GGUFFormatError, OSError.
    """
    path = model_path(path)
    files = files_of(path, partial=partial)
    paths, warnings = files.paths, files.warnings
    if not (path.lower().endswith(SUFFIX) or is_index(path)):
        warnings.append(f"{path} is a safetensors file, though its name does not end in {SUFFIX}")
    renamed = _names(names)
    headers = [read_header(shard) for shard in paths]
    files.check_places(headers)
    found = Decoding({}, frozenset(), None)
    if decode:
        left_out = {name for name, new in renamed.items() if new is None}
        try:
            found = decoding(every_place(headers), left_out, read_numbers)
        except SafetensorsError:
            if not any_dtype:  # else the tensors are taken as they are stored
                raise
    unused, taken = set(renamed), set[str]()
    places: dict[TensorInfo, tuple[int, int]] = {}
    stored: dict[str, Stored] = {}
    for number, header in enumerate(headers):
        warnings += header.warnings
        unused -= header.entries.keys()
        for entry in sorted(header.entries.values(), key=lambda entry: entry.start):
            name = renamed.get(entry.name, entry.name)
            if name is None or entry.name in found.consumed:
                continue
            if name in taken:
                raise SafetensorsError(f"{header.path}: two tensors would be named {name}: give them different names")
            taken.add(name)
            how = found.stored.get(entry.name)
            info = _info(header.path, name, entry, any_dtype, how)
            places[info] = (number, header.data_offset + entry.start if how is None else 0)
            if how is not None:
                stored[name] = how
    if unused:
        warnings.append(
            f"the names mention {count(len(unused), 'tensor')} that the model lacks ({named(sorted(unused))})"
        )
    if found.note:
        warnings.append(found.note)
    return Model(paths, places, [header.file_size for header in headers], warnings, stored)


def every_place(headers: Sequence[Header]) -> dict[str, Place]:
    """Where each tensor of some files is; the number of a file is its place in ``headers``."""
    return {
        name: Place(number, header.path, header.data_offset + entry.start, entry)
        for number, header in enumerate(headers)
        for name, entry in header.entries.items()
    }


def read_numbers(place: Place) -> bytes:
    """The data of a small tensor, such as a scale."""
    with open(place.path, "rb") as file:
        file.seek(place.position)
        return file.read(place.entry.nbytes)


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


def _info(path: str, name: str, entry: Entry, any_dtype: bool, stored: Stored | None) -> TensorInfo:
    try:
        name.encode()
    except UnicodeEncodeError:
        message = f"{path}: tensor {name!r:.80}: the name is not valid text: give it another one"
        raise SafetensorsError(message) from None
    dims = entry.shape[::-1]
    if stored is not None:
        type_id, layout = find_layout(stored.to_type)
        nbytes = math.prod(dims) * layout.type_size
        return TensorInfo(name, dims, type_id, layout.name, entry.start, nbytes, layout.row_bytes(_cols(dims)), True)
    if entry.dtype not in PLAIN_TYPES:  # the two formats name their types alike; GGUF lacks BOOL, U8, F8 ...
        if any_dtype:
            return TensorInfo(name, dims, -1, entry.dtype, entry.start, entry.nbytes, 0, False)
        raise SafetensorsError(
            f"{path}: tensor {entry.name!r:.80} is {entry.dtype}, for which GGUF has no type: leave it out (names: "
            f"null), or convert it to one of {', '.join(PLAIN_TYPES)} first"
        )
    type_id, layout = find_layout(entry.dtype)
    row_bytes = layout.row_bytes(_cols(dims))
    return TensorInfo(name, dims, type_id, layout.name, entry.start, entry.nbytes, row_bytes, True)


def _cols(dims: tuple[int, ...]) -> int:
    return dims[0] if dims else 1
