"""Hunyuan: queries and keys are turned first, and normed then."""

from small_models import decoder, experts


def hunyuan_dense(name):
    """A key scales the base of rope."""
    small = decoder(name, "hunyuan-dense", layers=3, head=32).keys(**{"rope.scaling.alpha": 50.0})
    return _norms(small)


def hunyuan_moe(name):
    return _norms(experts(decoder(name, "hunyuan-moe", layers=3, head=32, ff=48), 8, 3, ff=48, shared=64))


def _norms(small):
    for block in small.blocks:
        small.norm(f"{block}attn_q_norm", small.head)
        small.norm(f"{block}attn_k_norm", small.head)
    return small


MODELS = {"hunyuan-dense": hunyuan_dense, "hunyuan-moe": hunyuan_moe}
