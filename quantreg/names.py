"""What the name of a tensor says: its layer, and what it does in the model."""

import re

__all__ = ["ROLES", "is_meant", "layer_of", "role_of"]

# The first pattern that is part of the name decides; a pattern that begins with "=" must be the whole name.
_ROLES = (
    ("=output.weight", "output"),
    ("=token_embd.weight", "token_embd"),
    ("=per_layer_token_embd.weight", "token_embd"),
    ("attn_qkv.weight", "attn_qkv"),
    ("attn_kv_b.weight", "attn_kv_b"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)

ROLES: tuple[str, ...] = (*dict.fromkeys(role for _, role in _ROLES), "other")  # what role_of may return


def role_of(name: str) -> str:
    """What a tensor does in the model, read from its name: "attn_v", "ffn_down" and so on, or "other"."""
    for pattern, role in _ROLES:
        if is_meant(name, pattern):
            return role
    return "other"


def is_meant(name: str, pattern: str) -> bool:
    """Whether a pattern is part of a name; a pattern that begins with "=" must be the whole name."""
    return name == pattern[1:] if pattern.startswith("=") else pattern in name


def layer_of(name: str) -> int | None:
    """The N of a name that begins with ``blk.N``, else None. Accepts all that the reference's scanf accepts."""
    found = re.match(r"blk\.\s*([+-]?\d+)", name, re.ASCII)
    return int(found[1]) if found else None
