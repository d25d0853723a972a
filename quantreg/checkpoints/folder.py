"""A folder with a published model, read as the GGUF model that it becomes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantreg.checkpoints.building import How, build
from quantreg.checkpoints.checkpoint import Checkpoint
from quantreg.checkpoints.checks import check_shapes, refuse_packed
from quantreg.checkpoints.config import Config
from quantreg.checkpoints.matching import further_layers, match
from quantreg.checkpoints.metadata import architecture_metadata, general_metadata
from quantreg.checkpoints.transforms import Mxfp4
from quantreg.checkpoints.vocabulary_once import vocabulary_once
from quantreg.errors import CheckpointError
from quantreg.gguf import TensorInfo, Value
from quantreg.recipes import Architecture, architectures
from quantreg.safetensors import SUFFIX, decoding, every_place, files_of, read_header, read_json, read_numbers
from quantreg.whatis import SHARD_NAME, model_path

__all__ = ["Folder", "find", "is_published", "read_config", "read_folder", "stored_type"]

_LARGEST = 1 << 24  # bytes of a config.json; the largest published ones have a few hundred thousand


@dataclass(frozen=True, slots=True)
class Folder:
    """A published model, described as GGUF.

    - ``config``, ``architecture`` and ``checkpoint``: what it is, and how it is read.
    - ``paths`` and ``sizes``: its safetensors files and their bytes.
    - ``places``: each tensor of GGUF, with the number of its file and the position of its data. For a tensor that
      ``how`` makes of others, by name, they are the file of the first of these, and 0.
    - ``names``: for each tensor of GGUF, the names of those of the checkpoint that it is made of.
    - ``metadata``: that of the GGUF model.
    - ``warnings``: what is odd but readable.
    """

    path: str
    config: Config
    architecture: Architecture
    checkpoint: Checkpoint
    paths: list[str]
    sizes: list[int]
    places: dict[TensorInfo, tuple[int, int]]
    how: dict[str, How]
    names: dict[str, tuple[str, ...]]
    metadata: dict[str, Value]
    warnings: list[str]


def is_published(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder with a model that transformers loads: config.json that names a class, and weights.

    Without a class, a "model_type" counts if a plugin knows it: image models use the name for something else.
    """
    if not os.path.isdir(path) or not os.path.isfile(os.path.join(path, "config.json")):
        return False
    if not any(name.endswith((SUFFIX, ".safetensors.index.json")) for name in os.listdir(path)):
        return False
    config = read_config(path)
    return bool(config.classes) or str(config.get("model_type")) in _known()[1]


def read_config(folder: str | os.PathLike[str]) -> Config:
    """Read config.json. Raises CheckpointError if it is not a JSON object, and OSError."""
    path = os.path.join(os.fspath(folder), "config.json")
    size = os.path.getsize(path)
    if size > _LARGEST:
        raise CheckpointError(f"{path} has {size} bytes, and no configuration has more than {_LARGEST}: replace it")
    data = read_json(path)
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not the configuration of a model: expected a JSON object")
    return Config(data, path)


def find(config: Config) -> tuple[Architecture, Checkpoint]:
    """The architecture and the checkpoint of a model with this configuration.

    The class decides ("architectures"); if there is none, the "model_type". Raises CheckpointError if no plugin knows
    it, with the classes that are known.
    """
    known, kinds = _known()
    found = next((known[name] for name in config.classes if name in known), [])
    if not found and not config.classes:
        found = kinds.get(str(config.get("model_type")), [])
    for pair in found:
        if pair[1].when is None or pair[1].when(config):
            return pair
    what = f"the class {config.classes[0]!r:.80}" if config.classes else f"model_type {config.get('model_type')!r:.80}"
    names = ", ".join(sorted(known)) or "none"
    raise CheckpointError(
        f"{config.path}: no plugin knows how {what} becomes GGUF. Known are {names}. Use llama.cpp's "
        "convert_hf_to_gguf.py, or write a plugin whose register_architectures hook registers an Architecture with a "
        "Checkpoint for this class (docs/checkpoints.md). To keep the names that the tensors have, give the "
        "safetensors file or index instead of the folder"
    )


_Tables = dict[str, list[tuple[Architecture, Checkpoint]]]


def _known() -> tuple[_Tables, _Tables]:
    """The architectures and checkpoints of each class, and of each model_type."""
    classes: _Tables = {}
    kinds: _Tables = {}
    for architecture in architectures.values():
        for checkpoint in architecture.checkpoints:
            for name in checkpoint.classes:
                classes.setdefault(name, []).append((architecture, checkpoint))
            if checkpoint.model_type:
                kinds.setdefault(checkpoint.model_type, []).append((architecture, checkpoint))
    return classes, kinds


def read_folder(path: str | os.PathLike[str], given: Mapping[str, Any] | None = None) -> Folder:
    """Read the headers, config.json and the tokenizer of a published model. No tensor data is read.

    ``given`` is metadata that the user sets, by key, which may make up for what the files do not say. Raises
    CheckpointError if the tensors are not those of the model or no plugin knows it; SafetensorsError if a file is
    damaged or missing; TokenizerError if the tokenizer cannot be read; and OSError.
    """
    folder = os.fspath(path)
    config = read_config(folder)
    architecture, checkpoint = find(config)
    refuse_packed(config)
    try:
        config = config.filled(checkpoint.defaults)
    except CheckpointError:
        raise
    except Exception as error:  # what a table computes from values that nobody checked
        raise CheckpointError(f"{config.path}: its values do not fit together: {error!r:.200}: correct it") from error
    files = files_of(_weights(folder))
    headers = [read_header(name) for name in files.paths]
    files.check_places(headers)
    places = every_place(headers)
    repacked = _repacked(checkpoint)
    decoded = decoding(places, {name for name in places if name.endswith(repacked)} if repacked else (), read_numbers)
    names = [name for name in sorted(places) if name not in decoded.consumed]
    config.further = further_layers(names, checkpoint, config)
    found = match(names, checkpoint, config, folder)
    built = [build(one, places, decoded.stored, checkpoint, folder) for one in found]
    infos = [one.info for one in built]
    inner = architecture_metadata(config, architecture.name, checkpoint, infos)
    check_shapes(infos, {key: value.data for key, value in inner.items()}, architecture.name, folder)
    metadata = {**general_metadata(Path(folder), architecture.name, infos), **inner}
    metadata |= vocabulary_once(Path(folder), config, checkpoint.vocabulary, given)
    warnings = [*files.warnings, *(text for header in headers for text in header.warnings)]
    if decoded.note:
        warnings.append(decoded.note)
    return Folder(
        folder, config, architecture, checkpoint, files.paths, [header.file_size for header in headers],
        {one.info: one.place for one in built},
        {one.info.name: one.how for one in built if one.how is not None},
        {one.name: tuple(name for names in one.parts for name in names) for one in found},
        metadata, warnings,
    )  # fmt: skip


def _repacked(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The ends of the names of tensors that hold MXFP4, which the table of the checkpoint takes as they are."""
    rows = [row for row in checkpoint.rows if isinstance(row.how, Mxfp4)]
    return tuple({old.rsplit("}", 1)[-1] for row in rows for old in row.olds})


def _weights(folder: str) -> str:
    """The index or the first file of the weights. Raises GGUFFormatError if there is none, or no telling which."""
    names = sorted(os.listdir(folder))
    for name in ("model.safetensors", "model.safetensors.index.json"):  # transformers prefers the whole file, too
        if name in names:
            return os.path.join(folder, name)
    for name in names:  # shards without their index
        shard = SHARD_NAME.fullmatch(name)
        if shard is not None and shard["prefix"] == "model" and shard["suffix"] == SUFFIX:
            return os.path.join(folder, name)
    return model_path(folder)


def stored_type(path: str | os.PathLike[str]) -> str:
    """The type in which most of a published model is stored: "BF16" or "F16".

    As in llama.cpp's converter, the first matrix of 16-bit floats decides, in the order of files and names; without
    one it is F16. Raises SafetensorsError, OSError.
    """
    for name in files_of(_weights(os.fspath(path))).paths:
        for _, entry in sorted(read_header(name).entries.items()):
            if len(entry.shape) > 1 and entry.dtype in ("BF16", "F16"):
                return entry.dtype
    return "F16"
