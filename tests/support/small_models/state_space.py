"""Mamba, Mamba 2, and models with layers of them."""

from small_models import decoder, experts

INNER, SIZE, HEADS, GROUPS, KERNEL, RANK = 128, 16, 8, 2, 4, 8  # RANK: of the steps of Mamba


def mamba(name):
    small = _without_attention(decoder(name, "mamba", layers=2, tied=True))
    for block in small.blocks:
        _mamba(small, block)
    return small


def mamba_normed(name):
    """Falcon Mamba: norms without weights of what goes into the state space."""
    return mamba(name).keys(**{"ssm.dt_b_c_rms": True})


def mamba2(name):
    small = _without_attention(decoder(name, "mamba2", layers=2))
    for block in small.blocks:
        _mamba2(small, block)
    return small


def jamba(name):
    """Mamba with norms, attention without rope, and experts in the middle."""
    small = experts(_hybrid(name, "jamba", _mamba), 8, 3, layers=(1,))
    for block in (small.blocks[0], small.blocks[2]):
        small.norm(f"{block}ssm_dt_norm", RANK)
        small.norm(f"{block}ssm_b_norm", SIZE)
        small.norm(f"{block}ssm_c_norm", SIZE)
    return small


def granite_hybrid(name):
    small = _hybrid(name, "granitehybrid", _mamba2)
    small.keys(embedding_scale=3.0, residual_scale=0.4, logit_scale=2.0, **{"attention.scale": 0.2})
    return small.keys(**{"rope.freq_base": 500.0})


def granite_hybrid_experts(name):
    """No rope, and experts beside a shared one."""
    small = experts(_hybrid(name, "granitehybrid", _mamba2), 8, 3, shared=48)
    return small.keys(**{"rope.scaling.finetuned": False})


def nemotron_h(name):
    """Each layer is one part only."""
    return _one_part(name, "nemotron_h")


def nemotron_h_moe(name):
    small = _one_part(name, "nemotron_h_moe").keys(expert_weights_norm=True, expert_weights_scale=2.5)
    return _experts(small, small.width)


def nemotron_h_latent(name):
    """Experts that see a shorter form of the hidden state."""
    small = _one_part(name, "nemotron_h_moe").keys(moe_latent_size=48)
    small.matrix("blk.2.ffn_latent_down", 48, small.width)
    small.matrix("blk.2.ffn_latent_up", small.width, 48)
    return _experts(small, 48)


def falcon_h1(name):
    """Attention and a state space side by side in every layer."""
    small = decoder(name, "falcon-h1", layers=2).keys(**{"rope.freq_base": 500.0})
    for block in small.blocks:
        _mamba2(small, block)
        small.remove(f"{block}ssm_norm")
        small.tensors[f"{block}ffn_norm"] = small.tensors.pop(f"{block}ffn_norm.weight")
    return small


def _without_attention(small):
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_"):
        small.remove(part)
    return small.keys(feed_forward_length=0, **{"attention.head_count": 0, "attention.head_count_kv": None})


def _hybrid(name, architecture, state_space):
    small = decoder(name, architecture, layers=3)
    small.keys(**{"attention.head_count_kv": [0, small.heads_kv, 0]})
    for block in (small.blocks[0], small.blocks[2]):
        for part in ("q", "k", "v", "output"):
            small.remove(f"{block}attn_{part}.")
        state_space(small, block)
    return small


def _one_part(name, architecture):
    small = decoder(name, architecture, layers=4, gated=False, ff_bias=architecture == "nemotron_h")
    small.keys(**{"attention.head_count_kv": [0, small.heads_kv, 0, 0], "attention.layer_norm_epsilon": 1e-5})
    small.keys(feed_forward_length=[0, 0, small.ff, 0])
    small.remove("ffn_norm")
    for i, block in enumerate(small.blocks):
        for part in ("attn_q.", "attn_k.", "attn_v.", "attn_output."):
            if i != 1:
                small.remove(f"{block}{part}")
        if i != 2:
            small.remove(f"{block}ffn_")
        if i in (0, 3):
            _mamba2(small, block)
    return small


def _experts(small, width):
    small.remove("blk.2.ffn_up")
    small.remove("blk.2.ffn_down")
    small.keys(expert_count=8, expert_used_count=3, expert_feed_forward_length=32)
    small.keys(expert_shared_feed_forward_length=48, expert_shared_count=1)
    small.matrix("blk.2.ffn_gate_inp", 8, small.width, gain=2)
    small.vector("blk.2.exp_probs_b.bias", 8, -0.4, 0.4)
    small.matrix("blk.2.ffn_up_exps", 8, 32, width)
    small.matrix("blk.2.ffn_down_exps", 8, width, 32)
    small.matrix("blk.2.ffn_up_shexp", 48, small.width)
    small.matrix("blk.2.ffn_down_shexp", small.width, 48)
    return small


def _keys(small, rank, groups):
    small.keys(**{"ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER, "ssm.state_size": SIZE})
    small.keys(**{"ssm.time_step_rank": rank, "ssm.group_count": groups})


def _mamba(small, block):
    _keys(small, RANK, None)
    small.matrix(f"{block}ssm_in", 2 * INNER, small.width)
    small.matrix(f"{block}ssm_conv1d", INNER, KERNEL, bias=True)
    small.matrix(f"{block}ssm_x", RANK + 2 * SIZE, INNER)
    small.matrix(f"{block}ssm_dt", INNER, RANK)
    small.vector(f"{block}ssm_dt.bias", INNER, -3, 1)
    small.vector(f"{block}ssm_a", INNER * SIZE, -2, -0.05)
    small.tensors[f"{block}ssm_a"] = small.tensors[f"{block}ssm_a"].reshape(INNER, SIZE)
    small.vector(f"{block}ssm_d", INNER, 0.5, 1.5)
    small.matrix(f"{block}ssm_out", small.width, INNER)


def _mamba2(small, block):
    _keys(small, HEADS, GROUPS)
    channels = INNER + 2 * GROUPS * SIZE
    small.matrix(f"{block}ssm_in", INNER + channels + HEADS, small.width)
    small.matrix(f"{block}ssm_conv1d", channels, KERNEL, bias=True)
    small.vector(f"{block}ssm_dt.bias", HEADS, -3, 1)
    for part, low, high in (("a", -2, -0.05), ("d", 0.5, 1.5)):
        small.vector(f"{block}ssm_{part}", HEADS, low, high)
        small.tensors[f"{block}ssm_{part}"] = small.tensors[f"{block}ssm_{part}"].reshape(HEADS, 1)
    small.norm(f"{block}ssm_norm", INNER)
    small.tensors[f"{block}ssm_norm.weight"] = small.tensors[f"{block}ssm_norm.weight"].reshape(GROUPS, -1)
    small.matrix(f"{block}ssm_out", small.width, INNER)


MODELS = {
    "mamba": mamba,
    "mamba-normed": mamba_normed,
    "mamba2": mamba2,
    "jamba": jamba,
    "granitehybrid": granite_hybrid,
    "granitehybrid-experts": granite_hybrid_experts,
    "nemotron_h": nemotron_h,
    "nemotron_h_moe": nemotron_h_moe,
    "nemotron_h-latent": nemotron_h_latent,
    "falcon-h1": falcon_h1,
}
