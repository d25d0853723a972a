"""Reading a safetensors model: a header of JSON, then the bytes of the tensors, which are read as GGUF's are."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from quantreg.errors import SafetensorsError
from quantreg.ggml import PLAIN_TYPES
from quantreg.gguf import TensorInfo
from quantreg.jobs.source import Source
from quantreg.registry import find_layout

__all__ = ["SafetensorsSource"]

MAX_HEADER = 100_000_000  # as the safetensors library
INDEX = ".index.json"


class SafetensorsSource(Source):
    """A safetensors model in the shape of `Source`: a file, or the ``.index.json`` of several.

    ``names`` is a mapping, or the path of a JSON file that holds one. It gives a tensor its GGUF name; None leaves the
    tensor out, and a tensor that it does not mention keeps its name. A safetensors file has no metadata: use
    override_kv. Raises SafetensorsError, OSError.
    """

    def __init__(
        self, path: str | os.PathLike[str], names: Mapping[str, str | None] | str | os.PathLike[str] | None = None
    ) -> None:
        path = os.fspath(path)
        paths = _indexed(path) if path.endswith(INDEX) else [path]
        renamed = _names(names)
        unused, taken, total = set(renamed), set(), 0
        places: dict[TensorInfo, tuple[int, int]] = {}
        for number, shard in enumerate(paths):
            entries, data_start, size = _read_header(shard)
            total += size
            unused -= entries.keys()
            for info in _wanted(shard, entries, renamed, size - data_start):
                if info.name in taken:
                    raise SafetensorsError(
                        f"{shard}: two tensors would be named {info.name}: give them different names"
                    )
                taken.add(info.name)
                places[info] = (number, data_start + info.offset)
        warnings = []
        if unused:
            told = f"the names mention {len(unused)} tensors that the model lacks (the first is {min(unused)})"
            warnings.append(told)
        self._fill(headers=(), metadata={}, places=places, paths=paths, size=total, warnings=warnings)


def _wanted(path, entries, names, data_size):
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
            found.append(_tensor(path, stored, name, entry, data_size))
    return sorted(found, key=lambda info: info.offset)


def _names(names: Any) -> dict[str, str | None]:
    if names is None:
        return {}
    if isinstance(names, (str, os.PathLike)):
        data = _json(os.fspath(names))
        where = os.fspath(names)
    else:
        data, where = dict(names), "names"
    if not isinstance(data, dict) or not all(v is None or (isinstance(v, str) and v) for v in data.values()):
        raise SafetensorsError(f'{where}: expected a JSON object {{"name in the file": "GGUF name" or null}}')
    return data


def _json(path):
    with open(path, "rb") as file:
        return _parsed(file.read(), path)


def _parsed(raw, path):
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SafetensorsError(f"{path} is not JSON: {error}") from None


def _indexed(path):
    """The files that an index names, each once, in order."""
    data = _json(path)
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise SafetensorsError(f'{path} is not an index: expected a JSON object with "weight_map"')
    for name in weight_map.values():
        if not isinstance(name, str) or name != os.path.basename(name) or not name.endswith(".safetensors"):
            raise SafetensorsError(f"{path}: {name!r:.80} is not the name of a safetensors file beside it")
    files = sorted(set(weight_map.values()))
    paths = [os.path.join(os.path.dirname(path), name) for name in files]
    there: dict[str, str] = {}
    for name, shard in zip(files, paths, strict=True):
        if not os.path.exists(shard):
            raise SafetensorsError(f"{path}: the shard {name} is missing: download it as well")
        there |= dict.fromkeys(_read_header(shard)[0], name)
    for tensor, name in weight_map.items():
        if there.get(tensor) != name:
            raise SafetensorsError(f"{path} says that {tensor!r:.80} is in {name}, but it is not: download both again")
    return paths


def _read_header(path):
    """The entries by name, the position of the data, and the size of the file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise SafetensorsError(f"{path}: not a safetensors file: its header would take {length} of {size} bytes")
        header = _parsed(file.read(length), path)
    if not isinstance(header, dict):
        raise SafetensorsError(f"{path}: not a safetensors file: its header is not a JSON object")
    header.pop("__metadata__", None)
    return header, 8 + length, size


def _tensor(path, stored, name, entry, data_size):
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if all(
            type(n) is int and 0 <= n < 2**63 for n in shape
        ):
            pass
        case _:
            raise SafetensorsError(f"{path}: tensor {stored!r:.80}: expected dtype, shape and data_offsets")
    if dtype not in PLAIN_TYPES:  # the two formats name their types alike; GGUF lacks BOOL, U8, F8 ...
        raise SafetensorsError(
            f"{path}: tensor {stored!r:.80} is {dtype}, for which GGUF has no type: leave it out (names: null), or "
            f"convert it to one of {', '.join(PLAIN_TYPES)} first"
        )
    type_id, layout = find_layout(dtype)
    nbytes = math.prod(shape) * layout.type_size
    if not 0 <= start <= end <= data_size or end - start != nbytes:
        raise SafetensorsError(
            f"{path}: tensor {stored!r:.80} of shape {shape} takes {nbytes} bytes, but the header places it "
            f"from {start} to {end} of {data_size}: the file is cut off or damaged"
        )
    dims = tuple(reversed(shape))
    row_bytes = layout.row_bytes(dims[0] if dims else 1)
    return TensorInfo(name, dims, type_id, layout.name, start, nbytes, row_bytes, True)
