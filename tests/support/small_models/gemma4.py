"""Gemma 4: two lengths of head, shared keys and values, embeddings of each layer."""

import numpy as np

from small_models import decoder

SHORT, LONG, PER_LAYER = 16, 32, 16


def gemma4(name):
    """As E2B: the last layers use the keys and values of layers before, and each layer adds an embedding of its own."""
    small = _gemma4(name, [True, True, False, True, False])
    small.keys(**{"attention.shared_kv_layers": 2, "embedding_length_per_layer_input": PER_LAYER})
    small.keys(feed_forward_length=[96, 96, 96, 128, 128])
    small.matrix("per_layer_token_embd", small.vocab, PER_LAYER * small.layers, gain=(PER_LAYER * small.layers) ** 0.5)
    small.matrix("per_layer_model_proj", PER_LAYER * small.layers, small.width)
    small.norm("per_layer_proj_norm", PER_LAYER)
    for block in small.blocks:
        small.matrix(f"{block}inp_gate", PER_LAYER, small.width)
        small.matrix(f"{block}proj", small.width, PER_LAYER)
        small.norm(f"{block}post_norm", small.width)
        small.vector(f"{block}layer_output_scale.weight", 1, 0.3, 1.2)
    for block in small.blocks[3:]:
        for part in ("attn_k", "attn_v", "attn_k_norm"):
            small.remove(f"{block}{part}.")
        small.matrix(f"{block}ffn_gate", 128, small.width)
        small.matrix(f"{block}ffn_up", 128, small.width)
        small.matrix(f"{block}ffn_down", small.width, 128)
    return small


def gemma4_experts(name):
    """As 26B A4B: experts beside the dense part, keys that are also values, and different numbers of heads."""
    small = _gemma4(name, [True, False, True, False])
    small.keys(**{"embedding_length_per_layer_input": 0, "attention.head_count_kv": [2, 1, 2, 1]})
    small.keys(expert_count=8, expert_used_count=3, expert_feed_forward_length=32)
    for block in small.blocks:
        small.matrix(f"{block}ffn_gate_inp", 8, small.width, gain=6)
        small.vector(f"{block}ffn_gate_inp.scale", small.width, 1, 4)
        small.matrix(f"{block}ffn_gate_up_exps", 8, 64, small.width)
        small.matrix(f"{block}ffn_down_exps", 8, small.width, 32)
        small.vector(f"{block}ffn_down_exps.scale", 8, 0.5, 2)
        for part in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"):
            small.norm(f"{block}{part}", small.width)
    for block in (small.blocks[1], small.blocks[3]):
        small.matrix(f"{block}attn_k", LONG, small.width)
        small.remove(f"{block}attn_v.")
    return small


def gemma4_fused(name):
    """One matrix for queries, keys and values, and gate and up of the experts apart."""
    small = gemma4_experts(name)
    for block in small.blocks:
        parts = [small.tensors.pop(f"{block}attn_{part}.weight", None) for part in "qkv"]
        if parts[2] is None:
            parts[2] = parts[1][::-1]
        small.tensors[f"{block}attn_qkv.weight"] = np.concatenate(parts)
        both = small.tensors.pop(f"{block}ffn_gate_up_exps.weight")
        small.tensors[f"{block}ffn_gate_exps.weight"] = np.ascontiguousarray(both[:, :32])
        small.tensors[f"{block}ffn_up_exps.weight"] = np.ascontiguousarray(both[:, 32:])
    return small


def _gemma4(name, windows):
    small = decoder(name, "gemma4", layers=len(windows), head=LONG, tied=True)
    small.keys(**{"attention.sliding_window_pattern": windows, "attention.sliding_window": 8})
    small.keys(**{"attention.key_length_swa": SHORT, "attention.value_length_swa": SHORT})
    small.keys(**{"rope.dimension_count_swa": SHORT, "rope.dimension_count": LONG})
    small.keys(**{"rope.freq_base": 1000.0, "rope.freq_base_swa": 100.0, "final_logit_softcapping": 30.0})
    small.keys(**{"rope.scaling.type": "linear", "rope.scaling.factor": 2.0})  # of layers without a window
    small.vector("rope_freqs.weight", LONG // 2, 1, 8)
    for block, window in zip(small.blocks, windows, strict=True):
        head = SHORT if window else LONG
        small.matrix(f"{block}attn_q", small.heads * head, small.width)
        small.matrix(f"{block}attn_k", small.heads_kv * head, small.width)
        small.matrix(f"{block}attn_v", small.heads_kv * head, small.width)
        small.matrix(f"{block}attn_output", small.width, small.heads * head)
        small.norm(f"{block}attn_q_norm", head)
        small.norm(f"{block}attn_k_norm", head)
        small.norm(f"{block}post_attention_norm", small.width)
        small.norm(f"{block}post_ffw_norm", small.width)
    return small


MODELS = {"gemma4": gemma4, "gemma4-experts": gemma4_experts, "gemma4-fused": gemma4_fused}
