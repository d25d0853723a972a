"""Models with layer norms and gates: Command R and StableLM."""

from small_models import decoder


def _cohere(name, architecture, *, norm_bias=False, head_norms=False, tied=True, **sizes):
    """Attention and feed-forward network read the same norm."""
    small = decoder(name, architecture, rms=False, norm_bias=norm_bias, tied=tied, **sizes)
    small.remove(".ffn_norm.")
    for block in small.blocks if head_norms else ():  # each head has weights of its own
        for part, heads in (("q", small.heads), ("k", small.heads_kv)):
            small.norm(f"{block}attn_{part}_norm", heads * small.head)
            weight = f"{block}attn_{part}_norm.weight"
            small.tensors[weight] = small.tensors[weight].reshape(heads, small.head)
    return small


def command_r(name):
    return _cohere(name, "command-r", layers=3).keys(logit_scale=0.25)


def command_r_plus(name):
    """Norms of queries and keys, which the reference reads in models of 64 layers or more."""
    return _cohere(name, "command-r", layers=64, width=32, ff=32, head_norms=True)


def cohere2(name):
    """Three of four layers have a window and rotate; the fourth sees everything, without positions."""
    return _cohere(name, "cohere2", layers=5).keys(logit_scale=0.25, **{"attention.sliding_window": 5})


def stablelm(name):
    """One half after the other, biases of queries, keys and values, and a quarter of each head rotated."""
    small = decoder(name, "stablelm", rms=False, norm_bias=True, qkv_bias=True, layers=3)
    return small.keys(**{"rope.dimension_count": 4})


def stablelm_12b(name):
    """Both halves side by side, and norms of queries and keys."""
    small = _cohere(name, "stablelm", layers=3, norm_bias=True, head_norms=True, tied=False)
    return small.keys(**{"rope.dimension_count": 4})


MODELS = {
    "command-r": command_r,
    "command-r-plus": command_r_plus,
    "cohere2": cohere2,
    "stablelm": stablelm,
    "stablelm-12b": stablelm_12b,
}
