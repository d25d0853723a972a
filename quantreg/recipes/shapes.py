"""The shapes of published models, to tell how large a model of a given size would be without having its file."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["SHAPES", "Shape", "Tensor"]


class Tensor(NamedTuple):
    """What planning needs to know of a tensor. ``dims`` are in ne order (row length first)."""

    name: str
    dims: tuple[int, ...]
    type_id: int
    type_name: str
    nbytes: int


class Shape(NamedTuple):
    """The shape of a published model with Llama's tensors.

    ``called`` is the size in its name, in billions, if people mean this model by it: 1.0 for Llama 3.2 1B, which has
    1.24 billion weights. ``tied`` says that the token embeddings also serve as the output.
    """

    model: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    heads_kv: int
    head_size: int
    vocabulary: int
    tied: bool = False
    called: float | None = None

    @property
    def weights(self) -> int:
        """The number of weights in all tensors."""
        return sum(math.prod(tensor.dims) for tensor in self.tensors)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata that planning reads."""
        return {
            "general.architecture": "llama",
            "llama.block_count": self.layers,
            "llama.attention.head_count": self.heads,
            "llama.attention.head_count_kv": self.heads_kv,
            "llama.expert_count": 0,
        }

    @property
    def tensors(self) -> list[Any]:
        """All tensors, in the order of a file."""
        return [_tensor(name, *dims) for name, *dims in self._dims()]

    def _dims(self) -> Iterator[tuple[Any, ...]]:
        query, key = self.heads * self.head_size, self.heads_kv * self.head_size
        if not self.tied:
            yield "output.weight", self.width, self.vocabulary
        yield "token_embd.weight", self.width, self.vocabulary
        yield "output_norm.weight", self.width
        for layer in range(self.layers):
            prefix = f"blk.{layer}."
            yield prefix + "attn_k.weight", self.width, key
            yield prefix + "attn_norm.weight", self.width
            yield prefix + "attn_output.weight", query, self.width
            yield prefix + "attn_q.weight", self.width, query
            yield prefix + "attn_v.weight", self.width, key
            yield prefix + "ffn_down.weight", self.feed_forward, self.width
            yield prefix + "ffn_gate.weight", self.width, self.feed_forward
            yield prefix + "ffn_norm.weight", self.width
            yield prefix + "ffn_up.weight", self.width, self.feed_forward

    def __str__(self) -> str:
        return (
            f"{self.model} ({self.weights / 1e9:.3g} billion weights: {self.layers} layers of width {self.width}, "
            f"feed-forward {self.feed_forward}, {self.vocabulary} tokens)"
        )


def _tensor(name: str, *dims: int) -> Tensor:
    if len(dims) == 1:
        return Tensor(name, dims, 0, "F32", 4 * dims[0])
    return Tensor(name, dims, 1, "F16", 2 * math.prod(dims))


# From each model's config.json, ordered by the number of weights.
SHAPES: tuple[Shape, ...] = (
    Shape("SmolLM2 135M", 30, 576, 1536, 9, 3, 64, 49152, tied=True, called=0.135),
    Shape("SmolLM2 360M", 32, 960, 2560, 15, 5, 64, 49152, tied=True, called=0.36),
    Shape("TinyLlama 1.1B", 22, 2048, 5632, 32, 4, 64, 32000, called=1.1),
    Shape("Llama 3.2 1B", 16, 2048, 8192, 32, 8, 64, 128256, tied=True, called=1.0),
    Shape("SmolLM2 1.7B", 24, 2048, 8192, 32, 32, 64, 49152, tied=True, called=1.7),
    Shape("Llama 3.2 3B", 28, 3072, 8192, 24, 8, 128, 128256, tied=True, called=3.0),
    Shape("Llama 2 7B", 32, 4096, 11008, 32, 32, 128, 32000),  # "7B" means this one and the next
    Shape("Mistral 7B", 32, 4096, 14336, 32, 8, 128, 32000),
    Shape("Llama 3.1 8B", 32, 4096, 14336, 32, 8, 128, 128256, called=8.0),
    Shape("Llama 2 13B", 40, 5120, 13824, 40, 40, 128, 32000, called=13.0),
    Shape("Mistral Small 24B", 40, 5120, 32768, 32, 8, 128, 131072, called=24.0),
    Shape("Llama 33B", 60, 6656, 17920, 52, 52, 128, 32000, called=33.0),
    Shape("Llama 3.1 70B", 80, 8192, 28672, 64, 8, 128, 128256, called=70.0),
    Shape("Llama 3.1 405B", 126, 16384, 53248, 128, 8, 128, 128256, called=405.0),
)
