"""Writing a GGUF model as a folder that transformers loads: config.json, the files of a tokenizer, and weights."""

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quantreg.checkpoints.described import Described
from quantreg.checkpoints.made import simplified
from quantreg.checkpoints.restore import Old, Place, restore
from quantreg.checkpoints.restore_files import card, pooling_files, sampling
from quantreg.checkpoints.restore_vocabulary import tokenizer_files
from quantreg.checkpoints.transforms import Transform
from quantreg.checkpoints.undo import put_some
from quantreg.dispatch import cpu_count, encode_slab, rows_per_slab
from quantreg.errors import CheckpointError, NonFiniteError, TokenizerError, UnknownTypeError
from quantreg.ggml import FLOAT_TYPES
from quantreg.gguf import TensorInfo
from quantreg.jobs.in_order import in_order
from quantreg.jobs.results import FolderResult
from quantreg.jobs.slabs import SLAB_WEIGHTS
from quantreg.jobs.source import Source
from quantreg.registry import types
from quantreg.safetensors import encode_header
from quantreg.sizes import parse_size
from quantreg.storage import AtomicFolder, PositionedFile, reserve

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SHARD_BYTES", "export_folder"]

SHARD_BYTES: int = 5 * 10**9  # of a file of weights, as transformers writes them
_TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SMALL = 1 << 24  # values of an F32 tensor that are looked at before one type is chosen for it
# What a folder that is replaced may have of the model before.
_REPLACED = (
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json", "additional_chat_templates",
    "modules.json", "1_Pooling",
)  # fmt: skip


class _Shard(NamedTuple):
    """A file of weights: its name, its header, and each tensor with its type and the position of its data."""

    name: str
    header: bytes
    tensors: list[tuple[Old, str, int]]
    size: int


def export_folder(
    src: str | os.PathLike[str],
    folder: str,
    dtype: str | None = None,
    *,
    threads: int | None = None,
    force: bool = False,
    split_max_size: int | str = SHARD_BYTES,
) -> FolderResult:
    """Write the GGUF model at src as a folder; ``dtype`` is "F16", "BF16", "F32" or None. See `quantreg.export`."""
    limit = parse_size(split_max_size)
    source = Source(src)
    for info in source.tensors:
        if not info.known or types.get(info.type_id) is None:
            raise UnknownTypeError(f"{info.name} cannot be exported: no installed plugin reads {info.type_name}")
    with source:
        model = Described(source.metadata, source.tensors, lambda name: _whole(source, model.infos[name]))
        main = dtype or _main_type(source.tensors)
        try:
            restored = restore(model, _TORCH[main], source.parameter_names())
            files = _small_files(model, restored.config)
        except (CheckpointError, TokenizerError) as error:
            raise type(error)(f"{os.fsdecode(src)}: {error}") from None
        stored = {info.name: dtype or _type_of(source, info, main, restored.tensors) for info in source.tensors}
        kinds = {old.name: _joint([stored[place.new] for place in old.places]) for old in restored.tensors}
        shards = _shards(restored.tensors, kinds, limit)
        if len(shards) > 1:
            files["model.safetensors.index.json"] = _index(shards)
        size = sum(shard.size for shard in shards) + sum(map(len, files.values()))
        with (
            AtomicFolder(folder, force=force, replaced=_REPLACED, last="config.json", size=size) as target,
            ThreadPoolExecutor(threads or cpu_count()) as pool,
        ):
            for shard in shards:
                with open(target.partial / shard.name, "x+b") as file:
                    _write(source, shard, file, pool, threads or cpu_count(), os.fspath(target.path))
            for name, data in files.items():
                target.write(name, data)
    names = [*files, *(shard.name for shard in shards)]
    lost = [f"{key} has no place in config.json: the folder does not say it" for key in restored.lost]
    if not _has_tokenizer(model):
        lost.append("the model has no tokenizer: the folder has none, and does not convert back without one")
    paths = tuple(os.path.join(folder, name) for name in names)
    return FolderResult(paths, size, os.fspath(folder), tuple(lost))


def _main_type(infos: Sequence[TensorInfo]) -> str:
    """The type in which most of the weights are stored: F32, F16 or BF16; BF16 for a quantized model."""
    sizes = dict.fromkeys(("F32", "F16", "BF16"), 0)
    for info in infos:
        if len(info.dims) > 1:
            sizes[info.type_name if info.type_name in sizes else "BF16"] += info.n_elements
    return max(sizes, key=lambda name: (sizes[name], name == "BF16"))


def _type_of(source: Source, info: TensorInfo, main: str, olds: Sequence[Old]) -> str:
    """The type that a tensor gets: the main one, unless the model stores plain numbers that would change."""
    if info.type_name not in FLOAT_TYPES or info.type_name == main:
        return main
    if info.type_name != "F32":
        return info.type_name
    if info.n_elements > _SMALL:
        return "F32"
    changes = next((place.changes for old in olds for place in old.places if place.new == info.name), ())
    values = _whole(source, info).reshape(1, -1)
    try:
        bits = _encoded(_unchanged(values, changes), main, info.name, 0)
    except NonFiniteError:
        return "F32"
    again = np.empty_like(values)
    types[main].codec.decode_rows(bits.view(np.uint8).reshape(1, -1), again)
    for step in changes:
        again = step.changed(again)
    return main if np.array_equal(again, values) else "F32"


def _unchanged(values: "NDArray[np.float32]", changes: Sequence[Transform]) -> "NDArray[np.float32]":
    """The values in the checkpoint of values that transforms have changed."""
    for step in reversed(changes):
        values = step.unchanged(values)
    return values


def _joint(names: Sequence[str]) -> str:
    """The type of a tensor that is made of several."""
    return names[0] if len(set(names)) == 1 else "F32"


def _whole(source: Source, info: TensorInfo) -> "NDArray[np.float32]":
    return source.decode(info, 0, info.n_rows)


def _small_files(model: Described, config: Mapping[str, Any]) -> dict[str, bytes]:
    """All files but the weights."""
    files = tokenizer_files(model.metadata) if _has_tokenizer(model) else {}
    generation = {**json.loads(files.get("generation_config.json", "{}")), **sampling(model.metadata)}
    files["generation_config.json"] = _json(generation)
    files |= pooling_files(model.get("pooling_type"), model.number("embedding_length"))
    told = card(model.metadata)
    if told is not None:
        files["README.md"] = told
    files["config.json"] = _json(config)
    return files


def _has_tokenizer(model: Described) -> bool:
    return model.metadata.get("tokenizer.ggml.model") not in (None, "no_vocab", "none")


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")


def _shards(olds: Sequence[Old], kinds: Mapping[str, str], limit: int) -> list[_Shard]:
    """Lay out the files of the weights: as many tensors in each as fit."""
    groups: list[list[Old]] = [[]]
    used = 0
    for old in olds:
        nbytes = math.prod(old.shape) * types[kinds[old.name]].type_size
        if groups[-1] and used + nbytes > limit:
            groups.append([])
            used = 0
        groups[-1].append(old)
        used += nbytes
    shards = []
    for number, group in enumerate(groups, 1):
        name = "model.safetensors" if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        group.sort(key=lambda old: -types[kinds[old.name]].type_size)  # aligned without gaps
        entries, position, places = {}, 0, []
        for old in group:
            end = position + math.prod(old.shape) * types[kinds[old.name]].type_size
            entries[old.name] = (kinds[old.name], old.shape, (position, end))
            places.append(position)
            position = end
        header = encode_header(entries)
        tensors = [(old, kinds[old.name], len(header) + place) for old, place in zip(group, places, strict=True)]
        shards.append(_Shard(name, header, tensors, len(header) + position))
    return shards


def _index(shards: Sequence[_Shard]) -> bytes:
    """model.safetensors.index.json."""
    total = sum(shard.size - len(shard.header) for shard in shards)
    where = {old.name: shard.name for shard in shards for old, _, _ in shard.tensors}
    return _json({"metadata": {"total_size": total}, "weight_map": where})


class _Slab(NamedTuple):
    """Some rows of a GGUF tensor that go to one place."""

    info: TensorInfo
    place: Place
    first: int
    n_rows: int


def _write(source: Source, shard: _Shard, file: IO[bytes], pool: ThreadPoolExecutor, threads: int, folder: str) -> None:
    """Write a file of weights, tensor by tensor and slab by slab."""
    reserve(file, shard.size, "the weights", folder)
    positioned = PositionedFile(file.fileno())
    positioned.write(memoryview(shard.header), 0)
    infos = {info.name: info for info in source.tensors}
    for old, kind, position in shard.tensors:
        size = types[kind].type_size
        runs = all(_is_run(place) for place in old.places)
        mapped = None if runs else _mapped(file, position, math.prod(old.shape), size)

        def put(
            slab: _Slab, kind: str = kind, position: int = position, size: int = size, mapped: Any = mapped
        ) -> None:
            bits, skipped = _bits(source, slab, kind)
            if mapped is None:
                start = slab.place.layout.start + skipped
                positioned.write(bits.view(np.uint8).data, position + start * size)
            else:
                put_some(bits, skipped, slab.place.layout, mapped)

        slabs = (slab for place in old.places for slab in _slabs(infos[place.new], place))
        for _ in in_order(slabs, lambda slab: pool.submit(put, slab), threads):
            pass
    file.flush()
    os.fsync(file.fileno())


def _is_run(place: Place) -> bool:
    """Whether the values follow each other in the tensor of the checkpoint, as they do in that of GGUF."""
    layout = simplified(place.layout)
    return len(layout.shape) == 1 and layout.strides[0] == 1


def _mapped(file: IO[bytes], position: int, n: int, size: int) -> "NDArray[np.generic]":
    """The ``n`` values of a tensor in a file, writable, as whole numbers of ``size`` bytes."""
    before = position % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(file.fileno(), before + n * size, offset=position - before)
    return np.frombuffer(mapped, f"<u{size}", n, before)


def _slabs(info: TensorInfo, place: Place) -> Iterator[_Slab]:
    """Yield the pieces of the rows that hold the values of a place."""
    cols = max(1, info.n_cols)
    n = math.prod(place.layout.shape)
    last = -(-(place.start + n) // cols)
    step = rows_per_slab(cols, SLAB_WEIGHTS)
    for first in range(place.start // cols, last, step):
        yield _Slab(info, place, first, min(step, last - first))


def _bits(source: Source, slab: _Slab, kind: str) -> "tuple[NDArray[np.generic], int]":
    """The values of a slab in the type of the file, and how many values of the place come before them."""
    values = source.decode(slab.info, slab.first, slab.n_rows).reshape(-1)
    begin = slab.first * max(1, slab.info.n_cols) - slab.place.start  # negative: values of another place come first
    values = values[max(0, -begin) :]
    begin = max(0, begin)
    values = values[: math.prod(slab.place.layout.shape) - begin]
    return _encoded(_unchanged(values, slab.place.changes), kind, slab.info.name, slab.first), begin


def _encoded(values: "NDArray[np.float32]", kind: str, name: str, row: int) -> "NDArray[np.generic]":
    """Values as whole numbers of two or four bytes. Raises NonFiniteError for NaN and infinity."""
    flat = np.ascontiguousarray(values).reshape(1, -1)
    if kind == "F32":
        if not np.isfinite(flat).all():
            raise NonFiniteError(f"{name}: holds NaN or infinity near row {row}")
        return flat.reshape(-1).astype("<f4", copy=False).view("<u4")
    out = np.empty((1, flat.size * 2), np.uint8)
    encode_slab(types[kind], flat, out, first_row=row, tensor=name)
    return out.reshape(-1).view("<u2")
