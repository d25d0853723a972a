"""Models split into several files, `NAME-00001-of-00003.gguf` and so on."""

import os
import re

from quantreg.errors import GGUFFormatError
from quantreg.ggml import SPLIT_KEYS, layout_of
from quantreg.gguf.metadata import Value
from quantreg.gguf.reader import Header, read_header

__all__ = ["MAX_SHARDS", "read_shards", "shard_path", "split_values"]

MAX_SHARDS = 65535  # split.count is a u16

_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def shard_path(prefix, number: int, count: int) -> str:
    """File name of shard `number` (from 0) of `count`: the name counts from 1."""
    return f"{os.fspath(prefix)}-{number + 1:05d}-of-{count:05d}.gguf"


def split_values(number: int, count: int, n_tensors: int) -> list[tuple[str, Value]]:
    """The three keys of shard `number` (from 0) of `count`; `n_tensors` is the number in all shards."""
    values = Value("u16", number), Value("u16", count), Value("i32", n_tensors)
    return list(zip(SPLIT_KEYS, values, strict=True))


def read_shards(path, *, layout=layout_of) -> tuple[Header, ...]:
    """Headers of all shards of a model, given the path of any; of one file if it is not split.

    The first holds the model's metadata. Raises GGUFFormatError: "split-numbers" if numbers, counts and file names do
    not agree, "split-missing" for a shard that is not there, "split-foreign" for one of another model.
    """
    given = read_header(path, layout=layout)
    count = _number(given, "split.count", 1)
    number = _number(given, "split.no", 0)
    if count <= 1 and number == 0:
        _check_total((given,))
        return (given,)
    if number >= count:
        raise _error("split-numbers", given, "split.no", f"is {number}, but split.count is {count}", number, count)
    name = _NAME.fullmatch(os.fspath(path))
    if not name or (int(name["number"]), int(name["count"])) != (number + 1, count):
        expected = shard_path("NAME", number, count)
        raise _error("split-numbers", given, "split.no", f"asks for a file name like {expected}", number, expected)

    shards = []
    for i in range(count):
        try:
            shard = given if i == number else read_header(shard_path(name["prefix"], i, count), layout=layout)
        except FileNotFoundError as error:
            message = f"shard {i + 1} of {count} is missing: {error.filename}"
            raise GGUFFormatError("split-missing", message, field="split.count", limit=count, path=given.path) from None
        for key, wanted in (("split.no", i), ("split.count", count)):
            found = _number(shard, key, None)
            if found != wanted:
                raise _error("split-numbers", shard, key, f"is {found}, expected {wanted}", found, wanted)
        shards.append(shard)
        _check_family(shards[0], shard)
    _check_total(shards)
    return tuple(shards)


def _check_family(first, shard):
    """The shards after the first need no metadata of the model; what they have must agree."""
    for key in ("split.tensors.count", "general.architecture", "general.name"):
        if key in shard.metadata and shard.metadata[key] != first.metadata.get(key):
            message = f"is {shard.metadata[key]!r:.80}, but {first.metadata.get(key)!r:.80} in the first shard"
            raise _error("split-foreign", shard, key, message, shard.metadata[key], first.metadata.get(key))


def _check_total(shards):
    seen = set()
    for shard in shards:
        for tensor in shard.tensors:
            if tensor.name in seen:
                raise _error(
                    "split-foreign", shard, f"tensor {tensor.name!r:.80}", "is in two shards", tensor.name, None
                )
            seen.add(tensor.name)
    total = _number(shards[0], "split.tensors.count", len(seen))
    if total != len(seen):
        message = f"is {total}, but there are {len(seen)} tensors"
        raise _error("split-foreign", shards[0], "split.tensors.count", message, total, len(seen))


def _number(header, key, default):
    """An integer of the metadata."""
    if key not in header.metadata:
        return default
    value = header.metadata.value(key)
    if value.type[0] not in "ui" or value.data < 0:
        raise _error(
            "split-numbers", header, key, f"is {value.data!r:.80} ({value.type}), expected a number", None, None
        )
    return value.data


def _error(code, header, field, message, found, limit):
    return GGUFFormatError(code, f"{field} {message}", field=field, found=found, limit=limit, path=header.path)
