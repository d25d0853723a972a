"""Small models with layer norms and gated feed-forward networks: Command R and StableLM."""

from support.small_models.layers import Layers

__all__ = ["MODELS"]


def _parallel(m, *, norm_bias=False, head_norms=False):
    """Attention and feed-forward read the same norm."""
    m.embedding()
    m.norm("output_norm", m.width, bias=norm_bias)
    for block in m.blocks:
        m.norm(f"{block}.attn_norm", m.width, bias=norm_bias)
        m.attention(block)
        if head_norms:
            m.norm(f"{block}.attn_q_norm", m.heads, m.head)
            m.norm(f"{block}.attn_k_norm", m.kv_heads, m.head)
        m.feed_forward(block, gate=True)
    return m


def command_r():
    return _parallel(Layers("command-r", kv_heads=2, logit_scale=0.25)).model


def command_r_plus():
    """Norms of each head with weights of its own, which the reference reads in models of 64 layers and more."""
    m = Layers("command-r", layers=64, width=32, kv_heads=2, hidden=32)
    return _parallel(m, head_norms=True).model


def cohere2():
    """Three of four layers see a window and rotate; the fourth sees everything, without positions."""
    m = Layers("cohere2", layers=5, kv_heads=2, logit_scale=0.25, attention__sliding_window=5)
    return _parallel(m).model


def stablelm():
    """One after the other, biases of queries, keys and values, and a quarter of a head rotated."""
    m = Layers("stablelm", kv_heads=2, rope__dimension_count=4)
    m.embedding()
    m.output()
    m.norm("output_norm", m.width, bias=True)
    for block in m.blocks:
        m.norm(f"{block}.attn_norm", m.width, bias=True)
        m.attention(block, bias=True)
        m.norm(f"{block}.ffn_norm", m.width, bias=True)
        m.feed_forward(block, gate=True)
    return m.model


def stablelm_12b():
    """Side by side, with norms of each head."""
    m = _parallel(Layers("stablelm", kv_heads=2, rope__dimension_count=4), norm_bias=True, head_norms=True)
    m.output()
    return m.model


MODELS = {
    "command-r": command_r,
    "command-r-plus": command_r_plus,
    "cohere2": cohere2,
    "stablelm": stablelm,
    "stablelm-12b": stablelm_12b,
}
