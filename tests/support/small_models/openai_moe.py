"""gpt-oss: attention sinks, experts with biases and a clamped activation, a sliding window in every other layer."""

from small_models import decoder, experts


def gpt_oss(name):
    """The gate is wide enough that some of its values are clamped, and rope is scaled as in YaRN."""
    small = decoder(name, "gpt-oss", layers=4, head=32, qkv_bias=True, output_bias=True)
    experts(small, 8, 3, ff=32)
    small.keys(**{"attention.sliding_window": 8, "context_length": 4096, "rope.freq_base": 500.0})
    small.keys(**{"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0})
    small.keys(**{"rope.scaling.original_context_length": 1024})
    for block in small.blocks:
        small.tensors[f"{block}post_attention_norm.weight"] = small.tensors.pop(f"{block}ffn_norm.weight")
        small.vector(f"{block}attn_sinks.weight", small.heads, -2, 3)
        small.bias(f"{block}ffn_gate_inp", 8)
        small.matrix(f"{block}ffn_gate_exps", 8, 32, small.width, gain=4)
        small.matrix(f"{block}ffn_up_exps", 8, 32, small.width, gain=4)
        for part, rows in (("gate", 32), ("up", 32), ("down", small.width)):
            small.bias(f"{block}ffn_{part}_exps", 8, rows)
    return small


def gpt_oss_pattern(name):
    """Three layers with a window, which have a base of their own, to one without; and no scaling of rope."""
    small = gpt_oss(name).keys(**{"attention.sliding_window_pattern": 4, "attention.sliding_window": 5})
    small.keys(**{"rope.scaling.type": None, "rope.scaling.factor": None, "rope.freq_base_swa": 50.0})
    return small.keys(**{"rope.scaling.original_context_length": None})


MODELS = {"gpt-oss": gpt_oss, "gpt-oss-pattern": gpt_oss_pattern}
