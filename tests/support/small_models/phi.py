"""The Phi family: fused matrices, part of each head rotated, factors for long texts."""

from small_models import decoder, experts


def phi2(name, *, fused_qkv=False):
    """Attention and feed-forward network read the same norm, and the logits have a bias."""
    small = decoder(
        name, "phi2", rms=False, norm_bias=True, qkv_bias=True, output_bias=True, ff_bias=True, gated=False,
        fused_qkv=fused_qkv, layers=3, heads_kv=4,
    )  # fmt: skip
    small.remove(".ffn_norm.")
    small.bias("output", small.vocab)
    return small.keys(**{"rope.dimension_count": 8})


def phi2_fused(name):
    return phi2(name, fused_qkv=True)


def phi3(name, **sizes):
    """The key of a window, which the reference ignores in this architecture."""
    small = decoder(name, "phi3", gated=False, fused_qkv=True, layers=3, **sizes)
    for block in small.blocks:  # the gate stands in the first half
        small.matrix(f"{block}ffn_up", 2 * small.ff, small.width)
    return small.keys(**{"attention.sliding_window": 5})


def phi3_tied(name):
    return phi3(name, tied=True).keys(**{"rope.dimension_count": 12})


def _with_factors(small, rotated):
    small.vector("rope_factors_long.weight", rotated // 2, 1, 8)
    small.vector("rope_factors_short.weight", rotated // 2, 1, 4)
    return small.keys(**{"rope.dimension_count": rotated, "rope.scaling.attn_factor": 1.2})


def phi3_short(name):
    """The factors for texts that are no longer than the original context."""
    small = _with_factors(phi3(name), 12)
    return small.keys(context_length=16384, **{"rope.scaling.original_context_length": 4096})


def phi3_long(name):
    """The factors for longer texts."""
    return _with_factors(phi3(name), 16).keys(**{"rope.scaling.original_context_length": 8})


def phimoe(name):
    """Biases, and two of four experts."""
    small = decoder(name, "phimoe", norm_bias=True, qkv_bias=True, output_bias=True)
    small.bias("output", small.vocab)
    return experts(small, 4)


MODELS = {
    "phi2": phi2,
    "phi2-fused": phi2_fused,
    "phi3": phi3,
    "phi3-tied": phi3_tied,
    "phi3-short": phi3_short,
    "phi3-long": phi3_long,
    "phimoe": phimoe,
}
