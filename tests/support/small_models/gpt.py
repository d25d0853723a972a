"""Small models with layer norms and GELU: learned positions, slopes or rotations; one residual or two."""

from support.small_models.layers import Layers

__all__ = ["MODELS"]


def _gpt(m, *, bias=True, norm_bias=True, ffn_norm=True, fused=True, positions=False, output=False, gate=False):
    m.embedding()
    if positions:
        m.positions()
    m.norm("output_norm", m.width, bias=norm_bias)
    if output:
        m.output()
    for block in m.blocks:
        m.norm(f"{block}.attn_norm", m.width, bias=norm_bias)
        m.attention(block, fused=fused, bias=bias, output_bias=bias)
        if ffn_norm:
            m.norm(f"{block}.ffn_norm", m.width, bias=norm_bias)
        m.feed_forward(block, bias=bias, gate=gate)
    return m


def gpt2():
    return _gpt(Layers("gpt2"), positions=True).model


def gpt2_output():
    return _gpt(Layers("gpt2"), positions=True, output=True).model


def starcoder():
    """One head of keys for all queries."""
    return _gpt(Layers("starcoder", kv_heads=1), positions=True).model


def starcoder2():
    return _gpt(Layers("starcoder2", kv_heads=2, rope__freq_base=1000.0), fused=False, output=True).model


def codeshell():
    return _gpt(Layers("codeshell", kv_heads=2), output=True).model


def gptneox():
    """Attention and feed-forward side by side, each with its own norm, and a quarter of a head rotated."""
    return _gpt(Layers("gptneox", use_parallel_residual=True, rope__dimension_count=4), output=True).model


def gptneox_sequential():
    return _gpt(Layers("gptneox", use_parallel_residual=False, rope__dimension_count=8), output=True).model


def falcon_7b():
    """One norm before both, one head of keys, no bias but those of the norms."""
    return _gpt(Layers("falcon", kv_heads=1), bias=False, ffn_norm=False).model


def falcon_40b():
    """A second norm, which attention alone reads."""
    m = _gpt(Layers("falcon", kv_heads=2), bias=False, ffn_norm=False, output=True)
    for block in m.blocks:
        m.norm(f"{block}.attn_norm_2", m.width, bias=True)
    return m.model


def bloom():
    """Slopes instead of rotations, and a norm of the embedding."""
    m = _gpt(Layers("bloom"))
    m.norm("token_embd_norm", m.width, bias=True)
    return m.model


def mpt():
    """Six heads, of which the last two have slopes between those of the first four; clamped queries, keys, values."""
    m = Layers("mpt", width=48, heads=6, attention__max_alibi_bias=8.0, attention__clamp_kqv=1.5)
    return _gpt(m, bias=False, norm_bias=False).model


def mpt_biased():
    """What an MPT model may have besides: biases, learned positions and scales after GELU."""
    m = _gpt(Layers("mpt"), positions=True, output=True)
    for block in m.blocks:
        m.add(f"{block}.ffn.act.scales", m.hidden, middle=1.0, spread=0.2)
    return m.model


def refact():
    """Slopes in a model that is otherwise of Llama's kind."""
    m = Layers("refact", kv_heads=1, rms=True)
    return _gpt(m, bias=False, norm_bias=False, fused=False, gate=True).model


def jais():
    """Scores divided by the width of a head, not by its root."""
    m = Layers("jais", attention__max_alibi_bias=8.0)
    return _gpt(m, gate=True, output=True).model


def nemotron():
    """The square of ReLU, and half of a head rotated."""
    m = Layers("nemotron", kv_heads=2, rope__dimension_count=8)
    return _gpt(m, bias=False, fused=False, output=True).model


MODELS = {
    "gpt2": gpt2,
    "gpt2-output": gpt2_output,
    "starcoder": starcoder,
    "starcoder2": starcoder2,
    "codeshell": codeshell,
    "gptneox": gptneox,
    "gptneox-sequential": gptneox_sequential,
    "falcon-7b": falcon_7b,
    "falcon-40b": falcon_40b,
    "bloom": bloom,
    "mpt": mpt,
    "mpt-biased": mpt_biased,
    "refact": refact,
    "jais": jais,
    "nemotron": nemotron,
}
