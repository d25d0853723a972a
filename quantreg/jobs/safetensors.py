"""Reading a safetensors model: a header of JSON, then the bytes of the tensors, which are read as GGUF's are."""

import json
import math
import os

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

    ``names`` (a mapping, or the path of a JSON file with one) gives the GGUF name of a tensor; None leaves it out, and
    a name that is not there stays as it is. There is no metadata: give it with override_kv. Raises SafetensorsError,
    OSError.
    """

    def __init__(self, path, names=None):
        path = os.fspath(path)
        self.headers, self.metadata, self.warnings = (), {}, []
        self.paths = _indexed(path) if path.endswith(INDEX) else [path]
        self.size = 0
        self._place, self._files, self._by_path, tensors = {}, [], {}, []
        names = _names(names)
        unused = set(names)
        for number, shard in enumerate(self.paths):
            entries, data_start, size = _read_header(shard)
            self.size += size
            unused -= entries.keys()
            for info in _wanted(shard, entries, names, size - data_start):
                if info.name in self._place:
                    raise SafetensorsError(f"{shard}: two tensors get the name {info.name}: give them different names")
                self._place[info.name] = (number, data_start + info.offset)
                tensors.append(info)
        self.tensors = tuple(tensors)
        if unused:
            self.warnings.append(f"the names map {len(unused)} tensors that are not there (first: {min(unused)})")


def _wanted(path, entries, names, data_size):
    """TensorInfos, by position, of the tensors that the names do not leave out."""
    found = []
    for stored, entry in entries.items():
        name = names.get(stored, stored)
        if name is not None:
            try:
                name.encode()
            except UnicodeEncodeError:
                message = f"{path}: tensor {name!r:.80}: the name is no text: give it another one"
                raise SafetensorsError(message) from None
            found.append(_tensor(path, stored, name, entry, data_size))
    return sorted(found, key=lambda info: info.offset)


def _names(names):
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
        raise SafetensorsError(f"{path}: is no JSON: {error}") from None


def _indexed(path):
    """The files that an index names, in order, each once."""
    data = _json(path)
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise SafetensorsError(f'{path}: is no index: expected an object with "weight_map"')
    for name in weight_map.values():
        if not isinstance(name, str) or name != os.path.basename(name) or not name.endswith(".safetensors"):
            raise SafetensorsError(f"{path}: {name!r:.80} is no name of a safetensors file beside it")
    files = sorted(set(weight_map.values()))
    paths = [os.path.join(os.path.dirname(path), name) for name in files]
    there = {}
    for name, shard in zip(files, paths, strict=True):
        if not os.path.exists(shard):
            raise SafetensorsError(f"{path}: the shard {name} is missing: download it, too")
        there |= dict.fromkeys(_read_header(shard)[0], name)
    for tensor, name in weight_map.items():
        if there.get(tensor) != name:
            raise SafetensorsError(f"{path}: says {tensor!r:.80} is in {name}, which does not have it")
    return paths


def _read_header(path):
    """(entries by name, position of the data, size of the file)."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise SafetensorsError(f"{path}: is no safetensors file: its header would take {length} of {size} bytes")
        header = _parsed(file.read(length), path)
    if not isinstance(header, dict):
        raise SafetensorsError(f"{path}: is no safetensors file: its header is no JSON object")
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
            f"{path}: tensor {stored!r:.80} is {dtype}, which GGUF has no type for: leave it out (names: null), or "
            f"convert it to one of {', '.join(PLAIN_TYPES)} first"
        )
    type_id, layout = find_layout(dtype)
    nbytes = math.prod(shape) * layout.type_size
    if not 0 <= start <= end <= data_size or end - start != nbytes:
        raise SafetensorsError(
            f"{path}: tensor {stored!r:.80} of shape {shape} takes {nbytes} bytes, its place is {start} to {end} of "
            f"{data_size}: cut off or damaged"
        )
    dims = tuple(reversed(shape))
    row_bytes = layout.row_bytes(dims[0] if dims else 1)
    return TensorInfo(name, dims, type_id, layout.name, start, nbytes, row_bytes, True)
