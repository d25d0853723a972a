"""A small model that says what it is told to: each token of its vocabulary leads to one other.

Its layers add nothing, embeddings are unit vectors, and the output matrix names the next token of each.
"""

from itertools import pairwise

import numpy as np
import small_models

TOKENS = [
    "<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0x1B>", "<0x0A>",
    "▁", "a", "b", "c", "d", "▁caf", "!", "<|end|>", "e", "x", "y", "z", "<0x20>", "[", "]", "H", "i", "n", "s", "t",
    "u", "<", ">",
]  # fmt: skip
IDS = {token: id for id, token in enumerate(TOKENS)}
KINDS = {"<unk>": 2, "<s>": 3, "</s>": 3, "<|end|>": 3}


def speaker(*chain, template=None, context=64, **metadata):
    """A model in which each token of the chain is followed by the next one, by far the most probable."""
    small = small_models.decoder("speaker", "llama", vocab=len(TOKENS), width=64)
    small.keys(context_length=context)
    for name, tensor in small.tensors.items():
        if "attn_output" in name or "ffn_down" in name:
            tensor[...] = 0
    small.tensors["token_embd.weight"] = np.eye(len(TOKENS), small.width, dtype=np.float32)
    small.tensors["output_norm.weight"] = np.ones(small.width, np.float32)
    output = small.tensors["output.weight"] = np.zeros((len(TOKENS), small.width), np.float32)
    for token, following in pairwise(chain):
        output[IDS[following], IDS[token]] = 2
    small.metadata |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(TOKENS))],
        "tokenizer.ggml.token_type": [KINDS.get(t, 6 if t.startswith("<0x") else 1) for t in TOKENS],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **metadata,
    }
    if template is not None:
        small.metadata["tokenizer.chat_template"] = template
    return small
