"""The Qwen family: halves of a head are rotated together, q, k and v have biases, or q and k norms."""

from small_models import decoder, experts


def qwen2(name):
    return decoder(name, "qwen2", qkv_bias=True, tied=True)


def qwen2moe(name):
    """Shared experts behind a gate of their own; the weights of the experts do not add up to 1."""
    small = experts(decoder(name, "qwen2moe", qkv_bias=True), used=3, ff=32, shared=48)
    for block in small.blocks:
        small.matrix(f"{block}ffn_gate_inp_shexp", small.width)
    return small


def _norms(small):
    for block in small.blocks:
        small.norm(f"{block}attn_q_norm", small.head)
        small.norm(f"{block}attn_k_norm", small.head)
    return small


def qwen3(name):
    return _norms(decoder(name, "qwen3", head=32)).keys(**{"rope.freq_base": 1e6})


def qwen3_yarn(name):
    """The long context of Qwen: YaRN."""
    small = _norms(decoder(name, "qwen3", head=32))
    return small.rope_scaling("yarn", factor=4.0, original_context_length=16)


def qwen3moe(name):
    """The weights of the experts add up to 1."""
    return _norms(experts(decoder(name, "qwen3moe", head=32), used=3, ff=32))


MODELS = {
    "qwen2": qwen2,
    "qwen2moe": qwen2moe,
    "qwen3": qwen3,
    "qwen3-yarn": qwen3_yarn,
    "qwen3moe": qwen3moe,
}
