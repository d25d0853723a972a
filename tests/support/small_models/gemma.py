"""Small models of the Gemma family: the embedding is scaled, norms stand on both sides, and layers see windows."""

from support.small_models.layers import Layers

__all__ = ["MODELS"]


def gemma():
    m = Layers("gemma", kv_heads=1, head=24, rms=True)
    m.embedding(spread=0.25)
    m.norm("output_norm", m.width)
    for block in m.blocks:
        m.norm(f"{block}.attn_norm", m.width)
        m.attention(block)
        m.norm(f"{block}.ffn_norm", m.width)
        m.feed_forward(block, gate=True)
    return m.model


def _with_norms_on_both_sides(m, *, head_norms=False, gain=1.6):
    m.embedding(spread=0.25)
    m.norm("output_norm", m.width)
    for block in m.blocks:
        m.norm(f"{block}.attn_norm", m.width)
        m.attention(block, gain=gain)
        if head_norms:
            m.norm(f"{block}.attn_q_norm", m.head)
            m.norm(f"{block}.attn_k_norm", m.head)
        m.norm(f"{block}.post_attention_norm", m.width)
        m.norm(f"{block}.ffn_norm", m.width)
        m.feed_forward(block, gate=True)
        m.norm(f"{block}.post_ffw_norm", m.width)


def gemma2():
    """Caps that bend most scores and logits, and a window of 5 in every second layer."""
    m = Layers(
        "gemma2", layers=4, kv_heads=2, head=24, rms=True,
        attention__sliding_window=5, attn_logit_softcapping=2.0, final_logit_softcapping=1.5,
    )  # fmt: skip
    _with_norms_on_both_sides(m)
    return m.model


def gemma2_27b():
    """As many layers as the 27 B model, which alone scales its scores by the width of a head that it has not."""
    m = Layers("gemma2", layers=46, width=32, heads=2, head=24, hidden=32, rms=True, attention__sliding_window=5)
    _with_norms_on_both_sides(m, gain=2.5)
    return m.model


def gemma3():
    """Two bases of the rotation, and a scale of it only in the layers that see everything (every sixth)."""
    m = Layers(
        "gemma3", layers=7, kv_heads=2, head=24, rms=True,
        attention__sliding_window=5, rope__freq_base=1000.0, rope__scaling__type="linear", rope__scaling__factor=8.0,
    )  # fmt: skip
    _with_norms_on_both_sides(m, head_norms=True)
    return m.model


def gemma3_27b():
    m = Layers(
        "gemma3", layers=62, width=32, heads=2, head=24, hidden=32, rms=True,
        attention__sliding_window=5, attention__sliding_window_pattern=[i % 3 > 0 for i in range(62)],
        rope__freq_base=1000.0, rope__freq_base_swa=100.0,
    )  # fmt: skip
    _with_norms_on_both_sides(m, head_norms=True)
    return m.model


def gemma3_pattern():
    m = Layers(
        "gemma3", layers=4, head=24, rms=True,
        attention__sliding_window=5, attention__sliding_window_pattern=2, rope__freq_base_swa=100.0,
    )  # fmt: skip
    _with_norms_on_both_sides(m, head_norms=True)
    return m.model


def gemma3_whole():
    """No window, an output matrix of its own, and a cap on the logits."""
    m = Layers("gemma3", kv_heads=2, head=24, rms=True, final_logit_softcapping=1.5)
    _with_norms_on_both_sides(m, head_norms=True)
    m.output()
    return m.model


MODELS = {
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma2-27b": gemma2_27b,
    "gemma3": gemma3,
    "gemma3-27b": gemma3_27b,
    "gemma3-pattern": gemma3_pattern,
    "gemma3-whole": gemma3_whole,
}
