"""Mixtures of experts with routers and layers of their own."""

from small_models import decoder, experts


def dots1(name):
    """A dense layer first, a bias that chooses, a shared expert."""
    small = _mixture(name, "dots1", heads_kv=4)
    return small.keys(expert_weights_scale=1.5, expert_weights_norm=True)


def bailingmoe2(name):
    """Groups of experts, and one matrix for queries, keys and values."""
    small = _mixture(name, "bailingmoe2", fused_qkv=True, head=16)
    return small.keys(expert_group_count=4, expert_group_used_count=2, expert_weights_scale=2.0)


def minimax_m2(name):
    """Norms over all heads together, and rope that turns a part of each head."""
    small = decoder(name, "minimax-m2", layers=2, head=32, ff=32).keys(**{"rope.dimension_count": 16})
    experts(small, 8, 3, ff=32).keys(expert_gating_func=2)
    for block in small.blocks:
        small.norm(f"{block}attn_q_norm", small.heads * small.head)
        small.norm(f"{block}attn_k_norm", small.heads_kv * small.head)
        small.vector(f"{block}exp_probs_b.bias", 8, -0.4, 0.4)
    return small


def exaone_moe(name):
    """Rope only in layers with a window."""
    small = _mixture(name, "exaone-moe").keys(**{"attention.sliding_window": 6, "rope.freq_base": 500.0})
    return small.keys(**{"attention.sliding_window_pattern": 2}, expert_weights_norm=True)


def afmoe(name):
    """A gate of the output of attention, norms after both halves, no rope in every fourth layer, a window elsewhere."""
    small = _mixture(name, "afmoe", layers=4, head=32).keys(**{"attention.sliding_window": 6})
    small.keys(**{"rope.freq_base": 5000.0, "rope.freq_base_swa": 500.0, "attention.sliding_window_pattern": 3})
    small.keys(expert_weights_scale=1.5, expert_weights_norm=True, expert_gating_func=None)
    for block in small.blocks:
        small.matrix(f"{block}attn_gate", small.heads * small.head, small.width)
        small.norm(f"{block}post_attention_norm", small.width)
        small.norm(f"{block}post_ffw_norm", small.width)
    return small


def smallthinker(name):
    """The router looks at what goes into the layer; no rope in every fourth layer, the first of them."""
    small = experts(decoder(name, "smallthinker", layers=3), 8, 3, ff=32).keys(expert_gating_func=2)
    return small.keys(**{"attention.sliding_window": 4096, "rope.freq_base": 5000.0, "rope.freq_base_swa": 500.0})


def smallthinker_whole(name):
    """No windows, and so rope in all layers."""
    return experts(decoder(name, "smallthinker", layers=3), 8, 3, ff=32).keys(expert_gating_func=1)


def mimo2(name):
    """Keys longer than values, sinks in layers with a window, which have other numbers of heads for keys."""
    small = decoder(name, "mimo2", layers=3, head=32, heads_kv=2)
    experts(small, 8, 3, ff=32, layers=(1, 2))
    small.keys(**{"attention.value_length": 16, "attention.head_count_kv": [2, 1, 1], "rope.dimension_count": 16})
    small.keys(**{"attention.sliding_window": 6, "attention.sliding_window_pattern": [False, True, True]})
    small.keys(**{"rope.freq_base": 5000.0, "rope.freq_base_swa": 500.0, "attention.value_scale": 0.6})
    small.keys(**{"rope.scaling.type": "linear", "rope.scaling.factor": 2.0})
    for i, block in enumerate(small.blocks):
        kv = 1 if i else 2
        small.matrix(f"{block}attn_k", 32 * kv, small.width)
        small.matrix(f"{block}attn_v", 16 * kv, small.width)
        small.matrix(f"{block}attn_output", small.width, 16 * small.heads)
        if i:
            small.vector(f"{block}attn_sinks.weight", small.heads, -2, 3)
            small.vector(f"{block}exp_probs_b.bias", 8, -0.4, 0.4)
    return small


def _mixture(name, architecture, layers=3, **parts):
    small = decoder(name, architecture, layers=layers, **parts).keys(expert_gating_func=2)
    experts(small, 8, 3, ff=32, shared=32, layers=range(1, layers))
    small.keys(expert_shared_feed_forward_length=None, expert_shared_count=1, leading_dense_block_count=1)
    for i, block in enumerate(small.blocks):
        small.norm(f"{block}attn_q_norm", small.head)
        small.norm(f"{block}attn_k_norm", small.head)
        if i:
            small.vector(f"{block}exp_probs_b.bias", 8, -0.4, 0.4)
    return small


MODELS = {
    "mimo2": mimo2,
    "dots1": dots1,
    "bailingmoe2": bailingmoe2,
    "minimax-m2": minimax_m2,
    "exaone-moe": exaone_moe,
    "afmoe": afmoe,
    "smallthinker": smallthinker,
    "smallthinker-whole": smallthinker_whole,
}
