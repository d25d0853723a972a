"""Small language models with random weights: one function for each, which says what is special about it.

A module of this package describes a family in ``MODELS``: the name of each model -> a function that fills a `Small`.
`decoder` fills in what most models have in common. The weights depend on the names of the model and of the tensor
alone, and are the same on every machine. ``tests/golden/logits/make.py`` computes the logits of these models with the
reference.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from zlib import crc32

import numpy as np
from steady import random

import quantreg
from quantreg.gguf import Value

__all__ = ["ENCODERS", "Small", "Value", "build", "decoder", "experts", "names", "random", "token_ids", "write"]

# These make embeddings, and predict no tokens.
ENCODERS = ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "gemma-embedding", "llama-embed")


def token_ids(name, n_vocab, n=24):
    """The ids that go into the model of this name."""
    return [int(i) for i in np.random.PCG64(crc32(f"{name} tokens".encode())).random_raw(n) % np.uint64(n_vocab)]


class Small:
    """A model under construction. The numbers are those that most of its metadata and shapes follow from."""

    def __init__(self, name, architecture, *, layers=2, width=64, heads=4, heads_kv=2, head=None, ff=96, vocab=96):
        self.name, self.architecture = name, architecture
        self.layers, self.width, self.ff, self.vocab = layers, width, ff, vocab
        self.heads, self.heads_kv, self.head = heads, heads_kv, head or width // heads
        self.metadata = {"general.architecture": architecture, "tokenizer.ggml.model": "none"}
        self.tensors = {}
        self.keys(
            block_count=layers,
            context_length=64,
            embedding_length=width,
            feed_forward_length=ff,
            vocab_size=vocab,
            **{"attention.head_count": heads, "attention.head_count_kv": heads_kv},
        )
        if self.head * heads != width:
            self.keys(**{"attention.key_length": self.head, "attention.value_length": self.head})

    @property
    def blocks(self):
        """The beginnings of the names of the tensors of each layer."""
        return [f"blk.{i}." for i in range(self.layers)]

    def keys(self, **keys):
        """Set metadata keys of the architecture. None removes a key."""
        for key, value in keys.items():
            self.metadata.pop(f"{self.architecture}.{key}", None)
            if value is not None:
                self.metadata[f"{self.architecture}.{key}"] = value
        return self

    def head_norms(self):
        """Add norms of queries and keys, with weights for one head."""
        for block in self.blocks:
            self.norm(f"{block}attn_q_norm", self.head)
            self.norm(f"{block}attn_k_norm", self.head)
        return self

    def norms_after(self):
        """Replace the norms before the halves of each layer by norms after them."""
        for part in ("attn_norm", "ffn_norm"):
            self.remove(part)
        for block in self.blocks:
            self.norm(f"{block}post_attention_norm", self.width)
            self.norm(f"{block}post_ffw_norm", self.width)
        return self

    def rope_scaling(self, kind, **values):
        """Set the keys rope.scaling.type and the others that are given."""
        return self.keys(**{f"rope.scaling.{key}": value for key, value in {"type": kind, **values}.items()})

    def matrix(self, name, *shape, gain=1.4, bias=False):
        """Add a matrix NAME.weight, (rows, columns) or (experts, rows, columns), and its bias if asked."""
        self.tensors[f"{name}.weight"] = self._random(f"{name}.weight", shape) * np.float32(gain / shape[-1] ** 0.5)
        if bias:
            self.bias(name, *shape[:-1])

    def norm(self, name, n, bias=False):
        """Add the weights of a norm, around 1, and its bias if asked."""
        self.tensors[f"{name}.weight"] = 1 + self._random(f"{name}.weight", (n,)) * np.float32(0.25)
        if bias:
            self.bias(name, n)

    def bias(self, name, *shape, gain=0.5):
        """Add the bias NAME.bias."""
        self.tensors[f"{name}.bias"] = self._random(f"{name}.bias", shape) * np.float32(gain)

    def vector(self, name, n, low, high):
        """Add a vector with this full name, of numbers between low and high."""
        unit = np.clip(self._random(name, (n,)) / 4 + 0.5, 0, 1)
        self.tensors[name] = (low + (high - low) * unit).astype(np.float32)

    def remove(self, part):
        """Remove the tensors whose names contain this part."""
        self.tensors = {name: x for name, x in self.tensors.items() if part not in name}

    def _random(self, tensor, shape):
        return random(f"{self.name} {tensor}", shape)


def decoder(
    name,
    architecture,
    *,
    rms=True,
    norm_bias=False,
    qkv_bias=False,
    output_bias=False,
    ff_bias=False,
    gated=True,
    fused_qkv=False,
    tied=False,
    **sizes,
):
    """A `Small` with the tensors of Llama, or of what differs from it as the arguments say."""
    small = Small(name, architecture, **sizes)
    width, ff, q, kv = small.width, small.ff, small.heads * small.head, small.heads_kv * small.head
    small.keys(**{f"attention.layer_norm_{'rms_' if rms else ''}epsilon": 1e-5})
    small.matrix("token_embd", small.vocab, width, gain=width**0.5)
    for block in small.blocks:
        small.norm(f"{block}attn_norm", width, norm_bias)
        if fused_qkv:
            small.matrix(f"{block}attn_qkv", q + 2 * kv, width, bias=qkv_bias)
        else:
            for part, rows in (("q", q), ("k", kv), ("v", kv)):
                small.matrix(f"{block}attn_{part}", rows, width, bias=qkv_bias)
        small.matrix(f"{block}attn_output", width, q, bias=output_bias)
        small.norm(f"{block}ffn_norm", width, norm_bias)
        if gated:
            small.matrix(f"{block}ffn_gate", ff, width, bias=ff_bias)
        small.matrix(f"{block}ffn_up", ff, width, bias=ff_bias)
        small.matrix(f"{block}ffn_down", width, ff, bias=ff_bias)
    small.norm("output_norm", width, norm_bias)
    if not tied:
        small.matrix("output", small.vocab, width)
    return small


def experts(small, n=8, used=2, *, ff=None, shared=None, layers=None):
    """Replace the feed-forward matrices of layers by those of experts, and of shared experts.

    ``ff`` and ``shared`` are their lengths. Without ``ff`` it is the model's, and so is not in the metadata.
    """
    small.keys(expert_count=n, expert_used_count=used, expert_feed_forward_length=ff)
    small.keys(expert_shared_feed_forward_length=shared)
    for block in small.blocks if layers is None else [small.blocks[i] for i in layers]:
        for part in ("gate", "up", "down"):
            small.remove(f"{block}ffn_{part}.")
        small.matrix(f"{block}ffn_gate_inp", n, small.width, gain=2)
        for kind, length, stack in (("exps", ff or small.ff, (n,)), ("shexp", shared, ())):
            if length:
                small.matrix(f"{block}ffn_gate_{kind}", *stack, length, small.width)
                small.matrix(f"{block}ffn_up_{kind}", *stack, length, small.width)
                small.matrix(f"{block}ffn_down_{kind}", *stack, small.width, length)
    return small


def _models() -> dict[str, Callable[[str], Small]]:
    found = {}
    for module in pkgutil.iter_modules(__path__):
        models = import_module(f"{__name__}.{module.name}").MODELS
        twice = sorted(found.keys() & models.keys())
        assert not twice, f"small models of the same name: {twice}"
        found |= models
    return found


def names():
    """The names of all small models."""
    return sorted(_models())


def build(name):
    """The `Small` of this name."""
    return _models()[name](name)


def write(small, path):
    """Write it as a GGUF file."""
    quantreg.write(path, small.metadata, small.tensors)


def written(folder, *names):
    """Write the models of these names as NAME.gguf into the folder, and return it."""
    for name in names:
        write(build(name), folder / f"{name}.gguf")
    return folder
