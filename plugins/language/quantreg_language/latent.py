"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values of all heads from one short vector."""

import math
from typing import TYPE_CHECKING

import numpy as np

from quantreg.inference.attention import attend, settings
from quantreg.inference.facts import Facts
from quantreg.inference.rope import rotate, yarn_magnitude
from quantreg_language.temperature import temperatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

__all__ = ["latent_attention", "latent_scale", "lengths", "magnitude"]


def latent_attention(layer: "Layer", x: "NDArray[np.float32]", run: "Pass") -> "NDArray[np.float32]":
    """The attention of a layer: float32 (rows, width) in and out.

    Each head has values that are rotated and values that are not. The former are one key for all heads; the latter
    follow from a latent vector. With the matrices ``attn_k_b`` and ``attn_v_b`` queries go into the space of this
    vector, which then is the only key and value. Old files have ``attn_kv_b`` and make keys and values of each head.
    """
    facts, heads = layer.facts, layer.heads
    key, value = lengths(facts)
    rank, turned = facts.whole("attention.kv_lora_rank", least=1), facts.rope_dims
    still, shape = key - turned, (run.sequences, run.tokens)
    if layer.has("attn_q_a"):
        low = layer.norm("attn_q_a_norm", layer.linear("attn_q_a", x, run), run)
        q = layer.linear("attn_q_b", low, run, heads * key)
    else:
        q = layer.linear("attn_q", x, run, heads * key)
    q = q.reshape(*shape, heads, key)
    both = layer.linear("attn_kv_a_mqa", x, run, rank + turned)
    latent = layer.norm("attn_kv_a_norm", np.ascontiguousarray(both[:, :rank]), run)
    shared = np.ascontiguousarray(both[:, rank:]).reshape(*shape, 1, turned)
    rope = layer.rope(run)
    if rope is not None:
        rotate(q[..., still:], rope, run.tables(rope))
        rotate(shared, rope, run.tables(rope))
    whole = not layer.has("attn_k_b")
    if whole:
        made = layer.linear("attn_kv_b", latent, run, heads * (still + value)).reshape(*shape, heads, still + value)
        k = np.concatenate((made[..., :still], np.broadcast_to(shared, (*shape, heads, turned))), axis=-1)
        v = made[..., still:]
    else:
        first = np.ascontiguousarray(q[..., :still]).reshape(-1, heads, still)
        absorbed = layer.each("attn_k_b", first, run, rank).reshape(*shape, heads, rank)
        q = np.concatenate((absorbed, q[..., still:]), axis=-1)
        v = latent.reshape(*shape, 1, rank)
        k = np.concatenate((v, shared), axis=-1)
    grows = facts.number("attention.temperature_scale", 0.0)
    if grows:
        q *= temperatures(run, grows, facts.number("attention.temperature_length"))
    out = attend(q, k, v, settings(layer), run, layer.index)
    if not whole:
        out = layer.each("attn_v_b", out.reshape(-1, heads, rank), run, value).reshape(len(x), -1)
    return layer.linear("attn_output", out, run, facts.width)


def lengths(facts: Facts) -> tuple[int, int]:
    """The lengths of a head's key and value: other keys hold those of the latent vector in newer files."""
    key, value = (facts.whole(f"attention.{part}_length_mla", 0) for part in ("key", "value"))
    return (key, value) if key and value else (facts.key_length, facts.value_length)


def magnitude(facts: Facts, scale: float) -> float:
    """How much larger YaRN makes rotated values. A multiplier takes it from them and gives it to the scores.

    The models of the architecture deepseek2 leave nothing to the values, whatever the multiplier is.
    """
    multiplier = _multiplier(facts)
    if not multiplier:
        return yarn_magnitude(scale)
    if facts.architecture == "deepseek2":
        return 1.0
    return yarn_magnitude(scale) / yarn_magnitude(scale, multiplier)


def latent_scale(facts: Facts, layer: int) -> float:
    """What scores are multiplied by: (1 + 0.1 * multiplier * log(factor))^2 / sqrt(key length), with YaRN."""
    factor = facts.number("rope.scaling.factor", facts.number("rope.scale_linear", 0.0)) or 1.0
    kind = facts.get("rope.scaling.type", "linear")
    if kind == "none":
        factor = 1.0
    size = facts.number("rope.scaling.attn_factor", 1.0)
    size *= magnitude(facts, 1 / factor) if kind == "yarn" else 1 + 0.1 * math.log(factor)
    size *= 1 + 0.1 * _multiplier(facts) * math.log(factor)
    return size * size / math.sqrt(lengths(facts)[0])


def _multiplier(facts: Facts) -> float:
    return facts.number("rope.scaling.yarn_log_multiplier", 0.0) / 0.1  # files hold a tenth of it
