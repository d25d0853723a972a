"""The small files of a folder besides config.json and the tokenizer: how to sample, how to pool, and the model card."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from quantreg.checkpoints.described import plain
from quantreg.checkpoints.metadata import SAMPLING
from quantreg.errors import CheckpointError

__all__ = ["card", "pooling_files", "sampling"]

_POOLING = {1: "mean_tokens", 2: "cls_token", 3: "lasttoken"}
_MODULE = "sentence_transformers.models."


def sampling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What generation_config.json says about sampling."""
    found = {}
    for key, names, _ in SAMPLING:
        value = metadata.get(f"general.sampling.{key}")
        if value is not None:
            found[names[-1]] = plain(value)
    return found


def card(metadata: Mapping[str, Any]) -> bytes | None:
    """README.md, whose head names the model, its license, its tags and its languages; None if nothing is known."""
    lines = []
    for key, name in (
        ("name", "model_name"),
        ("license", "license"),
        ("license.name", "license_name"),
        ("license.link", "license_link"),
        ("tags", "tags"),
        ("languages", "language"),
    ):
        value = metadata.get(f"general.{key}")
        if isinstance(value, str):
            lines += [f"{name}: {text}" for text in _quoted([value])]
        elif isinstance(value, list):
            items = _quoted(item for item in value if isinstance(item, str))
            lines += [f"{name}:", *(f"- {item}" for item in items)] if items else []
    if not lines:
        return None
    return "\n".join(["---", *lines, "---", ""]).encode("utf-8", "replace")


def _quoted(values: Iterable[str]) -> list[str]:
    """The values as YAML has them, without those that would need an escape."""
    marks = ((value, '"' if '"' not in value and "\\" not in value else "'") for value in values if value.isprintable())
    return [f"{mark}{value}{mark}" for value, mark in marks if mark not in value]


def pooling_files(pooling: int | None, width: int) -> dict[str, bytes]:
    """The files by which sentence-transformers knows how states of tokens become one embedding, by name.

    ``pooling`` is the value of "pooling_type" in GGUF. Raises CheckpointError for a kind that these files do not have.
    """
    if pooling is None or pooling == 0:
        return {}
    if pooling not in _POOLING:
        raise CheckpointError(f"pooling_type is {pooling}, which a folder has no name for: expected 0, 1, 2 or 3")
    parts = (("Transformer", ""), ("Pooling", "1_Pooling"))
    modules = [
        {"idx": k, "name": str(k), "path": path, "type": f"{_MODULE}{kind}"} for k, (kind, path) in enumerate(parts)
    ]
    modes = {f"pooling_mode_{name}": kind == pooling for kind, name in _POOLING.items()}
    inner = {"word_embedding_dimension": width, **modes}
    return {name: (json.dumps(data, indent=2) + "\n").encode() for name, data in
            (("modules.json", modules), ("1_Pooling/config.json", inner))}  # fmt: skip
