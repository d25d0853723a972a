"""The Gemma family: scaled embeddings, norms on both sides of each half, windows, caps."""

import numpy as np

from small_models import decoder


def _gemma(name, architecture, *, head_norms=False, head=24, added=0.5, **sizes):
    """``added``: how much each half of a layer adds. In a deep model much would make chaos of the smallest change."""
    small = decoder(name, architecture, tied=True, head=head, **sizes)
    small.matrix("token_embd", small.vocab, small.width, gain=0.25 * small.width**0.5)
    for block in small.blocks:
        small.norm(f"{block}post_attention_norm", small.width)
        small.norm(f"{block}post_ffw_norm", small.width)
        for part in ("attention", "ffw"):
            small.tensors[f"{block}post_{part}_norm.weight"] *= np.float32(added)
        if head_norms:
            small.norm(f"{block}attn_q_norm", small.head)
            small.norm(f"{block}attn_k_norm", small.head)
    return small


def gemma(name):
    """The first Gemma, which has norms on one side only."""
    small = _gemma(name, "gemma", heads_kv=1)
    small.remove("post_")
    return small


def gemma2(name):
    """Caps that bend most scores and logits, and a window of 5 in every second layer."""
    small = _gemma(name, "gemma2", layers=4)
    keys = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}
    return small.keys(**keys, **{"attention.sliding_window": 5, "rope.freq_base_swa": 100.0})


def gemma2_27b(name):
    """As many layers as the model of 27 B, which alone does not scale scores by the width of its heads."""
    small = _gemma(name, "gemma2", layers=46, width=32, heads=2, ff=32, added=0.15)
    return small.keys(**{"attention.sliding_window": 5})


def gemma3(name):
    """Two bases of the rotation, and a scale of it in the one layer of six that sees everything."""
    keys = {"attention.sliding_window": 5, "rope.freq_base": 100.0}
    keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    return _gemma(name, "gemma3", layers=7, head_norms=True).keys(**keys)


def gemma3_27b(name):
    """As many layers as the model of 27 B, and a list of those with a window."""
    small = _gemma(name, "gemma3", layers=62, width=32, heads=2, ff=32, added=0.15, head_norms=True)
    keys = {"attention.sliding_window": 5, "attention.sliding_window_pattern": [i % 3 > 0 for i in range(62)]}
    return small.keys(**keys, **{"rope.freq_base": 1000.0, "rope.freq_base_swa": 100.0})


def gemma3_pattern(name):
    """A window in every second layer, as a number says."""
    keys = {"attention.sliding_window": 5, "attention.sliding_window_pattern": 2, "rope.freq_base_swa": 100.0}
    return _gemma(name, "gemma3", layers=4, heads_kv=4, head_norms=True).keys(**keys)


def gemma3_whole(name):
    """No window, an output matrix of its own, and a cap on the logits."""
    small = _gemma(name, "gemma3", layers=3, head_norms=True).keys(final_logit_softcapping=1.5)
    small.matrix("output", small.vocab, small.width)
    return small


def gemma_embedding(name):
    """Tokens see a window to both sides in five of six layers, and all others in the sixth."""
    small = _gemma(name, "gemma-embedding", layers=7, head_norms=True)
    keys = {"attention.sliding_window": 6, "rope.freq_base": 100.0, "rope.freq_base_swa": 30.0}
    return small.keys(**keys, **{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0})


def gemma3n(name):
    """As many layers as have keys and values of their own, and two that share them; every fifth sees everything."""
    small = _gemma(name, "gemma3n", layers=22, width=32, heads=2, ff=64, head_norms=True, added=0.2)
    width, length, streams, rank = small.width, 256, 4, 64
    small.matrix("per_layer_token_embd", small.vocab, length * small.layers, gain=(length * small.layers) ** 0.5 / 16)
    small.matrix("per_layer_model_proj", length * small.layers, width, gain=width**0.5)
    small.norm("per_layer_proj_norm", length)
    small.matrix("altup_proj", streams - 1, width, width)
    small.matrix("altup_unembd_proj", streams - 1, width, width)
    for block in small.blocks:
        small.matrix(f"{block}inp_gate", length, width)
        small.matrix(f"{block}proj", width, length)
        small.norm(f"{block}post_norm", width)
        small.matrix(f"{block}altup_correct_coef", streams, streams, gain=0.3)
        small.vector(f"{block}altup_correct_scale.weight", width, 0.5, 1.5)
        small.matrix(f"{block}altup_predict_coef", streams**2, streams, gain=0.1)
        small.matrix(f"{block}altup_router", streams, width, gain=width)
        small.norm(f"{block}altup_router_norm", width)
        small.matrix(f"{block}laurel_l", rank, width)
        small.matrix(f"{block}laurel_r", width, rank)
        small.norm(f"{block}laurel_post_norm", width)
        for part in ("post_norm", "laurel_post_norm"):
            small.tensors[f"{block}{part}.weight"] *= np.float32(0.2)
        small.tensors[f"{block}attn_q_norm.weight"] *= np.float32(0.4)  # nothing else scales attention down
    keys = {"attention.sliding_window": 5, "attention.shared_kv_layers": 2, "embedding_length_per_layer_input": length}
    keys |= {"rope.freq_base": 100.0, "rope.freq_base_swa": 30.0, "rope.scaling.type": "linear"}
    return small.keys(**keys, **{"rope.scaling.factor": 4.0})


MODELS = {
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma2-27b": gemma2_27b,
    "gemma3": gemma3,
    "gemma3-27b": gemma3_27b,
    "gemma3-pattern": gemma3_pattern,
    "gemma3-whole": gemma3_whole,
    "gemma3n": gemma3n,
    "gemma-embedding": gemma_embedding,
}
