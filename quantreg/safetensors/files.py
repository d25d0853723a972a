"""Which files belong to a safetensors model: one file, or several that an index or their names tell."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from quantreg.errors import SafetensorsError
from quantreg.safetensors.header import Header, NotJSONError, parsed
from quantreg.whatis import HEAD, SHARD_NAME, kind_of, looks_like_safetensors, read_head
from quantreg.words import count, listed

__all__ = ["SUFFIX", "Files", "files_of", "is_index", "is_safetensors", "read_json"]

SUFFIX = ".safetensors"
_MOST_SHARDS = 100_000  # a larger number in a name does not count files
_INDEX = re.compile(r".*\.safetensors\.index(\.\w+)?\.json", re.DOTALL)  # NAME.safetensors.index.fp16.json exists


def is_index(path: str) -> bool:
    """Whether a path has the name of an index, such as model.safetensors.index.json."""
    return _INDEX.fullmatch(path) is not None


def is_safetensors(path: str) -> bool:
    """Whether the file at path is a safetensors file or index, whatever its name. Raises OSError."""
    if is_index(path):
        return True
    head, size = read_head(path)
    return not head.startswith(b"GGUF") and (path.lower().endswith(SUFFIX) or looks_like_safetensors(head, size))


class Files(NamedTuple):
    """The files of a model: their paths, each once, in order; and ``warnings``.

    ``named_by`` is the path of the index that names them, or None, and ``weight_map`` what it says: tensor -> name of
    its file.
    """

    paths: list[str]
    warnings: list[str]
    named_by: str | None = None
    weight_map: Mapping[str, str] = {}

    def check_places(self, headers: Sequence[Header]) -> None:
        """Raise SafetensorsError if a tensor is not where the index says; ``headers`` are those of the files."""
        there: dict[str, str] = {}
        for header in headers:
            there |= dict.fromkeys(header.entries, os.path.basename(header.path))
        for tensor, name in self.weight_map.items():
            if there.get(tensor) != name:
                raise SafetensorsError(
                    f"{self.named_by} says that {tensor!r:.80} is in {name}, but it is not: download both again, or "
                    "remove the index"
                )


def files_of(path: str, *, partial: bool = False) -> Files:
    """The files of a model. No header is read; `Files.check_places` compares them with the index.

    ``path`` is a safetensors file, an index, or one of several shards. The shards are those of the index beside them
    or, without one, those with the other numbers (``model-00001-of-00002.safetensors``). With ``partial``, a shard
    whose siblings are missing is returned alone, with a warning.

    Raises SafetensorsError if an index is wrong or a shard is missing, and OSError if a file cannot be read.
    """
    if is_index(path):
        return _indexed(path, _weight_map(path))
    shard = SHARD_NAME.fullmatch(path)
    try:
        if (found := _index_with(path)) is not None:
            return _indexed(*found)
        if (
            shard is not None
            and 1 < int(shard["count"]) <= _MOST_SHARDS
            and int(shard["number"]) <= int(shard["count"])
        ):
            return Files(_numbered(path, shard), [])
        return Files([path], [])
    except _MissingError as error:
        if not partial:
            raise
        return Files([path], [f"{path} is one of {error.count} shards, shown alone: {error.what}"])


def _index_with(path: str) -> tuple[str, dict[str, str]] | None:
    """The index in the folder of a file that names the file, and what it says, or None.

    An index that cannot be read is passed over.
    """
    folder, base = os.path.split(path)
    for name in sorted(os.listdir(folder or ".")):
        index = os.path.join(folder, name)
        if is_index(name):
            with suppress(SafetensorsError, OSError):
                weight_map = _weight_map(index)
                if base in weight_map.values():
                    return index, weight_map
    return None


class _MissingError(SafetensorsError):
    """Some of the ``total`` shards of a model do not exist. ``what`` says which."""

    def __init__(self, path: str, missing: list[str], total: int) -> None:
        self.count = total
        self.what = f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        it = "it" if len(missing) == 1 else "them"
        super().__init__(
            f"{path} is not the whole model, which has {count(total, 'file')}: {self.what}: download {it} from where "
            "this file came from, and put all files into one folder"
        )


def _numbered(path: str, shard: "re.Match[str]") -> list[str]:
    """The shards with the numbers 1 to count, or 0 to count - 1, as this one is named."""
    width, count = len(shard["number"]), int(shard["count"])

    def named(number: int) -> str:
        return f"{shard['prefix']}-{number:0{width}d}-of-{shard['count']}{shard['suffix']}"

    first = 0 if os.path.exists(named(0)) and not os.path.exists(named(count)) else 1
    paths = [named(number) for number in range(first, first + count)]
    missing = [os.path.basename(other) for other in paths if not os.path.exists(other)]
    if missing:
        raise _MissingError(path, missing, count)
    return paths


def read_json(path: str | bytes | os.PathLike[str]) -> Any:
    """The value in a JSON file. Raises SafetensorsError if it is not JSON, OSError."""
    path = os.fsdecode(path)
    with open(path, "rb") as file:
        raw = file.read(HEAD)
        if b"\0\0\0\0" in raw and (kind := kind_of(raw, os.path.getsize(path))):  # no text: do not read all of it
            raise SafetensorsError(f"{path} is not JSON: it is {kind.name}")
        raw += file.read()
    try:
        return parsed(raw, path)
    except NotJSONError:
        kind = kind_of(raw[:HEAD], len(raw))
        if kind is None or raw.lstrip()[:1] in (b"{", b"["):
            raise
        raise SafetensorsError(f"{path} is not JSON: it is {kind.name}: {kind.advice}") from None


def _weight_map(path: str) -> dict[str, str]:
    """The mapping of tensors to files in an index. Raises SafetensorsError if it is not one."""
    data = read_json(path)
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise SafetensorsError(f'{path} is not an index: expected a JSON object with "weight_map"')
    for name in weight_map.values():
        if not isinstance(name, str) or name != os.path.basename(name) or not name.endswith(SUFFIX):
            raise SafetensorsError(f"{path}: {name!r:.80} is not the name of a safetensors file beside it")
    return weight_map


def _indexed(path: str, weight_map: Mapping[str, str]) -> Files:
    """The files that an index names. Raises SafetensorsError if one is missing."""
    files = sorted(set(weight_map.values()))
    paths = [os.path.join(os.path.dirname(path), name) for name in files]
    missing = [name for name, shard in zip(files, paths, strict=True) if not os.path.exists(shard)]
    if missing:
        raise _MissingError(path, missing, len(files))
    return Files(paths, [], path, weight_map)
