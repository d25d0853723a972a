"""The model of docs/hooks.md, small and with random weights, and what it computes, in float64."""

import numpy as np
import small_models

__all__ = ["averages", "expected"]


def averages():
    small = small_models.Small("averages", "averages", layers=2, width=32, heads=2, ff=64)
    small.keys(**{"attention.layer_norm_rms_epsilon": 1e-6})
    small.matrix("token_embd", small.vocab, small.width)
    for block in small.blocks:
        for part in ("attn_norm", "ffn_norm"):
            small.norm(f"{block}{part}", small.width)
        for part, rows, cols in (("attn_v", 48, 32), ("attn_output", 32, 48), ("ffn_up", 64, 32), ("ffn_down", 32, 64)):
            small.matrix(f"{block}{part}", rows, cols)
    small.norm("output_norm", small.width)
    return small


def expected(small, ids):
    """The same model in float64."""
    weights = {name: x.astype(np.float64) for name, x in small.tensors.items()}

    def norm(x, name):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * weights[f"{name}.weight"]

    x = weights["token_embd.weight"][ids]
    for block in small.blocks:
        values = norm(x, f"{block}attn_norm") @ weights[f"{block}attn_v.weight"].T
        means = np.cumsum(values, axis=0) / np.arange(1, len(ids) + 1)[:, None]
        up = np.tanh(norm(x, f"{block}ffn_norm") @ weights[f"{block}ffn_up.weight"].T)
        x = x + means @ weights[f"{block}attn_output.weight"].T + up @ weights[f"{block}ffn_down.weight"].T
    return norm(x, "output_norm") @ weights["token_embd.weight"].T
