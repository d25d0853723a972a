"""A small Llama-shaped F16 model to try things on: random weights, real names, shapes and metadata."""

import numpy as np

from quantreg import files

__all__ = ["DEMO_TYPES", "make_model", "relative_error"]

DEMO_TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")


def make_model(path, *, n_layer=4, n_embd=512, n_ff=1536, n_vocab=4096, n_head=8, n_head_kv=4, seed=0, force=False):
    """Write an F16 GGUF with the tensors of a Llama of this size; returns the number of parameters."""
    rng = np.random.default_rng(seed)
    n_kv = n_embd // n_head * n_head_kv

    def matrix(rows, cols):
        # heavier tails than normal, as trained weights have, and rows of different size
        spread = np.exp(rng.normal(0, 0.3, (rows, 1))) * 0.5 / np.sqrt(cols)
        return (rng.standard_t(5, (rows, cols)) * spread).astype(np.float16)

    def norm(cols):
        return rng.normal(1, 0.05, cols).astype(np.float32)

    tensors = {"token_embd.weight": matrix(n_vocab, n_embd)}
    for layer in range(n_layer):
        prefix = f"blk.{layer}."
        tensors |= {
            prefix + "attn_norm.weight": norm(n_embd),
            prefix + "attn_q.weight": matrix(n_embd, n_embd),
            prefix + "attn_k.weight": matrix(n_kv, n_embd),
            prefix + "attn_v.weight": matrix(n_kv, n_embd),
            prefix + "attn_output.weight": matrix(n_embd, n_embd),
            prefix + "ffn_norm.weight": norm(n_embd),
            prefix + "ffn_gate.weight": matrix(n_ff, n_embd),
            prefix + "ffn_up.weight": matrix(n_ff, n_embd),
            prefix + "ffn_down.weight": matrix(n_embd, n_ff),
        }
    tensors |= {"output_norm.weight": norm(n_embd), "output.weight": matrix(n_vocab, n_embd)}
    metadata = {
        "general.architecture": "llama",
        "general.name": "quantreg demo",
        "general.file_type": 1,
        "llama.block_count": n_layer,
        "llama.context_length": 2048,
        "llama.embedding_length": n_embd,
        "llama.feed_forward_length": n_ff,
        "llama.attention.head_count": n_head,
        "llama.attention.head_count_kv": n_head_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": n_vocab,
    }
    files.write(path, metadata, tensors, force=force)
    return sum(tensor.size for tensor in tensors.values())


def relative_error(path, other) -> float:
    """Root mean square error of all weights of `other` against `path`, as a share of their root mean square."""
    lost = total = 0.0
    with files.open(path) as a, files.open(other) as b:
        for name in a:
            x = a[name].dequantize()
            lost += float(np.square(x - b[name].dequantize(), dtype=np.float64).sum())
            total += float(np.square(x, dtype=np.float64).sum())
    return (lost / total) ** 0.5
