"""Llama 4."""

from small_models import decoder, experts


def llama4(name):
    """Experts in every other layer, weighted before they compute; no rope in every fourth layer.

    Chunks have a base of rope of their own, and 8192 tokens, so that no small model shows where they end.
    """
    small = decoder(name, "llama4", layers=4, head=32)
    small.keys(**{"rope.freq_base": 5000.0, "rope.freq_base_swa": 500.0})
    small.vector("rope_freqs.weight", 16, 1, 8)
    return _experts(small, 16)


def llama4_maverick(name):
    """128 experts, and no norms of queries and keys."""
    return _experts(decoder(name, "llama4", layers=4, heads=2, heads_kv=1, width=32, ff=48), 128)


def _experts(small, n):
    layers = range(1, small.layers, 2)
    experts(small, n, 1, ff=32, layers=layers).keys(interleave_moe_layer_step=2)
    for i in layers:
        for part in ("gate", "up"):
            small.matrix(f"{small.blocks[i]}ffn_{part}_shexp", 32, small.width)
        small.matrix(f"{small.blocks[i]}ffn_down_shexp", small.width, 32)
    return small


MODELS = {
    "llama4": llama4,
    "llama4-maverick": llama4_maverick,
}
