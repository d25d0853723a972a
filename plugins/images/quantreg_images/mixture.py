"""The mixtures of types for image models: which tensors get more bits than the rest in which file type."""

import quantreg
from quantreg.recipes import Choice

# The first group with a part that is in the name decides (source C of `images.py`).
GROUPS = (
    ("attn_v", (
        "attn_v.weight", ".to_v.weight", ".v.weight", ".attn.w1v.weight", ".attn.w2v.weight", "_attn.v_proj.weight",
    )),
    ("attn_qkv", ("attn_qkv.weight", "attn.qkv.weight", "attention.qkv.weight")),
    ("ffn_down", (
        "ffn_down", ".ffn.2.weight", ".ff.net.2.weight", ".mlp.layer2.weight", ".adaln_modulation_mlp.2.weight",
        ".feed_forward.w2.weight", "img_mlp.net.2.weight", "txt_mlp.net.2.weight",
    )),
)  # fmt: skip

# file type -> type of each group. (2, a, b) is a for the first two tensors of the group and b for the others; None is
# the file type's own type. File types that are not listed use their own type for all groups.
MIXTURES = {
    "Q2_K": {"attn_v": "Q3_K"},
    "Q3_K_M": {"attn_v": (2, "Q5_K", "Q4_K"), "attn_qkv": "Q4_K", "ffn_down": "Q4_K"},
    "Q3_K_L": {"attn_v": "Q5_K", "attn_qkv": "Q4_K", "ffn_down": "Q5_K"},
    "Q4_K_S": {"attn_v": (4, "Q5_K", None), "ffn_down": "Q5_K"},
    "Q4_K_M": {"attn_v": "Q6_K", "attn_qkv": "Q5_K", "ffn_down": "Q6_K"},
    "Q5_K_M": {"attn_v": "Q6_K", "attn_qkv": "Q6_K", "ffn_down": "Q6_K"},
    "Q4_0": {"ffn_down": "Q4_1"},
    "Q5_0": {"ffn_down": "Q5_1"},
}


def group_of(name):
    """What a tensor does, by its name: "attn_v", "attn_qkv", "ffn_down" or None."""
    if "experts." in name and ".w2.weight" in name:
        return "ffn_down"
    return next((group for group, parts in GROUPS if any(part in name for part in parts)), None)


def image_mixture(candidate, chosen):
    """Give V, fused QKV and the second FFN matrix the types that `MIXTURES` lists for the file type."""
    group = group_of(candidate.name)
    wanted = MIXTURES.get(candidate.file_type, {}).get(group)
    if chosen is not None or wanted is None:
        return None
    if isinstance(wanted, tuple):
        first, early, late = wanted
        before = sum(group_of(name) == group for name in candidate.planned)
        wanted = early if before < first else late or candidate.default_type
    return Choice(wanted, f"{group} of an image model: {wanted}")


class better_edges:  # noqa: N801, used like a function, but plans must pickle
    """A rule: the first and last ``n`` blocks get at least Q5_K, and Q6_K in file types of 5 bits."""

    def __init__(self, n):
        self.n = n

    def __call__(self, candidate, chosen):
        block, total = candidate.block, candidate.n_blocks
        if block is None or total <= 2 * self.n or self.n <= block < total - self.n:
            return None
        bits = quantreg.types[candidate.default_type].bits_per_weight
        if bits >= 6:
            return None
        better = "Q6_K" if bits >= 5 else "Q5_K"
        return Choice(better, f"in one of the first or last blocks: {better}")
