"""Granite: Llama with four factors, and experts."""

from small_models import decoder, experts

_FACTORS = {"embedding_scale": 1.5, "residual_scale": 0.6, "logit_scale": 2.5, "attention.scale": 0.4}


def granite(name):
    return decoder(name, "granite", tied=True).keys(**_FACTORS)


def granite_positions(name):
    """Without rope: the key that says that the model was trained with it turns it off."""
    return decoder(name, "granite").keys(**_FACTORS, **{"rope.scaling.finetuned": False})


def granitemoe(name):
    return experts(decoder(name, "granitemoe")).keys(**_FACTORS)


def granitemoe_shared(name):
    return experts(decoder(name, "granitemoe"), shared=48).keys(**_FACTORS)


MODELS = {
    "granite": granite,
    "granite-no-rope": granite_positions,
    "granitemoe": granitemoe,
    "granitemoe-shared": granitemoe_shared,
}
