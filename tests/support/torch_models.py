"""Tensors of every type for the tests of quantreg.torch, and a small decoder of torch modules."""

import os

import numpy as np
import torch

import quantreg

DEVICE = os.environ.get("QUANTREG_TEST_DEVICE", "cpu")  # cuda, for example: conftest.py has a fixture for it
RNG = np.random.default_rng(15)
W = (RNG.standard_normal((40, 512)) * 0.05).astype(np.float32)
ENCODABLE = [name for name in quantreg.types if quantreg.types[name].codec.can_encode]
INTEGERS = ("I8", "I16", "I32", "I64")
FLOATS = [name for name in ENCODABLE if name not in INTEGERS]


def tensor_of(x, name, tensor="w"):
    qtype = quantreg.types[name]
    importance = np.ones(x.shape[-1], np.float32) if qtype.requires_importance else None
    if name in INTEGERS:
        x = np.rint(x * 100)
    return quantreg.QuantizedTensor.from_array(tensor, x, name, importance)


class Attention(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, torch.nn.Linear(width, width, bias=name == "q_proj"))

    def forward(self, x):
        scores = torch.softmax(self.q_proj(x) @ self.k_proj(x).transpose(-1, -2), -1)
        return self.o_proj(scores @ self.v_proj(x))


class Mlp(torch.nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate_proj = torch.nn.Linear(width, hidden, bias=False)
        self.up_proj = torch.nn.Linear(width, hidden, bias=False)
        self.down_proj = torch.nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(torch.nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.self_attn, self.mlp = Attention(width), Mlp(width, hidden)
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.self_attn(self.norm(x))
        return x + self.mlp(x)


class Decoder(torch.nn.Module):
    """Names as transformers gives them: embed_tokens, layers.0.self_attn.q_proj, lm_head."""

    def __init__(self, width=256, hidden=512, layers=2, vocabulary=300, tied=False):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(vocabulary, width)
        self.layers = torch.nn.ModuleList(Layer(width, hidden) for _ in range(layers))
        self.lm_head = torch.nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, ids):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)


def decoder(**options):
    torch.manual_seed(0)
    return Decoder(**options)
