"""Layers of small models with random weights, whose parts are given by a few words.

The scales are chosen so that every part matters: scores differ by about 1, norms and biases are far from 1 and 0, and
a layer adds about as much as it gets.
"""

from typing import Any

import numpy as np

__all__ = ["Layers"]

VOCABULARY = 96


class Layers:
    """The tensors and the metadata of one model, filled by methods that add a part each."""

    def __init__(
        self,
        architecture: str,
        *,
        layers: int = 3,
        width: int = 64,
        heads: int = 4,
        kv_heads: int | None = None,
        head: int | None = None,
        hidden: int = 96,
        context: int = 64,
        rms: bool = False,
        **keys: Any,
    ) -> None:
        self.layers, self.width, self.heads, self.hidden, self.context = layers, width, heads, hidden, context
        self.kv_heads = kv_heads or heads
        self.head = head or width // heads
        self.random = np.random.Generator(np.random.PCG64(sum(map(ord, architecture)) + layers))
        self.tensors: dict[str, np.ndarray] = {}
        self.metadata: dict[str, Any] = {"general.architecture": architecture, "tokenizer.ggml.model": "none"}
        self.set(
            vocab_size=VOCABULARY,
            context_length=context,
            embedding_length=width,
            block_count=layers,
            feed_forward_length=hidden,
        )
        self.set(**{"attention.head_count": heads, "attention.head_count_kv": self.kv_heads})
        self.set(**{"attention.layer_norm_rms_epsilon" if rms else "attention.layer_norm_epsilon": 1e-5})
        if head:
            self.set(**{"attention.key_length": head, "attention.value_length": head})
        self.set(**{name.replace("__", "."): value for name, value in keys.items()})

    def set(self, **keys: Any) -> None:
        """Add metadata, without the name of the architecture in front."""
        architecture = self.metadata["general.architecture"]
        self.metadata.update({f"{architecture}.{name}": value for name, value in keys.items()})

    def add(self, name: str, *shape: int, middle: float = 0.0, spread: float = 1.0) -> None:
        """Add a tensor of normally distributed weights."""
        values = middle + spread * self.random.standard_normal(shape)
        self.tensors[name] = values.astype(np.float32)

    def matrix(self, name: str, rows: int, cols: int, *, gain: float = 1.0, bias: bool = False) -> None:
        self.add(f"{name}.weight", rows, cols, spread=gain / cols**0.5)
        if bias:
            self.add(f"{name}.bias", rows, spread=0.5)

    def norm(self, name: str, *shape: int, bias: bool = False) -> None:
        self.add(f"{name}.weight", *shape, middle=1.0, spread=0.3)
        if bias:
            self.add(f"{name}.bias", *shape, spread=0.3)

    def embedding(self, *, spread: float = 1.0) -> None:
        self.add("token_embd.weight", VOCABULARY, self.width, spread=spread)

    def positions(self) -> None:
        self.add("position_embd.weight", self.context, self.width, spread=0.7)

    def attention(
        self, block: str, *, fused: bool = False, bias: bool = False, output_bias: bool = False, gain: float = 1.6
    ) -> None:
        """Add queries, keys, values and the output, in one tensor (``fused``) or in three."""
        width, rows, kv = self.width, self.heads * self.head, self.kv_heads * self.head
        if fused:
            self.matrix(f"{block}.attn_qkv", rows + 2 * kv, width, gain=gain, bias=bias)
        else:
            self.matrix(f"{block}.attn_q", rows, width, gain=gain, bias=bias)
            self.matrix(f"{block}.attn_k", kv, width, gain=gain, bias=bias)
            self.matrix(f"{block}.attn_v", kv, width, gain=gain, bias=bias)
        self.matrix(f"{block}.attn_output", width, rows, bias=output_bias)

    def feed_forward(self, block: str, *, gate: bool = False, fused: bool = False, bias: bool = False) -> None:
        """Add the feed-forward network, with a gate of its own or one in front of ``up`` (``fused``)."""
        if gate:
            self.matrix(f"{block}.ffn_gate", self.hidden, self.width, gain=1.5, bias=bias)
        self.matrix(f"{block}.ffn_up", self.hidden * (2 if fused else 1), self.width, gain=1.5, bias=bias)
        self.matrix(f"{block}.ffn_down", self.width, self.hidden, gain=1.5, bias=bias)

    def experts(self, block: str, count: int) -> None:
        """Add a router and gated experts. The router's scores lie far apart, so that no rounding changes a choice."""
        self.matrix(f"{block}.ffn_gate_inp", count, self.width, gain=2.0)
        for name in ("gate", "up"):
            self.add(f"{block}.ffn_{name}_exps.weight", count, self.hidden, self.width, spread=1.5 / self.width**0.5)
        self.add(f"{block}.ffn_down_exps.weight", count, self.width, self.hidden, spread=1.5 / self.hidden**0.5)

    def output(self, *, bias: bool = False) -> None:
        self.matrix("output", VOCABULARY, self.width, bias=bias)

    @property
    def blocks(self) -> list[str]:
        return [f"blk.{i}" for i in range(self.layers)]

    @property
    def model(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return self.metadata, self.tensors
