"""Which files belong to a safetensors model: one file, or the shards that an index names."""

import os
from typing import Any

from quantreg.errors import SafetensorsError
from quantreg.safetensors.header import parsed, read_header

__all__ = ["INDEX", "SUFFIX", "files_of", "is_safetensors", "read_json"]

SUFFIX = ".safetensors"
INDEX = ".safetensors.index.json"


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the name of a safetensors file or index."""
    return os.fspath(path).endswith((SUFFIX, INDEX))


def files_of(path: str | os.PathLike[str]) -> list[str]:
    """The paths of the files of the model, each once, in order.

    Raises SafetensorsError if an index is wrong or a shard is missing, and OSError if a file cannot be read.
    """
    path = os.fspath(path)
    return _indexed(path) if path.endswith(".index.json") else [path]


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file. Raises SafetensorsError if it is not JSON, OSError."""
    path = os.fspath(path)
    with open(path, "rb") as file:
        return parsed(file.read(), path)


def _indexed(path: str) -> list[str]:
    data = read_json(path)
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise SafetensorsError(f'{path} is not an index: expected a JSON object with "weight_map"')
    for name in weight_map.values():
        if not isinstance(name, str) or name != os.path.basename(name) or not name.endswith(SUFFIX):
            raise SafetensorsError(f"{path}: {name!r:.80} is not the name of a safetensors file beside it")
    files = sorted(set(weight_map.values()))
    paths = [os.path.join(os.path.dirname(path), name) for name in files]
    there: dict[str, Any] = {}
    for name, shard in zip(files, paths, strict=True):
        if not os.path.exists(shard):
            raise SafetensorsError(f"{path}: the shard {name} is missing: download it as well")
        there |= dict.fromkeys(read_header(shard).entries, name)
    for tensor, name in weight_map.items():
        if there.get(tensor) != name:
            raise SafetensorsError(f"{path} says that {tensor!r:.80} is in {name}, but it is not: download both again")
    return paths
