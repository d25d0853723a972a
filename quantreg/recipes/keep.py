"""Which tensors are never quantized, and why."""

__all__ = ["kept_because"]

# (part of the name, reason). A part that begins with "=" must be the whole name.
_KEPT = (
    ("_norm.weight", "norm"),
    ("ffn_gate_inp.weight", "expert router"),
    ("ffn_gate_tid2eid.weight", "expert routing table"),
    ("altup", "small AltUp matrix"),
    ("laurel", "small Laurel matrix"),
    ("per_layer_model_proj", "small per-layer projection"),
    ("=position_embd.weight", "position embeddings"),
    ("=token_types.weight", "token type embeddings"),
    ("ssm_conv1d", "small convolution"),
    ("shortconv.conv.weight", "small convolution"),
    ("indexer.k_proj.weight", "small indexer projection"),
    ("indexer.q_proj.weight", "small indexer projection"),
    ("attn_rel_b.weight", "relative position bias"),
    (".position_embd", "position embeddings"),
    ("sam.pos_embd", "position embeddings"),
    ("sam.neck.", "part of the image encoder"),
    ("sam.net_", "part of the image encoder"),
    (".rel_pos", "relative positions"),
    (".patch_embd", "patch embeddings"),
    (".patch_merger", "patch merger"),
    ("a.rvq.codebook", "audio codebook"),
    ("mm.a.code_embd", "audio code embeddings"),
    *(
        (f"time_mix_{part}.weight", "small RWKV matrix")
        for part in ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2")
    ),
    ("time_mix_decay_w1.weight", "small RWKV matrix"),
    ("time_mix_decay_w2.weight", "small RWKV matrix"),
    ("time_mix_lerp_fused.weight", "small RWKV matrix"),
)

# The same for single architectures.
_KEPT_IN = {
    "glm5-next": tuple(
        (part, "sensitive in GLM-5")
        for part in (
            "hc_",
            "indexer.attn_q_b",
            "indexer.attn_k",
            "indexer.proj",
            "indexer_compressor_gate",
            "indexer_compressor_ape",
            "ssm_f_a.weight",
            "ssm_f_b.weight",
            "ssm_g_a.weight",
            "ssm_g_b.weight",
            "ssm_beta.weight",
            "attn_kv_a_mqa.weight",
            "attn_k_b.weight",
            "attn_v_b.weight",
        )
    ),
}


def kept_because(name: str, dims: tuple[int, ...], architecture: str) -> str | None:
    """Why a tensor keeps its type, or None if recipes may change it.

    ``dims`` is in ne order (row length first), without trailing ones.
    """
    for part, reason in (*_KEPT, *_KEPT_IN.get(architecture, ())):
        if name == part[1:] if part[0] == "=" else part in name:
            return reason
    if len(dims) < 2:
        return "fewer than two dimensions"
    if not name.endswith("weight"):
        return "not a weight"
    return None
