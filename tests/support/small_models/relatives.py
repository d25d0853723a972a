"""Relatives of Llama of which each differs in one thing or two."""

from small_models import decoder


def mistral3(name):
    """YaRN, and a factor for q that grows with the position."""
    small = decoder(name, "mistral3", head=32).keys(**{"attention.temperature_scale": 0.3})
    scaling = {"original_context_length": 8, "yarn_beta_fast": 16.0, "yarn_log_multiplier": 0.5}
    return small.rope_scaling("yarn", factor=4.0, **scaling)


def mistral3_plain(name):
    return decoder(name, "mistral3", tied=True)


def smollm3(name):
    """No rope in every fourth layer."""
    return decoder(name, "smollm3", layers=4, tied=True)


def internlm2(name):
    return decoder(name, "internlm2", qkv_bias=True)


def exaone(name):
    small = decoder(name, "exaone")
    small.vector("rope_freqs.weight", small.head // 2, 1, 8)
    return small


def xverse(name):
    return decoder(name, "xverse", heads_kv=4)


def arcee(name):
    """Not gated: the square of ReLU."""
    return decoder(name, "arcee", gated=False)


def orion(name):
    """Layer norms."""
    return decoder(name, "orion", rms=False, norm_bias=True)


def seed_oss(name):
    """The norm of the feed-forward part has another name, and q, k and v have biases."""
    small = decoder(name, "seed_oss", head=32, qkv_bias=True)
    small.remove("ffn_norm")
    for block in small.blocks:
        small.norm(f"{block}post_attention_norm", small.width)
    return small


def ernie4_5(name):
    return decoder(name, "ernie4_5", tied=True)


def minicpm(name):
    """Factors that follow from the sizes if the file does not have them."""
    return decoder(name, "minicpm", layers=4, tied=True)


def minicpm_scales(name):
    return decoder(name, "minicpm", tied=True).keys(embedding_scale=2.0, residual_scale=0.6, logit_scale=2.5)


def baichuan(name):
    """The reference knows this model, with rope, by its 32 layers."""
    return decoder(name, "baichuan", layers=32, width=32, heads=2, heads_kv=2, ff=32)


def baichuan_slopes(name):
    """The reference knows this model, with ALiBi, by its 40 layers."""
    return decoder(name, "baichuan", layers=40, width=36, heads=3, heads_kv=3, ff=32)


MODELS = {
    "arcee": arcee,
    "baichuan": baichuan,
    "baichuan-slopes": baichuan_slopes,
    "ernie4_5": ernie4_5,
    "exaone": exaone,
    "internlm2": internlm2,
    "minicpm": minicpm,
    "minicpm-scales": minicpm_scales,
    "mistral3": mistral3,
    "mistral3-plain": mistral3_plain,
    "orion": orion,
    "seed_oss": seed_oss,
    "smollm3": smollm3,
    "xverse": xverse,
}
