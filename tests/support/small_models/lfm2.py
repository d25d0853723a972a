"""LFM2: short convolutions between a few layers of attention."""

from small_models import decoder, experts

KERNEL = 3


def lfm2(name):
    small = decoder(name, "lfm2", layers=3, tied=True)
    return _convolutions(small)


def lfm2_window(name):
    return lfm2(name).keys(**{"attention.sliding_window": 5})


def lfm2moe(name):
    small = decoder(name, "lfm2moe", layers=3, tied=True).keys(leading_dense_block_count=1, expert_gating_func=2)
    experts(small, 8, 3, ff=32, layers=(1, 2))
    for block in small.blocks[1:]:
        small.vector(f"{block}exp_probs_b.bias", 8, -0.4, 0.4)
    return _convolutions(small)


def _convolutions(small):
    small.keys(**{"shortconv.l_cache": KERNEL, "attention.head_count_kv": [0, small.heads_kv, 0]})
    small.tensors["token_embd_norm.weight"] = small.tensors.pop("output_norm.weight")
    for i, block in enumerate(small.blocks):
        if i == 1:
            small.norm(f"{block}attn_q_norm", small.head)
            small.norm(f"{block}attn_k_norm", small.head)
            continue
        for part in ("q", "k", "v", "output"):
            small.remove(f"{block}attn_{part}.")
        small.matrix(f"{block}shortconv.conv", small.width, KERNEL)
        small.matrix(f"{block}shortconv.in_proj", 3 * small.width, small.width)
        small.matrix(f"{block}shortconv.out_proj", small.width, small.width)
    return small


MODELS = {"lfm2": lfm2, "lfm2-window": lfm2_window, "lfm2moe": lfm2moe}
