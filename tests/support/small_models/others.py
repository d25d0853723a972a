"""Decoders that differ from Llama in the order of norms and rotation, in their layers, or in their experts."""

from small_models import Value, decoder, experts


def deci(name):
    """Layers with a matrix in place of attention, without attention, and with nothing at all."""
    small = decoder(name, "deci", layers=5, heads=4, heads_kv=2)
    for key, values in (("head_count", [4, 4, 0, 4, 4]), ("head_count_kv", [2, 0, 0, 2, 1])):
        small.keys(**{f"attention.{key}": Value("array[i32]", values)})
    small.keys(feed_forward_length=Value("array[i32]", [96, 96, 96, 0, 96]))
    for part in ("blk.1.attn_q", "blk.1.attn_k", "blk.1.attn_v", "blk.2.attn", "blk.3.ffn"):
        small.remove(part)
    for part in ("k", "v"):
        small.matrix(f"blk.4.attn_{part}", small.head, small.width)
    return small.keys(**{"attention.key_length": small.head, "attention.value_length": small.head})


def pangu(name):
    return decoder(name, "pangu-embedded", qkv_bias=True, output_bias=True)


def maincoder(name):
    """Queries and keys are normed after the rotation."""
    return decoder(name, "maincoder", tied=True).head_norms()


def ernie4_5_experts(name):
    """The first layer is dense, and a bias decides which experts are chosen."""
    small = experts(decoder(name, "ernie4_5-moe", layers=3), ff=32, shared=48, layers=(1, 2))
    for block in small.blocks[1:]:
        small.bias(f"{block}exp_probs_b", 8, gain=0.2)
    return small.keys(interleave_moe_layer_step=1, leading_dense_block_count=1)


def bailing(name):
    small = experts(decoder(name, "bailingmoe", heads_kv=4), ff=32, shared=32)
    return small.keys(expert_shared_count=1, expert_weights_norm=True, expert_weights_scale=1.5)


def bailing_plain(name):
    """The weights of the experts do not add up to 1."""
    small = experts(decoder(name, "bailingmoe"), ff=32, shared=32)
    return small.keys(expert_shared_count=1, expert_weights_norm=False, leading_dense_block_count=0)


def mellum(name):
    """Three of four layers see a window, and rope is scaled in the others alone."""
    small = experts(decoder(name, "mellum", layers=4).head_norms(), ff=32)
    small.rope_scaling("yarn", factor=4.0, original_context_length=16, attn_factor=1.2)
    return small.keys(**{"attention.sliding_window": 8})


def exaone4(name):
    return decoder(name, "exaone4").norms_after().head_norms()


def exaone4_windows(name):
    """The reference knows the model with windows by its 64 layers. Those without a window do not rotate."""
    small = decoder(name, "exaone4", layers=64, width=32, heads=2, heads_kv=1, ff=32)
    return small.norms_after().head_norms().keys(**{"attention.sliding_window": 8})


MODELS = {
    "bailingmoe": bailing,
    "bailingmoe-plain": bailing_plain,
    "deci": deci,
    "ernie4_5-moe": ernie4_5_experts,
    "exaone4": exaone4,
    "exaone4-windows": exaone4_windows,
    "maincoder": maincoder,
    "mellum": mellum,
    "pangu-embedded": pangu,
}
