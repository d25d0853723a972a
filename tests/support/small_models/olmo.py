"""OLMo: norms without weights (the first), after each part (the second), and with experts."""

from small_models import decoder, experts


def olmo(name):
    """Norms without weights, and q, k and v held within limits."""
    small = decoder(name, "olmo", rms=False).keys(**{"attention.clamp_kqv": 1.2})
    small.remove("norm")
    return small


def _norms(small):
    for block in small.blocks:
        small.norm(f"{block}attn_q_norm", small.heads * small.head)
        small.norm(f"{block}attn_k_norm", small.heads_kv * small.head)
    return small


def olmo2(name):
    return _norms(decoder(name, "olmo2").norms_after())


def olmo3(name):
    """Three of four layers see a window, and rope is scaled in the others alone."""
    small = _norms(decoder(name, "olmo2", layers=4).norms_after()).keys(**{"attention.sliding_window": 8})
    return small.rope_scaling("yarn", factor=4.0, original_context_length=16, attn_factor=1.2)


def olmoe(name):
    return _norms(experts(decoder(name, "olmoe", heads_kv=4)))


MODELS = {"olmo": olmo, "olmo2": olmo2, "olmo3": olmo3, "olmoe": olmoe}
