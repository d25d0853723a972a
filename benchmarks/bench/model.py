"""Write a synthetic F16 Llama of any size, and an importance matrix for it, as fast as the disk allows."""

from math import prod
from pathlib import Path

import numpy as np

import quantreg
from quantreg import gguf
from quantreg.gguf import Value

__all__ = ["shapes", "tile_of", "write_imatrix", "write_model", "write_one_tensor", "write_tiles"]

F32, F16 = 0, 1
TILE = 4_194_301  # number of random weights, which repeat; it is prime, so that no two rows of a tensor are equal


def shapes(params):
    """Return (width, feed-forward width, layers, vocabulary size) of a Llama with about this many parameters.

    The width is 2048 at 1.1e9 parameters.
    """
    width = max(256, round(2048 * (params / 1.1e9) ** (1 / 3) / 256) * 256)
    ff = max(256, round(2.75 * width / 256) * 256)
    words = 32000 if width >= 2048 else width * 12
    layer = 2 * width * width + 2 * width * (width // 4) + 3 * width * ff
    return width, ff, max(1, round((params - 2 * words * width) / layer)), words


def _tensors(params):
    """Return the dims of each tensor, in ne order. The tensors are in the order of the file."""
    width, ff, layers, words = shapes(params)
    found = {"token_embd.weight": (width, words), "output_norm.weight": (width,), "output.weight": (width, words)}
    for n in range(layers):
        found |= {
            f"blk.{n}.attn_norm.weight": (width,),
            f"blk.{n}.attn_q.weight": (width, width),
            f"blk.{n}.attn_k.weight": (width, width // 4),
            f"blk.{n}.attn_v.weight": (width, width // 4),
            f"blk.{n}.attn_output.weight": (width, width),
            f"blk.{n}.ffn_norm.weight": (width,),
            f"blk.{n}.ffn_gate.weight": (width, ff),
            f"blk.{n}.ffn_up.weight": (width, ff),
            f"blk.{n}.ffn_down.weight": (ff, width),
        }
    return found


def _metadata(params):
    width, ff, layers, words = shapes(params)
    return {
        "general.architecture": "llama",
        "general.name": "synthetic",
        "general.file_type": 1,
        "llama.block_count": layers,
        "llama.context_length": 2048,
        "llama.embedding_length": width,
        "llama.feed_forward_length": ff,
        "llama.attention.head_count": width // 64,
        "llama.attention.head_count_kv": width // 256,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": words,
        "tokenizer.ggml.model": "no_vocab",
    }


def _vocabulary(words):
    special, characters = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    unused = [f"<unused{n}>" for n in range(words - 259)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": Value("array[string]", special + characters + unused),
        "tokenizer.ggml.scores": Value("array[f32]", [0.0] * words),
        "tokenizer.ggml.token_type": Value("array[i32]", [2, 3, 3] + [6] * 256 + [5] * len(unused)),
        "tokenizer.ggml.bos_token_id": Value("u32", 1),
        "tokenizer.ggml.eos_token_id": Value("u32", 2),
        "tokenizer.ggml.unknown_token_id": Value("u32", 0),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }


def _header(metadata, tensors):
    """Return the encoded header and one (name, dims, type id, bytes) per tensor."""
    entries = [
        (name, dims, F32 if len(dims) == 1 else F16, prod(dims) * (4 if len(dims) == 1 else 2))
        for name, dims in tensors.items()
    ]
    header = gguf.encode_header([(key, Value.of(value)) for key, value in metadata.items()], entries)
    return header, entries


def write_model(path, params, vocabulary=False):
    """Write the model to `path` and return its number of parameters.

    With ``vocabulary`` it has tokens: one for each byte, and as many unused ones as it takes.
    """
    tensors = _tensors(params)
    tile = tile_of()
    metadata = _metadata(params) | (_vocabulary(shapes(params)[3]) if vocabulary else {})
    header, entries = _header(metadata, tensors)
    with Path(path).open("wb") as file:
        file.write(header)
        for index, (_, dims, type_id, nbytes) in enumerate(entries):
            if type_id == F32:
                file.write((1 + tile[: dims[0]].astype(np.float32)).tobytes())
            else:
                write_tiles(file, tile, prod(dims), start=index * 999_983 % TILE)
            file.write(bytes(-nbytes % gguf.DEFAULT_ALIGNMENT))
    return sum(prod(dims) for dims in tensors.values())


def tile_of():
    """The random weights that repeat, float16 (TILE,): rows of different sizes, as in trained models."""
    rng = np.random.default_rng(0)
    tile = rng.standard_normal(TILE, np.float32)
    tile *= np.repeat(rng.lognormal(-4, 0.3, TILE // 2048 + 1), 2048)[:TILE].astype(np.float32)
    return tile.astype(np.float16)


def write_tiles(file, tile, count, start):
    while count:
        part = tile[start : start + count]
        file.write(part.data)
        count -= len(part)
        start = 0


def write_imatrix(path, params):
    """Write an importance matrix as GGUF, for every matrix except the embeddings and the output."""
    rng = np.random.default_rng(1)
    entries = {}
    for name, dims in _tensors(params).items():
        if len(dims) == 2 and name.startswith("blk."):
            entries[f"{name}.in_sum2"] = rng.gamma(0.5, 16, (1, dims[0])).astype(np.float32) + np.float32(0.1)
            entries[f"{name}.counts"] = np.full((1, 1), 16, np.float32)
    info = {
        "general.type": "imatrix",
        "imatrix.datasets": Value("array[string]", ["synthetic.txt"]),
        "imatrix.chunk_count": 16,
        "imatrix.chunk_size": 512,
    }
    quantreg.write(path, info, entries, force=True)


def write_one_tensor(path, nbytes, cols=4096):
    """Write a model whose only tensor is a hole of about nbytes (F16 zeros), which takes no space on the disk."""
    tensors = {"token_embd.weight": (cols, max(1, nbytes // (2 * cols)))}
    metadata = {"general.architecture": "llama", "general.file_type": 1, "llama.block_count": 1}
    header, entries = _header(metadata, tensors)
    with Path(path).open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(entry[-1] for entry in entries))
