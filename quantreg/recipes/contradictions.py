"""Metadata that the tensors contradict: engines refuse such a model, although its header is sound."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

__all__ = ["contradictions", "is_per_layer"]

# llama.cpp refuses an array under these keys (after the name of the architecture) that has not one value per layer.
_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
# Arrays that belong to the whole model. Their length says nothing, even where it equals the number of layers.
_OF_THE_MODEL = ("rope.dimension_sections", "target_layers", "ple_layers")
# Decoders of speech and draft models, whose token embeddings have the size of something else.
_OTHER_EMBEDDINGS = frozenset({"wavtokenizer-dec", "eagle3", "dflash"})


class _Shaped(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def dims(self) -> tuple[int, ...]: ...


def contradictions(
    tensors: Iterable[_Shaped], metadata: Mapping[str, Any], *, given: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Say where the metadata and the shapes of the tensors disagree: one sentence for each fault.

    The token embeddings are compared with the vocabulary and with ``embedding_length``, and the arrays that hold one
    value per layer with ``block_count``. ``given`` are the user's overrides of the metadata.
    """
    given = {key: getattr(value, "data", value) for key, value in (given or {}).items()}  # a gguf.Value

    def fact(key: str) -> Any:
        return given[key] if key in given else metadata.get(key)

    architecture = fact("general.architecture")
    embeddings = next((tensor.dims for tensor in tensors if tensor.name == "token_embd.weight"), ())
    found = []
    if len(embeddings) == 2 and architecture not in _OTHER_EMBEDDINGS:
        width, n_rows = embeddings
        n_tokens = _n_tokens(metadata)
        if n_tokens and n_tokens != n_rows:
            found.append(
                f"token_embd.weight has {n_rows} rows, but tokenizer.ggml.tokens has {n_tokens} tokens: engines refuse "
                "to load the model: the tokenizer is that of another model, or tokens were added to one of the two: "
                "convert the model again with the tokenizer that belongs to it"
            )
        stated = fact(f"{architecture}.embedding_length")
        if isinstance(stated, int) and stated != width:
            found.append(
                f"token_embd.weight has rows of {width} weights, but {architecture}.embedding_length is {stated}: "
                "engines refuse to load the model: convert it again"
            )
    n_layers = fact(f"{architecture}.block_count")
    for key in (f"{architecture}.{name}" for name in _PER_LAYER):
        values = fact(key)
        if isinstance(values, list) and isinstance(n_layers, int) and len(values) != n_layers:
            found.append(
                f"{key} has {len(values)} values, but {architecture}.block_count is {n_layers}: engines refuse to load "
                "a model without one value per layer: convert it again"
            )
    return tuple(found)


def _n_tokens(metadata: Mapping[str, Any]) -> int:
    """The number of tokens in the vocabulary, or 0 if there is none."""
    key = "tokenizer.ggml.tokens"
    if key not in metadata:
        return 0
    if hasattr(metadata, "array_length"):  # a file's: decoding a hundred thousand texts to count them is slow
        return metadata.array_length(key) or 0
    tokens = metadata[key]
    return len(tokens) if isinstance(tokens, list) else 0


def is_per_layer(key: str, value: object, architecture: str, n_layers: object) -> bool:
    """Whether a key of the metadata holds one number or bool for each of the ``n_layers`` layers."""
    return (
        isinstance(value, list)
        and bool(value)
        and len(value) == n_layers
        and key.startswith(f"{architecture}.")
        and key.removeprefix(f"{architecture}.") not in _OF_THE_MODEL
        and all(isinstance(item, (bool, int, float)) for item in value)
    )
