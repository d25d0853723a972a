"""Models with layer norms: learned positions, slopes or rotations; one residual or two."""

from small_models import decoder


def _gpt(name, architecture, *, bias=True, positions=False, **options):
    options = {"rms": False, "norm_bias": True, "gated": False, "fused_qkv": True, "layers": 3, **options}
    small = decoder(name, architecture, qkv_bias=bias, output_bias=bias, ff_bias=bias, **options)
    if positions:
        small.matrix("position_embd", 64, small.width, gain=0.7 * small.width**0.5)
    return small


def gpt2(name):
    return _gpt(name, "gpt2", positions=True, tied=True, heads_kv=4)


def gpt2_output(name):
    """An output matrix of its own."""
    return _gpt(name, "gpt2", positions=True, heads_kv=4)


def starcoder(name):
    """One head of keys for all queries."""
    return _gpt(name, "starcoder", positions=True, tied=True, heads_kv=1)


def starcoder2(name):
    return _gpt(name, "starcoder2", fused_qkv=False).keys(**{"rope.freq_base": 1000.0})


def starcoder2_fused(name):
    """One matrix for queries, keys and values, but a bias for each."""
    small = _gpt(name, "starcoder2", tied=True)
    for block in small.blocks:
        del small.tensors[f"{block}attn_qkv.bias"]
        for part, heads in (("q", small.heads), ("k", small.heads_kv), ("v", small.heads_kv)):
            small.bias(f"{block}attn_{part}", heads * small.head)
    return small


def codeshell(name):
    return _gpt(name, "codeshell")


def gptneox(name):
    """Attention and feed-forward network side by side, each with its own norm, and a quarter of each head rotated."""
    keys = {"use_parallel_residual": True, "rope.dimension_count": 4}
    return _gpt(name, "gptneox", heads_kv=4).keys(**keys)


def gptneox_sequential(name):
    keys = {"use_parallel_residual": False, "rope.dimension_count": 8}
    return _gpt(name, "gptneox", heads_kv=4).keys(**keys)


def falcon_7b(name):
    """One norm before both halves, one head of keys, and biases of norms only."""
    small = _gpt(name, "falcon", bias=False, heads_kv=1, tied=True)
    small.remove(".ffn_norm.")
    return small


def falcon_40b(name):
    """A second norm, which attention alone reads."""
    small = _gpt(name, "falcon", bias=False)
    small.remove(".ffn_norm.")
    for block in small.blocks:
        small.norm(f"{block}attn_norm_2", small.width, bias=True)
    return small


def bloom(name):
    """Slopes instead of rotations, and a norm of the embeddings."""
    small = _gpt(name, "bloom", tied=True, heads_kv=4)
    small.norm("token_embd_norm", small.width, bias=True)
    return small


def mpt(name):
    """Six heads, the last two with slopes between those of the first four; clamped queries, keys and values."""
    small = _gpt(name, "mpt", bias=False, norm_bias=False, tied=True, width=48, heads=6, heads_kv=6)
    return small.keys(**{"attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 1.0})


def mpt_biases(name):
    """What an MPT model may have besides: biases, learned positions and divisors after GELU."""
    small = _gpt(name, "mpt", positions=True)
    for block in small.blocks:
        small.vector(f"{block}ffn.act.scales", small.ff, 0.5, 2)
    return small


def refact(name):
    """Llama with slopes instead of rotations."""
    return decoder(name, "refact", heads_kv=1)


def jais(name):
    """Scores divided by the width of the heads, not by its root."""
    small = _gpt(name, "jais", gated=True, heads_kv=4)
    for block in small.blocks:  # so that scores are as large as in other models
        small.matrix(f"{block}attn_qkv", 3 * small.width, small.width, gain=2.8)
    return small.keys(**{"attention.max_alibi_bias": 8.0})


def nemotron(name):
    """The square of ReLU, and half of each head rotated."""
    return _gpt(name, "nemotron", bias=False, fused_qkv=False).keys(**{"rope.dimension_count": 8})


MODELS = {
    "gpt2": gpt2,
    "gpt2-output": gpt2_output,
    "starcoder": starcoder,
    "starcoder2": starcoder2,
    "starcoder2-fused": starcoder2_fused,
    "codeshell": codeshell,
    "gptneox": gptneox,
    "gptneox-sequential": gptneox_sequential,
    "falcon-7b": falcon_7b,
    "falcon-40b": falcon_40b,
    "bloom": bloom,
    "mpt": mpt,
    "mpt-biases": mpt_biases,
    "refact": refact,
    "jais": jais,
    "nemotron": nemotron,
}
