"""Make a small Llama-shaped F16 model to experiment with: random weights, realistic names, shapes and metadata."""

from os import PathLike

import numpy as np
from numpy.typing import NDArray

from quantreg import files, writing

__all__ = ["DEMO_TYPES", "make_model", "relative_error"]

DEMO_TYPES: tuple[str, ...] = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")


def make_model(
    path: str | bytes | PathLike[str],
    *,
    n_layer: int = 4,
    n_embd: int = 512,
    n_ff: int = 1536,
    n_vocab: int = 4096,
    n_head: int = 8,
    n_head_kv: int = 4,
    seed: int = 0,
    force: bool = False,
) -> int:
    """Write an F16 GGUF model with the tensors of a Llama of this size, and return its number of parameters.

    If ``n_vocab`` is at least 259, its tokens are bytes, so that the model can read any text. ``force`` replaces an
    existing file. Raises what `quantreg.write` raises.
    """
    rng = np.random.default_rng(seed)
    n_kv = n_embd // n_head * n_head_kv

    def matrix(rows: int, cols: int) -> NDArray[np.float16]:
        # Trained weights have heavier tails than a normal distribution, and rows of different scale.
        spread = np.exp(rng.normal(0, 0.3, (rows, 1))) * 0.5 / np.sqrt(cols)
        return (rng.standard_t(5, (rows, cols)) * spread).astype(np.float16)

    def norm(cols: int) -> NDArray[np.float32]:
        return rng.normal(1, 0.05, cols).astype(np.float32)

    tensors: dict[str, NDArray[np.float16] | NDArray[np.float32]] = {"token_embd.weight": matrix(n_vocab, n_embd)}
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
    metadata: dict[str, object] = {
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
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    if n_vocab >= len(tokens):
        unused = n_vocab - len(tokens)
        metadata |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [*tokens, *(f"<unused {i}>" for i in range(unused))],
            "tokenizer.ggml.scores": [0.0] * n_vocab,
            "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[5] * unused],  # unknown, control, byte, unused
            "tokenizer.ggml.add_space_prefix": False,
        }
    writing.write(path, metadata, tensors, force=force)
    return sum(tensor.size for tensor in tensors.values())


def relative_error(path: str | bytes | PathLike[str], other: str | bytes | PathLike[str]) -> float:
    """Return the root mean square error of the weights of ``other``, divided by the root mean square of ``path``'s.

    Both models must have the same tensors. Raises what `quantreg.open` raises.
    """
    lost = total = 0.0
    with files.open(path) as a, files.open(other) as b:
        for name in a:
            x = a[name].dequantize()
            lost += float(np.square(x - b[name].dequantize(), dtype=np.float64).sum())
            total += float(np.square(x, dtype=np.float64).sum())
    return (lost / total) ** 0.5
