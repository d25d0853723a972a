"""Models split into several files: ``NAME-00001-of-00003.gguf`` and so on."""

import os
import re
from collections.abc import Callable, Sequence

from quantreg.errors import GGUFFormatError
from quantreg.ggml import SPLIT_KEYS, TypeLayout, layout_of
from quantreg.gguf.metadata import Value
from quantreg.gguf.reader import Header, read_header
from quantreg.gguf.rules import MAX_DIMS
from quantreg.whatis import model_path
from quantreg.words import listed

__all__ = ["MAX_SHARDS", "read_shards", "shard_path", "split_values"]

MAX_SHARDS: int = 65535  # split.count is a u16

_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def shard_path(prefix: str | os.PathLike[str], number: int, count: int) -> str:
    """Return the file name of shard ``number`` of ``count``. ``number`` counts from 0, the name from 1."""
    return f"{os.fspath(prefix)}-{number + 1:05d}-of-{count:05d}.gguf"


def split_values(number: int, count: int, n_tensors: int) -> list[tuple[str, Value]]:
    """Return the three split keys of shard ``number`` (from 0) of ``count``, with their values.

    ``n_tensors`` counts the tensors of all shards together.
    """
    values = Value("u16", number), Value("u16", count), Value("i32", n_tensors)
    return list(zip(SPLIT_KEYS, values, strict=True))


def read_shards(
    path: str | bytes | os.PathLike[str],
    *,
    layout: Callable[[int], TypeLayout | None] = layout_of,
    partial: bool = False,
    max_dims: int = MAX_DIMS,
) -> tuple[Header, ...]:
    """Read the headers of all shards of a model, given the path of any shard, or of the one file of an unsplit model.

    The first header holds the metadata of the model. A folder stands for the one model in it. ``layout`` and
    ``max_dims`` are those of `read_header`. With ``partial``, a shard whose siblings cannot be found is returned alone,
    with a warning.

    Raises GGUFFormatError: "split-numbers" if numbers, counts and file names disagree, "split-missing" if a shard does
    not exist, "split-foreign" if a shard belongs to another model. Raises OSError if a file cannot be read.
    """
    path = model_path(path)
    given = read_header(path, layout=layout, max_dims=max_dims)
    count = _number(given, "split.count", 1)
    number = _number(given, "split.no", 0)
    name = _NAME.fullmatch(path)
    if count <= 1 and number == 0:
        if name and int(name["count"]) > 1 and "split.count" not in given.metadata:
            given.warnings.append(
                f"the name says that this is file {int(name['number'])} of {int(name['count'])}, but the file does not "
                "(it has no split.count): it was read alone"
            )
        _check_total((given,))
        return (given,)
    if number >= count:
        message = f"is {number}, but split.count is {count}: download or create the shards again"
        raise _error("split-numbers", given, "split.no", message, number, count)
    if not name or (int(name["number"]), int(name["count"])) != (number + 1, count):
        expected = shard_path("NAME", number, count)
        if partial:
            return _alone(given, f"the others cannot be found unless it is named like {expected}", number, count)
        message = f"is {number}, so the file must be named like {expected}: rename it"
        raise _error("split-numbers", given, "split.no", message, number, expected)

    paths = [shard_path(name["prefix"], i, count) for i in range(count)]
    if missing := [i for i in range(count) if i != number and not os.path.exists(paths[i])]:
        numbers = listed([str(i + 1) for i in missing])
        what = f"shard {numbers} of {count} is" if len(missing) == 1 else f"shards {numbers} of {count} are"
        if partial:
            return _alone(given, f"{what} missing", number, count)
        put = listed([os.path.basename(paths[i]) for i in missing])
        message = f"{what} missing: download them as well, and put {put} beside this file"
        message = message.replace("them", "it") if len(missing) == 1 else message
        raise GGUFFormatError("split-missing", message, field="split.count", limit=count, path=given.path)
    shards: list[Header] = []
    for i in range(count):
        try:
            shard = given if i == number else read_header(paths[i], layout=layout, max_dims=max_dims)
        except (GGUFFormatError, OSError) as error:
            if partial:
                return _alone(given, str(error), number, count)
            raise
        for key, wanted in (("split.no", i), ("split.count", count)):
            found = _number(shard, key, -1)
            if found != wanted:
                state = "is missing, but must be" if found < 0 else f"is {found}, but must be"
                message = f"{state} {wanted} in this file: use the shards of one model"
                raise _error("split-numbers", shard, key, message, None if found < 0 else found, wanted)
        shards.append(shard)
        _check_family(shards[0], shard)
    _check_total(shards)
    return tuple(shards)


def _alone(shard: Header, why: str, number: int, count: int) -> tuple[Header, ...]:
    metadata = "; the metadata of the model is in shard 1" if number else ""
    shard.warnings.append(f"this is shard {number + 1} of {count}, shown alone: {why}{metadata}")
    return (shard,)


def _check_family(first: Header, shard: Header) -> None:
    """Check that a shard belongs to the first one. Later shards may lack the model's keys, but must not contradict."""
    for key in ("split.tensors.count", "general.architecture", "general.name"):
        if key in shard.metadata and shard.metadata[key] != first.metadata.get(key):
            found, wanted = shard.metadata[key], first.metadata.get(key)
            message = f"is {found!r:.80}, but the first shard says {wanted!r:.80}: use the shards of one model"
            raise _error("split-foreign", shard, key, message, found, wanted)


def _check_total(shards: Sequence[Header]) -> None:
    seen = set()
    for shard in shards:
        for tensor in shard.tensors:
            if tensor.name in seen:
                field = f"tensor {tensor.name!r:.80}"
                message = "is in two shards: use the shards of one model"
                raise _error("split-foreign", shard, field, message, tensor.name, None)
            seen.add(tensor.name)
    total = _number(shards[0], "split.tensors.count", len(seen))
    if total != len(seen):
        message = f"is {total}, but the files hold {len(seen)} tensors: use the shards of one model"
        raise _error("split-foreign", shards[0], "split.tensors.count", message, total, len(seen))


def _number(header: Header, key: str, default: int) -> int:
    """Return a metadata value that must be an integer from 0 up, or the default if the key does not exist."""
    if key not in header.metadata:
        return default
    value = header.metadata.value(key)
    if value.type[0] not in "ui" or value.data < 0:
        message = f"is {value.data!r:.80} ({value.type}), but must be an integer from 0 up: correct or remove it"
        raise _error("split-numbers", header, key, message, None, None)
    return value.data


def _error(code: str, header: Header, field: str, message: str, found: object, limit: object) -> GGUFFormatError:
    return GGUFFormatError(code, f"{field} {message}", field=field, found=found, limit=limit, path=header.path)
