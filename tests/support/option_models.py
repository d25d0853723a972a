"""Small models for llama-quantize's options. Their bytes are the same on every machine, as the reference saw them."""

import small_model
from small_model import N_EMBD, noise

import quantreg
from quantreg.gguf import Value

N_EXPERT, N_LAYER = 8, 4


def write_models(folder):
    """Write all files that the command lines in golden/options.json use."""
    small_model.write_model(folder / "small.gguf")
    small_model.write_imatrix(folder / "small-imatrix.gguf")
    _write_mixture(folder / "moe.gguf", folder / "moe-imatrix.gguf")
    _write_tied(folder / "tied.gguf")
    # The first shard has only metadata, as gguf-split --no-tensor-first-split writes it.
    _write_shards(folder, "meta", [0, 20])
    _write_shards(folder, "in", [15, 15])
    quantreg.quantize_file(folder / "small.gguf", folder / "q8.gguf", "Q8_0")
    (folder / "types.txt").write_text("attn_v=q8_0 FFN_.*=q5_0\nattn_k=q6_k\n")


def _llama(n_layer, n_head_kv, **more):
    return {
        "general.architecture": "llama",
        "llama.block_count": n_layer,
        "llama.context_length": 64,
        "llama.embedding_length": N_EMBD,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": n_head_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": 32,
        "tokenizer.ggml.model": "no_vocab",
        **more,
    }


def _write_mixture(path, imatrix):
    """Write a model with stacks of experts in F16, and an imatrix where expert 1 saw no token and expert 0 few."""
    shapes = {"token_embd.weight": (32, N_EMBD), "output.weight": (32, N_EMBD), "output_norm.weight": (N_EMBD,)}
    for n in range(N_LAYER):
        shapes |= {
            f"blk.{n}.attn_q.weight": (64, N_EMBD),
            f"blk.{n}.attn_k.weight": (16, N_EMBD),
            f"blk.{n}.attn_v.weight": (16, N_EMBD),
            f"blk.{n}.attn_output.weight": (64, N_EMBD),
            f"blk.{n}.ffn_gate_inp.weight": (N_EXPERT, N_EMBD),
            f"blk.{n}.ffn_gate_exps.weight": (N_EXPERT, 8, N_EMBD),
            f"blk.{n}.ffn_up_exps.weight": (N_EXPERT, 8, N_EMBD),
            f"blk.{n}.ffn_down_exps.weight": (N_EXPERT, 8, N_EMBD),
        }
    tensors, entries = {}, {}
    for i, (name, shape) in enumerate(shapes.items()):
        x = noise(100 + i, shape) / 16
        tensors[name] = x if "norm" in name or "inp" in name else x.astype("float16")
        if "attn" in name or "exps" in name:
            counts = noise(0, (shape[0] if len(shape) == 3 else 1, 1)) * 0 + 16
            if len(counts) > 1:
                counts[:2] = [[5], [0]]
            entries[f"{name}.in_sum2"] = (noise(2000 + i, (len(counts), N_EMBD)) ** 2 + 0.125) * counts
            entries[f"{name}.counts"] = counts
    quantreg.write(path, _llama(N_LAYER, 2, **{"llama.expert_count": 8, "llama.expert_used_count": 2}), tensors)
    info = {
        "general.type": "imatrix",
        "imatrix.datasets": Value("array[string]", ["one.txt", "two.txt"]),
        "imatrix.chunk_count": 16,
        "imatrix.chunk_size": 512,
    }
    quantreg.write(imatrix, info, entries)


def _write_tied(path):
    """Write an F32 model of 16 layers without output.weight; neither 256 nor 32 divides all its row lengths."""
    shapes = {"token_embd.weight": (32, 288)}
    for n in range(16):
        shapes |= {
            f"blk.{n}.attn_q.weight": (8, 288),
            f"blk.{n}.attn_k.weight": (8, 288),
            f"blk.{n}.attn_v.weight": (8, 288),
            f"blk.{n}.attn_output.weight": (8, 40),
            f"blk.{n}.ffn_up.weight": (8, N_EMBD),
            f"blk.{n}.ffn_down.weight": (8, N_EMBD),
        }
    tensors = {name: noise(500 + i, shape) / 16 for i, (name, shape) in enumerate(shapes.items())}
    quantreg.write(path, _llama(16, 8), tensors)


def _write_shards(folder, prefix, sizes):
    """Write small.gguf as shards with this many tensors each, and one more shard for the rest."""
    tensors = list(small_model.tensors().items())
    groups = []
    for size in [*sizes, len(tensors)]:
        groups.append(dict(tensors[:size]))
        tensors = tensors[size:]
    total = sum(map(len, groups))
    for number, group in enumerate(groups):
        keys = {
            "split.no": Value("u16", number),
            "split.count": Value("u16", len(groups)),
            "split.tensors.count": Value("i32", total),
        }
        metadata = small_model.metadata() if number == 0 else {}
        quantreg.write(folder / f"{prefix}-0000{number + 1}-of-0000{len(groups)}.gguf", metadata | keys, group)
