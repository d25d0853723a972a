"""Models of small families, and what a model of any family may have."""

from small_models import decoder, experts


def chatglm(name):
    """One matrix for the gate and what it opens, and half of each head rotated."""
    small = decoder(name, "chatglm", gated=False, fused_qkv=True, qkv_bias=True, layers=3)
    for block in small.blocks:
        small.matrix(f"{block}ffn_up", 2 * small.ff, small.width)
    return small.keys(**{"rope.dimension_count": 8})


def qwen(name):
    """The first Qwen: the key for the feed-forward length says twice what it is."""
    return decoder(name, "qwen", fused_qkv=True, qkv_bias=True, heads_kv=4).keys(feed_forward_length=192)


def plamo(name):
    """Both halves of a layer read the same RMS norm."""
    small = decoder(name, "plamo", layers=3)
    small.remove(".ffn_norm.")
    return small


def openelm(name):
    """Another number of heads and another length of the feed-forward network in each layer."""
    small = decoder(name, "openelm", layers=3, tied=True, fused_qkv=True, head=16)
    heads, kv, ff = [2, 4, 6], [1, 2, 3], [64, 96, 128]
    for block, h, k, f in zip(small.blocks, heads, kv, ff, strict=True):
        small.matrix(f"{block}attn_qkv", (h + 2 * k) * small.head, small.width)
        small.norm(f"{block}attn_q_norm", small.head)
        small.norm(f"{block}attn_k_norm", small.head)
        small.matrix(f"{block}attn_output", small.width, h * small.head)
        small.matrix(f"{block}ffn_gate", f, small.width)
        small.matrix(f"{block}ffn_up", f, small.width)
        small.matrix(f"{block}ffn_down", small.width, f)
    keys = {"attention.head_count": heads, "attention.head_count_kv": kv, "feed_forward_length": ff}
    return small.keys(**keys, **{"attention.key_length": 16, "attention.value_length": 16})


def dbrx(name):
    """Layer norms without biases, clamped queries, keys and values, and experts."""
    small = decoder(name, "dbrx", rms=False, fused_qkv=True)
    for block in small.blocks:
        small.norm(f"{block}attn_output_norm", small.width)
    small.remove(".ffn_norm.")
    return experts(small, 4).keys(**{"attention.clamp_kqv": 1.0})


def jais2(name):
    """Layer norms, rotations and the square of ReLU."""
    options = {"norm_bias": True, "qkv_bias": True, "output_bias": True, "ff_bias": True}
    return decoder(name, "jais2", rms=False, gated=False, **options)


def apertus(name):
    """An activation with parameters in the metadata, xIELU, and norms of queries and keys."""
    small = decoder(name, "apertus", gated=False, layers=3)
    for block in small.blocks:
        small.norm(f"{block}attn_q_norm", small.head)
        small.norm(f"{block}attn_k_norm", small.head)
    keys = {"xielu.alpha_n": [0.8, 0.5, 1.1], "xielu.alpha_p": [0.2, 0.6, -0.3]}
    small.metadata |= keys | {"xielu.beta": [0.5, 0.5, 0.4], "xielu.eps": [-1e-6] * 3}
    return small


def bitnet(name):
    """Norms before the last matrix of each half, and a scale for each matrix."""
    small = decoder(name, "bitnet", tied=True)
    for block in small.blocks:
        small.norm(f"{block}attn_sub_norm", small.heads * small.head)
        small.norm(f"{block}ffn_sub_norm", small.ff)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            small.vector(f"{block}{part}.scale", 1, 0.5, 2)
    return small


def _routed(name, architecture, *, shared=1, dense=1, **options):
    """Norms of queries and keys, dense layers first, and a bias that only chooses experts."""
    small = decoder(name, architecture, layers=3, **options)
    experts(small, 8, 3, ff=48, shared=48 * shared or None, layers=range(dense, 3))
    small.keys(expert_shared_feed_forward_length=None, expert_shared_count=shared or None)
    small.keys(leading_dense_block_count=dense, expert_gating_func=2, expert_weights_scale=1.5)
    for block in small.blocks:
        small.norm(f"{block}attn_q_norm", small.head)
        small.norm(f"{block}attn_k_norm", small.head)
        if f"{block}ffn_gate_inp.weight" in small.tensors:
            small.vector(f"{block}exp_probs_b.bias", 8, -0.3, 0.3)
    return small


def llama_scales(name):
    """A scale for the matrix of each expert, as models in NVFP4 have."""
    small = experts(decoder(name, "llama"))
    for block in small.blocks:
        small.vector(f"{block}attn_v.scale", 1, 0.5, 2)
        for part in ("gate", "up", "down"):
            small.vector(f"{block}ffn_{part}_exps.scale", 8, 0.5, 2)
    return small


MODELS = {
    "chatglm": chatglm,
    "qwen": qwen,
    "plamo": plamo,
    "openelm": openelm,
    "dbrx": dbrx,
    "jais2": jais2,
    "apertus": apertus,
    "bitnet": bitnet,
    "llama-scales": llama_scales,
}
