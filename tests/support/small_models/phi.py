"""Small models of the Phi family: fused matrices, part of a head rotated, and factors for long texts."""

import numpy as np
from support.small_models.layers import Layers

__all__ = ["MODELS"]


def phi2(*, fused=False):
    """Attention and feed-forward read the same norm, and the logits have a bias."""
    m = Layers("phi2", rope__dimension_count=8)
    m.embedding()
    m.norm("output_norm", m.width, bias=True)
    m.output(bias=True)
    for block in m.blocks:
        m.norm(f"{block}.attn_norm", m.width, bias=True)
        m.attention(block, fused=fused, bias=True, output_bias=True)
        m.feed_forward(block, bias=True)
    return m.model


def phi2_fused():
    return phi2(fused=True)


def _phi3(*, tied=False, **keys):
    m = Layers("phi3", kv_heads=2, rms=True, **keys)
    m.embedding()
    m.norm("output_norm", m.width)
    if not tied:
        m.output()
    for block in m.blocks:
        m.norm(f"{block}.attn_norm", m.width)
        m.attention(block, fused=True)
        m.norm(f"{block}.ffn_norm", m.width)
        m.feed_forward(block, fused=True)
    return m


def phi3():
    """The key of a window, which the reference does not obey in this architecture."""
    return _phi3(attention__sliding_window=5).model


def phi3_tied():
    return _phi3(tied=True, rope__dimension_count=12).model


def _with_factors(m, rotated):
    for name in ("long", "short"):
        m.tensors[f"rope_factors_{name}.weight"] = m.random.uniform(1, 4, rotated // 2).astype(np.float32)


def phi3_short():
    """Factors of the rotation for texts that are no longer than the original context, and a scale of it."""
    m = _phi3(
        rope__dimension_count=12, rope__scaling__attn_factor=1.2, rope__scaling__original_context_length=4096,
        context=16384,
    )  # fmt: skip
    _with_factors(m, 12)
    return m.model


def phi3_long():
    """The other factors, because the text is longer than the original context."""
    m = _phi3(rope__scaling__attn_factor=1.2, rope__scaling__original_context_length=8)
    _with_factors(m, 16)
    return m.model


def phimoe():
    """Norms and matrices with biases, and two of four experts."""
    m = Layers("phimoe", kv_heads=2, rms=True, expert_count=4, expert_used_count=2)
    m.embedding()
    m.norm("output_norm", m.width, bias=True)
    m.output(bias=True)
    for block in m.blocks:
        m.norm(f"{block}.attn_norm", m.width, bias=True)
        m.attention(block, bias=True, output_bias=True)
        m.norm(f"{block}.ffn_norm", m.width, bias=True)
        m.experts(block, 4)
    return m.model


MODELS = {
    "phi2": phi2,
    "phi2-fused": phi2_fused,
    "phi3": phi3,
    "phi3-tied": phi3_tied,
    "phi3-short": phi3_short,
    "phi3-long": phi3_long,
    "phimoe": phimoe,
}
