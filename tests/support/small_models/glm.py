"""GLM-4 and GLM-4.5."""

from small_models import decoder, experts


def glm4(name, layers=3):
    """Norms before and after both parts of a layer; up holds the gate, too; rope turns half of each head."""
    small = decoder(name, "glm4", layers=layers, head=32, qkv_bias=True).keys(**{"rope.dimension_count": 16})
    for block in small.blocks:
        small.remove(f"{block}ffn_gate.")
        small.matrix(f"{block}ffn_up", 2 * small.ff, small.width)
        small.norm(f"{block}post_attention_norm", small.width)
        small.norm(f"{block}post_ffw_norm", small.width)
    return small


def glm4_sections(name):
    """Rope in sections, as models have it that see images, turns halves. The last layer is not run."""
    return _further(glm4(name, layers=4).keys(**{"rope.dimension_sections": [2, 3, 3, 0]}))


def glm4moe(name):
    """A dense layer, two of experts, and one that predicts further tokens and that is not run."""
    small = decoder(name, "glm4moe", layers=4, head=32, qkv_bias=True).keys(**{"rope.dimension_count": 16})
    experts(small, 8, 3, ff=32, shared=64, layers=(1, 2, 3))
    small.keys(expert_shared_feed_forward_length=None, expert_shared_count=2, leading_dense_block_count=1)
    small.keys(expert_weights_scale=1.5, expert_weights_norm=True)
    for block in small.blocks:
        small.tensors[f"{block}post_attention_norm.weight"] = small.tensors.pop(f"{block}ffn_norm.weight")
        small.norm(f"{block}attn_q_norm", small.head)
        small.norm(f"{block}attn_k_norm", small.head)
    for block in small.blocks[1:]:
        small.vector(f"{block}exp_probs_b.bias", 8, -0.4, 0.4)
    return _further(small)


def glm4moe_plain(name):
    """Without norms of queries and keys, without norm or scale of the weights of experts, with rope in sections."""
    small = glm4moe(name).keys(expert_weights_scale=None, expert_weights_norm=None, expert_gating_func=2)
    small.keys(**{"rope.dimension_sections": [2, 3, 3, 0]})
    small.remove("attn_q_norm")
    small.remove("attn_k_norm")
    return small


def _further(small):
    """Make the last layer one that predicts further tokens."""
    last = f"{small.blocks[-1]}nextn."
    small.matrix(f"{last}eh_proj", small.width, 2 * small.width)
    for part in ("enorm", "hnorm", "shared_head_norm"):
        small.norm(f"{last}{part}", small.width)
    return small.keys(nextn_predict_layers=1)


MODELS = {"glm4": glm4, "glm4-sections": glm4_sections, "glm4moe": glm4moe, "glm4moe-plain": glm4moe_plain}
