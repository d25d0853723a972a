"""The metadata of a converted model, in the order in which llama.cpp's converter writes it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from quantreg.checkpoints.card import read_card
from quantreg.checkpoints.checkpoint import Checkpoint, Key
from quantreg.checkpoints.config import Config
from quantreg.errors import CheckpointError, GGUFFormatError, QuantregError, SafetensorsError
from quantreg.gguf import TensorInfo, Value
from quantreg.safetensors import read_json

__all__ = ["SAMPLING", "architecture_metadata", "general_metadata", "size_label"]

# type of the first matrix -> number of the file type
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
_MXFP4_MOE = 38
SAMPLING: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("sequence", ("sequence",), "string"),
    ("top_k", ("top_k",), "i32"),
    ("top_p", ("top_p",), "f32"),
    ("min_p", ("min_p",), "f32"),
    ("xtc_probability", ("xtc_probability",), "f32"),
    ("xtc_threshold", ("xtc_threshold",), "f32"),
    ("temp", ("temperature",), "f32"),
    ("penalty_last_n", ("penalty_last_n",), "i32"),
    ("penalty_repeat", ("penalty_repeat", "repetition_penalty"), "f32"),
    ("mirostat", ("mirostat",), "i32"),
    ("mirostat_tau", ("mirostat_tau",), "f32"),
    ("mirostat_eta", ("mirostat_eta",), "f32"),
)
_SCALAR_KINDS = {"u32": int, "i32": int, "u64": int, "f32": float, "bool": bool, "string": str}


def general_metadata(folder: Path, architecture: str, infos: Sequence[TensorInfo]) -> dict[str, Value]:
    """The keys "general.*" that do not come from config.json: names, the size, sampling, and the model card."""
    found = {"general.architecture": Value("string", architecture), "general.type": Value("string", "model")}
    for key, value in _sampling(folder):
        found[f"general.sampling.{key}"] = value
    card = read_card(folder)
    name = card.get("name", card.get("model_name"))
    found["general.name"] = Value("string", name if isinstance(name, str) else _title(_name(folder)))
    found["general.size_label"] = Value("string", size_label(infos))
    for key, wanted in (("license", "license"), ("license.name", "license_name"), ("license.link", "license_link")):
        said = card.get(wanted)
        if said:
            found[f"general.{key}"] = Value("string", ",".join(said) if isinstance(said, list) else said)
    for key, names in (("tags", ("tags", "pipeline_tag")), ("languages", ("languages", "language"))):
        values = [item for one in names for item in _listed(card.get(one))]
        if values:
            found[f"general.{key}"] = Value("array[string]", values)
    return found


def _name(folder: Path) -> str:
    """The name of the model: that of its folder, or of its repository if the folder is a revision in a cache."""
    path = folder.resolve()
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.rpartition("--")[2]
    return path.name


def _listed(value: str | list[str] | None) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _title(name: str) -> str:
    """A folder's name as a title: words that are written small get a capital, unless they are numbers or versions."""
    words = name.strip().replace("-", " ").split()
    return " ".join(
        word.title() if word.islower() and not word[0].isdigit() and not _is_version(word) else word for word in words
    )


def _is_version(word: str) -> bool:
    return word[0] == "v" and len(word) > 1 and all(part.isdecimal() for part in word[1:].split("."))


def _sampling(folder: Path) -> Iterator[tuple[str, Value]]:
    """Yield the keys and values of generation_config.json that say how to sample."""
    try:
        data = read_json(folder / "generation_config.json")
    except (OSError, SafetensorsError):  # it is not needed, and some models have a broken one
        return
    if not isinstance(data, dict):
        return
    for key, names, kind in SAMPLING:
        value = next((data[name] for name in names if data.get(name) is not None), None)
        if value is None or (kind == "string") != isinstance(value, str):
            continue
        try:
            yield key, Value(kind, value)
        except GGUFFormatError:
            continue


def size_label(infos: Iterable[TensorInfo]) -> str:
    """The number of weights, as in "1.1B"; "8x7B" for experts: their number, and the weights without all but one."""
    total = shared = each = n_experts = n_stacks = 0
    for info in infos:
        size = math.prod(info.shape)
        total += size
        if "_exps." in info.name and len(info.shape) >= 3:
            experts = info.shape[-2 if ".bias" in info.name else -3] or 1
            each += size // experts
            n_experts += experts
            n_stacks += 1
        else:
            shared += size
    if n_stacks and n_experts // n_stacks:
        return f"{n_experts // n_stacks}x{_rounded(shared + each)}"
    return _rounded(total)


def _rounded(n: int) -> str:
    """A number with K, M, B or T after it, and at least two digits."""
    for power, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n > power or letter == "K":
            scaled = n * (1 / power)
            digits = max(2 - len(str(round(scaled)).lstrip("0")), 0)
            return f"{scaled:.{digits}f}{letter}"
    raise AssertionError("the last letter fits every number")


def architecture_metadata(
    config: Config, architecture: str, checkpoint: Checkpoint, infos: Sequence[TensorInfo]
) -> dict[str, Value]:
    """The keys that the table of a checkpoint makes of config.json, and the numbers of the formats.

    Raises CheckpointError, with the name in config.json, for a value that is missing or that GGUF cannot hold.
    """
    found: dict[str, Value] = {}
    for key in checkpoint.keys:
        if key.new == "=general.file_type":
            found["general.file_type"] = Value("u32", _file_type(infos))
            continue
        value = _value(key, config)
        if value is not None:
            found[key.new[1:] if key.new.startswith("=") else f"{architecture}.{key.new}"] = value
    found["general.quantization_version"] = Value("u32", 2)
    return found


def _file_type(infos: Sequence[TensorInfo]) -> int:
    if any(info.type_name == "MXFP4" for info in infos):
        return _MXFP4_MOE
    matrix = next((info for info in infos if len(info.dims) > 1 and info.type_name != "F32"), None)
    return _FILE_TYPES["F32" if matrix is None else matrix.type_name]


def _value(key: Key, config: Config) -> Value | None:
    names = key.old if isinstance(key.old, tuple) else (key.old,) if isinstance(key.old, str) else ()
    try:
        data: Any = config.first_of(names) if names else key.old(config)  # type: ignore[operator]
    except QuantregError:
        raise
    except Exception as error:  # what a table computes from values that nobody checked
        raise CheckpointError(f"{config.path}: cannot tell {key.new}: {error!r:.200}: correct it") from error
    if data is None:
        data = key.default
    if data is None:
        if key.needed:
            raise config.lacks(*(names or (key.new,)))
        return None
    if isinstance(data, Value):
        return data
    name = next((name for name in names if name in config), "") or key.new
    kind = key.kind
    if isinstance(data, (list, tuple)) and not kind.startswith("array["):  # one number for each layer
        kind = f"array[{'i32' if kind == 'u32' else kind}]"
    try:
        return Value(kind, _checked(data, kind))
    except (GGUFFormatError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{config.path}: {name} is {data!r:.60}, which does not fit into {kind} ({error!s:.100}): correct it, or "
            "download the file again"
        ) from None


def _checked(data: Any, kind: str) -> Any:
    """The value, if JSON holds one of the kind. Raises TypeError or ValueError."""
    if kind.startswith("array["):
        return [_checked(item, kind[6:-1]) for item in data]
    wanted = _SCALAR_KINDS.get(kind)
    if wanted is int and (isinstance(data, bool) or not isinstance(data, int)):
        raise TypeError("expected a whole number")
    if wanted is float:
        if isinstance(data, bool) or not isinstance(data, (int, float)):
            raise TypeError("expected a number")
        if not math.isfinite(data):
            raise ValueError("expected a finite number")
        return float(data)
    if wanted in (bool, str) and not isinstance(data, wanted):
        raise TypeError("expected a text" if wanted is str else "expected true or false")
    return data
