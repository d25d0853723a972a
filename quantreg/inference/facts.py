"""The numbers of a model: its metadata, with the defaults of llama.cpp for what a file may leave out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantreg.errors import ModelError

__all__ = ["Facts", "read_facts"]

MOST_LAYERS = 10_000  # a number beyond this is damage, and would fill the memory with layers


@dataclass(frozen=True, slots=True)
class Facts:
    """What the metadata of a model say about its shape. Tuples have one value per layer.

    Keys are those of GGUF below the name of the architecture: ``width`` is ``llama.embedding_length``, and so on.
    """

    architecture: str
    metadata: Mapping[str, Any]
    width: int
    n_layers: int
    context: int
    n_vocab: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    feed_forward: tuple[int, ...]
    key_length: int
    value_length: int
    rope_dims: int
    eps: float
    n_experts: int
    experts_used: tuple[int, ...]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key below the name of the architecture, or a default."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def number(self, key: str, default: float | None = None) -> float:
        """A number below the name of the architecture. Raises ModelError if it is absent and has no default."""
        return float(_number(self.metadata, f"{self.architecture}.{key}", default))

    def whole(self, key: str, default: int | None = None, least: int = 0) -> int:
        """A whole number below the name of the architecture, at least ``least``. Raises ModelError for anything else.

        It is also raised if the key is absent and there is no default.
        """
        return _whole(self.metadata, f"{self.architecture}.{key}", default, least)

    def flag(self, key: str) -> bool:
        """A truth value below the name of the architecture. Raises ModelError if it is absent or something else."""
        found = self.get(key)
        if not isinstance(found, bool):
            what = "missing" if found is None else f"{found!r}"
            raise ModelError(f"the metadata key {self.architecture}.{key} is {what}: expected true or false")
        return found

    def per_layer(self, key: str, default: Any = None) -> tuple[Any, ...]:
        """The value of a key for each layer: one value holds for all of them."""
        return _per_layer(self.metadata, f"{self.architecture}.{key}", self.n_layers, default)


def read_facts(metadata: Mapping[str, Any], n_vocab: int) -> Facts:
    """Read the facts. Raises ModelError if a key is absent or holds something else than expected."""
    name = str(metadata.get("general.architecture", ""))

    def whole(key: str, default: int | None = None) -> int:
        return _whole(metadata, f"{name}.{key}", default)

    def each(key: str, default: int | tuple[int, ...]) -> tuple[int, ...]:
        values = _per_layer(metadata, f"{name}.{key}", n_layers, default)
        return tuple(_as_whole(f"{name}.{key}", value) for value in values)

    width, total = whole("embedding_length"), whole("block_count")
    n_layers = total - whole("nextn_predict_layers", 0)
    if not 0 < n_layers <= total or total > MOST_LAYERS:
        raise ModelError(f"the model has {n_layers} layers by its metadata: correct {name}.block_count")
    heads = each("attention.head_count", 0)
    head = width // heads[0] if heads[0] else 0
    key_length = whole("attention.key_length", head)
    return Facts(
        architecture=name,
        metadata=metadata,
        width=width,
        n_layers=n_layers,
        context=whole("context_length"),
        n_vocab=n_vocab,
        heads=heads,
        kv_heads=each("attention.head_count_kv", heads),
        feed_forward=each("feed_forward_length", 0),
        key_length=key_length,
        value_length=whole("attention.value_length", head),
        rope_dims=whole("rope.dimension_count", key_length),
        eps=_number(
            metadata,
            f"{name}.attention.layer_norm_rms_epsilon",
            _number(metadata, f"{name}.attention.layer_norm_epsilon", 1e-5),
        ),
        n_experts=whole("expert_count", 0),
        experts_used=each("expert_used_count", 0),
    )


def _number(metadata: Mapping[str, Any], key: str, default: float | None) -> float:
    found = metadata.get(key, default)
    if found is None:
        raise ModelError(f"the metadata key {key} is missing, and the model cannot run without it: convert it again")
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise ModelError(f"the metadata key {key} is {found!r}: expected a number")
    return found


def _whole(metadata: Mapping[str, Any], key: str, default: int | None, least: int = 0) -> int:
    return _as_whole(key, _number(metadata, key, default), least)


def _as_whole(key: str, found: Any, least: int = 0) -> int:
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found < least or found % 1:
        raise ModelError(
            f"the metadata key {key} holds {found!r}: expected a whole number" + (f", {least} or more" if least else "")
        )
    return int(found)


def _per_layer(metadata: Mapping[str, Any], key: str, n_layers: int, default: Any) -> tuple[Any, ...]:
    found = metadata.get(key, default)
    if isinstance(found, (int, float)) or found is None:
        return (found,) * n_layers
    if isinstance(found, str):
        raise ModelError(f"the metadata key {key} is {found!r}: expected a value for all layers, or one for each")
    values = tuple(found)
    if len(values) < n_layers:
        raise ModelError(f"the metadata key {key} holds {len(values)} values, but the model has {n_layers} layers")
    return values[:n_layers]
