"""Qwen 3.5 and Qwen3-Next: layers of a gated delta net between layers of gated attention."""

import numpy as np

from small_models import decoder, experts

HEAD, KEYS, VALUES, KERNEL = 16, 2, 4, 4  # the delta net: length of a head, heads of keys and of values, convolution


def qwen35(name):
    return _hybrid(name, "qwen35", ("attn_qkv", "attn_gate", "ssm_alpha", "ssm_beta"))


def qwen35_fused(name):
    """One matrix for queries with gates, keys and values."""
    small = qwen35(name)
    parts = [small.tensors.pop(f"{small.blocks[1]}attn_{part}.weight") for part in "qkv"]
    small.tensors[f"{small.blocks[1]}attn_qkv.weight"] = np.concatenate(parts)
    return small


def qwen35moe(name):
    """With experts, and a shared expert that has a gate of its own."""
    small = _hybrid(name, "qwen35moe", ("attn_qkv", "attn_gate", "ssm_alpha", "ssm_beta"))
    return _experts(small.keys(**{"attention.recurrent_layers": [True, False, True]}))


def qwen3next(name):
    return _experts(_hybrid(name, "qwen3next", ("attn_qkv", "attn_gate", "ssm_ba")))


def qwen3next_old(name):
    """The inputs of the delta net in one matrix, mixed by heads, as old files have them."""
    return _experts(_hybrid(name, "qwen3next", ("ssm_in", "ssm_ba")))


def _experts(small):
    experts(small, 8, 3, ff=32, shared=64)
    for block in small.blocks:
        small.matrix(f"{block}ffn_gate_inp_shexp", small.width)
    return small


def _hybrid(name, architecture, inputs):
    small = decoder(name, architecture, layers=3, head=32)
    small.keys(**{"rope.dimension_count": 16, "full_attention_interval": 2, "rope.freq_base": 500.0})
    if architecture != "qwen3next":
        small.keys(**{"rope.dimension_sections": [3, 3, 2, 0]})
    small.keys(**{"ssm.conv_kernel": KERNEL, "ssm.inner_size": HEAD * VALUES, "ssm.state_size": HEAD})
    small.keys(**{"ssm.time_step_rank": VALUES, "ssm.group_count": KEYS})
    keys, values = HEAD * KEYS, HEAD * VALUES
    rows = {"attn_qkv": 2 * keys + values, "attn_gate": values, "ssm_alpha": VALUES, "ssm_beta": VALUES}
    rows |= {"ssm_ba": 2 * VALUES, "ssm_in": 2 * keys + 2 * values}
    for i, block in enumerate(small.blocks):
        small.tensors[f"{block}post_attention_norm.weight"] = small.tensors.pop(f"{block}ffn_norm.weight")
        if i == 1:
            small.matrix(f"{block}attn_q", 2 * small.heads * small.head, small.width)
            small.norm(f"{block}attn_q_norm", small.head)
            small.norm(f"{block}attn_k_norm", small.head)
            continue
        small.remove(f"{block}attn_q.")
        small.remove(f"{block}attn_k.")
        small.remove(f"{block}attn_v.")
        small.remove(f"{block}attn_output.")
        for part in inputs:
            small.matrix(f"{block}{part}", rows[part], small.width)
        small.matrix(f"{block}ssm_conv1d", 2 * keys + values, KERNEL)
        small.vector(f"{block}ssm_dt.bias", VALUES, -2, 1)
        small.vector(f"{block}ssm_a", VALUES, -1.5, -0.05)
        small.norm(f"{block}ssm_norm", HEAD)
        small.matrix(f"{block}ssm_out", small.width, values)
    return small


MODELS = {
    "qwen35": qwen35,
    "qwen35-fused": qwen35_fused,
    "qwen35moe": qwen35moe,
    "qwen3next": qwen3next,
    "qwen3next-old": qwen3next_old,
}
