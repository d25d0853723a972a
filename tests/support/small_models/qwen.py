"""The Qwen family: halves of a head are rotated together, q, k and v have biases, or q and k norms."""

from small_models import Value, decoder, experts


def qwen2(name):
    return decoder(name, "qwen2", qkv_bias=True, tied=True)


def qwen2moe(name):
    """Shared experts behind a gate of their own; the weights of the experts do not add up to 1."""
    small = experts(decoder(name, "qwen2moe", qkv_bias=True), used=3, ff=32, shared=48)
    for block in small.blocks:
        small.matrix(f"{block}ffn_gate_inp_shexp", small.width)
    return small


def qwen2vl(name):
    """The pairs of a head belong to sections, which makes no difference to text.

    The reference does not read the epsilon of this architecture's norms, so it is too small to be seen.
    """
    small = decoder(name, "qwen2vl", qkv_bias=True).keys(**{"attention.layer_norm_rms_epsilon": 1e-9})
    return small.keys(**{"rope.dimension_sections": _sections(2, 3, 3, 0)})


def _sections(*numbers):
    return Value("array[i32]", list(numbers))


def qwen3(name):
    return decoder(name, "qwen3", head=32).head_norms().keys(**{"rope.freq_base": 1e6})


def qwen3_yarn(name):
    """The long context of Qwen: YaRN."""
    small = decoder(name, "qwen3", head=32).head_norms()
    return small.rope_scaling("yarn", factor=4.0, original_context_length=16)


def qwen3moe(name):
    """The weights of the experts add up to 1."""
    return experts(decoder(name, "qwen3moe", head=32).head_norms(), used=3, ff=32)


def _vision(small):
    """Pairs 13 and 14 of a head belong to no section, and do not turn."""
    return small.head_norms().keys(**{"rope.dimension_sections": _sections(8, 4, 4, 0), "rope.freq_base": 50.0})


def qwen3vl(name):
    return _vision(decoder(name, "qwen3vl", head=32))


def qwen3vlmoe(name):
    return _vision(experts(decoder(name, "qwen3vlmoe", head=32), ff=32))


MODELS = {
    "qwen2": qwen2,
    "qwen2moe": qwen2moe,
    "qwen2vl": qwen2vl,
    "qwen3": qwen3,
    "qwen3-yarn": qwen3_yarn,
    "qwen3moe": qwen3moe,
    "qwen3vl": qwen3vl,
    "qwen3vlmoe": qwen3vlmoe,
}
