"""DeepSeek: shared experts, latent attention (MLA), scaled rope."""

import numpy as np

from small_models import decoder, experts

ROPE, NOPE, VALUE, LATENT, QUERY = 16, 24, 32, 48, 40  # of a head: turned, not turned, values; ranks


def deepseek(name):
    """The first: usual attention, a dense layer first, experts and shared experts."""
    small = decoder(name, "deepseek", layers=3)
    experts(small, 8, 3, ff=32, shared=64, layers=(1, 2))
    small.keys(expert_shared_feed_forward_length=None, expert_shared_count=2, leading_dense_block_count=1)
    return small.keys(expert_weights_scale=1.5)


def deepseek2(name):
    """As DeepSeek V3: latent attention with the matrices apart, and experts in groups, chosen with a bias."""
    small = _latent(name)
    small.keys(expert_gating_func=2, expert_weights_norm=True, expert_weights_scale=2.5)
    small.keys(expert_group_count=4, expert_group_used_count=2)
    for block in small.blocks[1:]:
        small.vector(f"{block}exp_probs_b.bias", 8, -0.3, 0.3)
    return _yarn(small, 0.1)


def deepseek2_old(name):
    """The same attention with keys and values in one matrix, as in old files, and positions divided by a factor."""
    small = _whole(_latent(name)).keys(expert_weights_scale=1.5)
    return small.keys(**{"rope.scaling.type": "linear", "rope.scaling.factor": 3.0})


def deepseek2_lite(name):
    """As DeepSeek V2 Lite: queries of full rank, keys and values in one matrix."""
    small = _whole(_latent(name))
    for block in small.blocks:
        small.remove(f"{block}attn_q_")
        small.matrix(f"{block}attn_q", small.heads * (NOPE + ROPE), small.width)
    return _yarn(small.keys(**{"attention.q_lora_rank": 0}), 0.0707)


def deepseek2_temperature(name):
    """Queries that grow with the position, as Mistral Large 3 has it, and the gate in one matrix with up."""
    small = _latent(name).keys(**{"attention.temperature_scale": 0.5, "attention.temperature_length": 6})
    for block in small.blocks[1:]:
        gate, up = (small.tensors.pop(f"{block}ffn_{part}_exps.weight") for part in ("gate", "up"))
        small.tensors[f"{block}ffn_gate_up_exps.weight"] = np.concatenate((gate, up), axis=1)
    return small


def _latent(name, architecture="deepseek2", dense=False, **parts):
    small = decoder(name, architecture, layers=3, heads=4, heads_kv=1, ff=96, **parts)
    if not dense:
        experts(small, 8, 3, ff=32, shared=32, layers=(1, 2))
        small.keys(expert_shared_feed_forward_length=None, expert_shared_count=1, leading_dense_block_count=1)
    small.keys(**{"attention.q_lora_rank": QUERY, "attention.kv_lora_rank": LATENT, "rope.dimension_count": ROPE})
    small.keys(**{"attention.key_length": LATENT + ROPE, "attention.value_length": LATENT})
    small.keys(**{"attention.key_length_mla": NOPE + ROPE, "attention.value_length_mla": VALUE})
    for block in small.blocks:
        for part in ("q", "k", "v", "output"):
            small.remove(f"{block}attn_{part}.")
        small.matrix(f"{block}attn_q_a", QUERY, small.width)
        small.norm(f"{block}attn_q_a_norm", QUERY)
        small.matrix(f"{block}attn_q_b", small.heads * (NOPE + ROPE), QUERY)
        small.matrix(f"{block}attn_kv_a_mqa", LATENT + ROPE, small.width)
        small.norm(f"{block}attn_kv_a_norm", LATENT)
        small.matrix(f"{block}attn_k_b", small.heads, LATENT, NOPE)
        small.matrix(f"{block}attn_v_b", small.heads, VALUE, LATENT)
        small.matrix(f"{block}attn_output", small.width, small.heads * VALUE)
    return small


def _whole(small):
    small.keys(**{"attention.head_count_kv": small.heads})
    small.keys(**{"attention.key_length": NOPE + ROPE, "attention.value_length": VALUE})
    small.keys(**{"attention.key_length_mla": None, "attention.value_length_mla": None})
    for block in small.blocks:
        small.remove(f"{block}attn_k_b")
        small.remove(f"{block}attn_v_b")
        small.matrix(f"{block}attn_kv_b", small.heads * (NOPE + VALUE), LATENT)
    return small


def _yarn(small, multiplier):
    small.keys(**{"context_length": 4096, "rope.freq_base": 500.0, "rope.scaling.type": "yarn"})
    small.keys(**{"rope.scaling.factor": 40.0, "rope.scaling.original_context_length": 512})
    return small.keys(**{"rope.scaling.yarn_log_multiplier": multiplier})


def mistral4(name):
    """YaRN leaves a part of its magnitude to the rotated values."""
    small = _yarn(_latent(name, "mistral4"), 0.05)
    return small.keys(**{"attention.temperature_scale": 0.5, "attention.temperature_length": 6})


def minicpm3(name):
    """Factors for short contexts, and constants that scale embeddings, residuals and logits."""
    small = _whole(_latent(name, "minicpm3", dense=True)).keys(context_length=4096)
    small.vector("rope_factors_long.weight", ROPE // 2, 2, 9)
    small.vector("rope_factors_short.weight", ROPE // 2, 1, 3)
    return small


def plm(name):
    small = _whole(_latent(name, "plm", dense=True, tied=True, gated=False))
    for block in small.blocks:
        small.remove(f"{block}attn_q_")
        small.matrix(f"{block}attn_q", small.heads * (NOPE + ROPE), small.width)
    return small.keys(**{"attention.q_lora_rank": None})


def kimi_linear(name):
    """Latent attention without rope between layers of a delta net."""
    small = _latent(name, "kimi-linear").keys(**{"attention.head_count_kv": [0, 1, 0], "attention.q_lora_rank": None})
    small.keys(**{"ssm.conv_kernel": 4, "kda.head_dim": 16, "expert_gating_func": 2, "expert_weights_scale": 2.0})
    inner = 16 * small.heads
    for i, block in enumerate(small.blocks):
        if i:
            small.vector(f"{block}exp_probs_b.bias", 8, -0.4, 0.4)
        small.remove(f"{block}attn_q_")
        if i == 1:
            small.matrix(f"{block}attn_q", small.heads * (NOPE + ROPE), small.width)
            continue
        small.remove(f"{block}attn_k")
        small.remove(f"{block}attn_v")
        for part in "qkv":
            small.matrix(f"{block}attn_{part}", inner, small.width)
            small.matrix(f"{block}ssm_conv1d_{part}", inner, 1, 4)
        for part in "fg":
            small.matrix(f"{block}ssm_{part}_a", 16, small.width)
            small.matrix(f"{block}ssm_{part}_b", inner, 16)
        small.matrix(f"{block}ssm_beta", small.heads, small.width)
        small.vector(f"{block}ssm_dt.bias", inner, -3, 1)
        small.vector(f"{block}ssm_a", small.heads, -1.5, -0.05)
        small.tensors[f"{block}ssm_a"] = small.tensors[f"{block}ssm_a"].reshape(-1, 1)
        small.norm(f"{block}ssm_norm", 16)
        small.matrix(f"{block}attn_output", small.width, inner)
    return small


MODELS = {
    "kimi-linear": kimi_linear,
    "mistral4": mistral4,
    "minicpm3": minicpm3,
    "plm": plm,
    "deepseek": deepseek,
    "deepseek2": deepseek2,
    "deepseek2-old": deepseek2_old,
    "deepseek2-lite": deepseek2_lite,
    "deepseek2-temperature": deepseek2_temperature,
}
