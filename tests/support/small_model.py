"""A small Llama-shaped F16 model with an importance matrix: integer arithmetic, the same bytes on every machine."""

import numpy as np

import quantreg
from quantreg.gguf import Value

N_EMBD, N_FF, N_VOCAB, N_LAYER, N_HEAD, N_HEAD_KV = 256, 288, 96, 4, 4, 2


def noise(seed, shape):
    """float32 in about -4..4, roughly normal: sums of bytes of a multiplicative hash."""
    i = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed << 32)
    h = i * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    total = sum(((h >> np.uint64(8 * k)) & np.uint64(255)).astype(np.int64) for k in range(4)) - 510
    return (total / 128).astype(np.float32).reshape(shape)


def tensors():
    """Name -> array, in an order that is not the output's."""
    kv = N_EMBD // N_HEAD * N_HEAD_KV
    shapes = {
        "output.weight": (N_VOCAB, N_EMBD),
        "token_embd.weight": (N_VOCAB, N_EMBD),
        "output_norm.weight": (N_EMBD,),
    }
    for n in range(N_LAYER):
        shapes |= {
            f"blk.{n}.attn_norm.weight": (N_EMBD,),
            f"blk.{n}.attn_q.weight": (N_EMBD, N_EMBD),
            f"blk.{n}.attn_k.weight": (kv, N_EMBD),
            f"blk.{n}.attn_v.weight": (kv, N_EMBD),
            f"blk.{n}.attn_output.weight": (N_EMBD, N_EMBD),
            f"blk.{n}.ffn_norm.weight": (N_EMBD,),
            f"blk.{n}.ffn_gate.weight": (N_FF, N_EMBD),
            f"blk.{n}.ffn_up.weight": (N_FF, N_EMBD),
            f"blk.{n}.ffn_down.weight": (N_EMBD, N_FF),  # 288 is no multiple of 256: these fall back
        }
    return {
        name: (1 + noise(i, shape) / 32 if len(shape) == 1 else (noise(i, shape) / 16).astype(np.float16))
        for i, (name, shape) in enumerate(shapes.items())
    }


def metadata():
    return {
        "general.architecture": "llama",
        "general.name": "small",
        "general.file_type": 1,
        "llama.block_count": N_LAYER,
        "llama.context_length": 64,
        "llama.embedding_length": N_EMBD,
        "llama.feed_forward_length": N_FF,
        "llama.attention.head_count": N_HEAD,
        "llama.attention.head_count_kv": N_HEAD_KV,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": N_VOCAB,
        "tokenizer.ggml.model": "no_vocab",
    }


def write_model(path):
    quantreg.write(path, metadata(), tensors())


def write_imatrix(path):
    """GGUF form: sums over 16 chunks for every matrix but the embeddings and the output."""
    entries = {}
    for i, (name, x) in enumerate(tensors().items()):
        if x.ndim == 2 and name.startswith("blk."):
            columns = noise(1000 + i, x.shape[-1:]) ** 2 + np.float32(0.125)
            entries[f"{name}.in_sum2"] = (columns * np.float32(16)).reshape(1, -1)
            entries[f"{name}.counts"] = np.full((1, 1), 16, np.float32)
    info = {
        "general.type": "imatrix",
        "imatrix.datasets": Value("array[string]", ["small.txt"]),
        "imatrix.chunk_count": 16,
        "imatrix.chunk_size": 512,
    }
    quantreg.write(path, info, entries)
