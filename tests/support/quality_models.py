"""A small model whose predictions are far from even, a copy of it with rounded weights, and a text for both.

The vocabulary is that of single characters, of an odd size. ``tests/golden/quality/make.py`` has the reference measure
both models.
"""

import numpy as np
from small_models import Small, decoder, random, write

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?-'\"()[]{}/+*=<>_#@%&|^~$"
TOKENS = ["<unk>", "<s>", "</s>", "\u2581", "<0x0A>", *CHARACTERS]  # \u2581 is the space
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
N_CTX = 32


def text():
    """Words of random letters: nine chunks and a bit, and a newline at the end."""
    letters = (random("text", (290,)).view(np.uint32) >> 7) % 9
    return "".join("etaoin sh"[i] for i in letters).replace("  ", " .") + "\n"


def base():
    """The model itself: most predictions are sure of a few tokens, and some log-probabilities are below -16."""
    assert len(TOKENS) % 2 == 1
    small = decoder("quality", "llama", vocab=len(TOKENS))
    small.tensors["output.weight"] *= np.float32(2.5)
    small.metadata |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.scores": [0.0] * len(TOKENS),
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL, NORMAL, BYTE, *[NORMAL] * len(CHARACTERS)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return small


def rounded():
    """Its copy: the weights of every matrix in a layer are multiples of a sixteenth of the largest."""
    small = base()
    for name, x in small.tensors.items():
        if name.startswith("blk.") and x.ndim == 2:
            step = np.abs(x).max() / np.float32(16)
            small.tensors[name] = (np.rint(x / step) * step).astype(np.float32)
    return small


__all__ = ["N_CTX", "TOKENS", "Small", "base", "rounded", "text", "write"]
