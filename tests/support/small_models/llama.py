"""Llama and what differs from it in a few keys or tensors."""

from small_models import decoder, experts


def llama(name):
    return decoder(name, "llama")


def llama_tied(name):
    """Tied output, heads that are wider than the model divided by their number, and another rope base."""
    return decoder(name, "llama", tied=True, head=32, layers=3).keys(**{"rope.freq_base": 500.0})


def llama_biases(name):
    """Every bias that a Llama model may have."""
    return decoder(name, "llama", qkv_bias=True, output_bias=True, ff_bias=True)


def llama_fused(name):
    """One matrix for queries, keys and values."""
    return decoder(name, "llama", fused_qkv=True, qkv_bias=True)


def llama_factors(name):
    """The factors of the frequencies of rope that Llama 3.1 has."""
    small = decoder(name, "llama", heads_kv=4)
    small.vector("rope_freqs.weight", small.head // 2, 1, 8)
    return small


def llama_linear(name):
    """Positions divided by a factor."""
    return decoder(name, "llama", heads_kv=1).rope_scaling("linear", factor=4.0)


def llama_experts(name):
    """Mixtral."""
    return experts(decoder(name, "llama"))


MODELS = {
    "llama": llama,
    "llama-tied": llama_tied,
    "llama-biases": llama_biases,
    "llama-factors": llama_factors,
    "llama-fused": llama_fused,
    "llama-linear": llama_linear,
    "llama-experts": llama_experts,
}
