"""Llama 4."""

from small_models import decoder, experts


def llama4(name):
    """Experts in every other layer, weighted before they compute; no rope in every fourth layer."""
    small = decoder(name, "llama4", layers=4, head=32).keys(**{"rope.freq_base": 500.0})
    experts(small, 16, 1, ff=32, layers=(1, 3)).keys(interleave_moe_layer_step=2)
    for block in (small.blocks[1], small.blocks[3]):
        for part in ("gate", "up"):
            small.matrix(f"{block}ffn_{part}_shexp", 32, small.width)
        small.matrix(f"{block}ffn_down_shexp", small.width, 32)
    small.vector("rope_freqs.weight", 16, 1, 8)
    return small


MODELS = {"llama4": llama4}
