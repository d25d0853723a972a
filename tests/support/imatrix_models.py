"""Small models whose importance matrices the reference has collected, and a text for them.

``tests/golden/imatrix/make.py`` has llama-imatrix run the text through the models.
"""

import quality_models
import small_models

N_CTX = quality_models.N_CTX
TAIL = 86  # tokens of a chunk, six of which do not divide into the parts that the reference computes at once

# name of the golden file -> the small model, and options of the command; "tail" has chunks of TAIL tokens
RUNS = {
    "plain": ("llama", ()),
    "output": ("llama", ("--process-output",)),
    "tied": ("llama-tied", ("--process-output",)),
    "experts": ("llama-experts", ()),
    "shared-expert": ("qwen2moe", ("--chunks", 7)),
    "latent": ("deepseek2", ()),
    "tail": ("llama-experts", ("--process-output",)),
    "later": ("llama", ("--from-chunk", 3, "--chunks", 4)),
}

# name of a file -> the files that it is made of, and options of the command
COMBINED = {
    "one.dat": (["plain.gguf"], ("-c", N_CTX, "--output-format", "dat")),
    "experts.dat": (["experts.gguf"], ("-c", N_CTX, "--output-format", "dat")),
    "two.gguf": (["plain.gguf", "later.gguf"], ("-c", N_CTX)),
    "two.dat": (["plain.gguf", "output.gguf"], ("-c", N_CTX, "--output-format", "dat")),
    "legacy.gguf": (["minilm-imatrix.dat"], ()),
    "both.gguf": (["minilm-imatrix.dat", "minilm-imatrix.gguf"], ("-c", 512)),
}


def text(name=""):
    """Nine chunks and a bit, and a newline at the end; for "tail" six chunks."""
    return quality_models.text() * (2 if name == "tail" else 1)


def n_ctx(name):
    """The tokens of a chunk."""
    return TAIL if name == "tail" else N_CTX


def write(name, path):
    """Write a small model with a vocabulary of characters."""
    small = small_models.build(name)
    tokens = quality_models.TOKENS[: small.vocab]
    kinds = quality_models.base().metadata["tokenizer.ggml.token_type"]
    small.metadata |= quality_models.base().metadata | small.metadata
    small.metadata |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": kinds[: len(tokens)],
    }
    small_models.write(small, path)
