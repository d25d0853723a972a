"""Gemma 4: two lengths of head, shared keys and values, embeddings of each layer, experts beside a dense part."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, Graph, ModelError
from quantreg.inference.attention import attend, head_norm, settings
from quantreg.inference.feed_forward import choose, gated, routed
from quantreg.inference.norms import normalise
from quantreg.inference.rope import rotate
from quantreg_language.gemma4_checkpoint import GEMMA_4
from quantreg_language.windows import windowed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Array = NDArray[np.float32]


def attention(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """The last layers have no keys and values: they use those of the last layer of their kind that has some."""
    facts, shape = layer.facts, (run.sequences, run.tokens)
    rope = layer.rope(run)
    assert rope is not None
    if layer.window:
        rope = replace(rope, factors=None)  # only the others divide their angles
    tables = run.tables(rope)
    kv, n_q = layer.kv_heads * layer.key_length, layer.heads * layer.key_length
    fused = layer.linear("attn_qkv", x, run, n_q + 2 * kv) if layer.has("attn_qkv") else None
    q = layer.linear("attn_q", x, run, n_q) if fused is None else fused[:, :n_q]
    q = head_norm(layer, "attn_q_norm", q.reshape(*shape, layer.heads, layer.key_length), run)
    rotate(q, rope, tables)
    own = facts.n_layers - facts.whole("attention.shared_kv_layers", 0)
    if own < 2:
        raise ModelError(
            f"gemma4.attention.shared_kv_layers leaves {own} of {facts.n_layers} layers with keys and values: expected "
            "one of each kind"
        )
    source = layer.index
    if source < own:
        k = layer.linear("attn_k", x, run, kv) if fused is None else fused[:, n_q : n_q + kv]
        if fused is not None:
            v = fused[:, n_q + kv :]
        else:
            v = layer.linear("attn_v", x, run, kv) if layer.has("attn_v") else k
        k, v = (each.reshape(*shape, layer.kv_heads, layer.key_length) for each in (k, v))
        v = normalise(v, None, None, "rms", facts.eps, run)
        k = head_norm(layer, "attn_k_norm", k, run)
        rotate(k, rope, tables)
        run.shared["keys and values", source] = k, v
    else:
        source = own - (2 if layer.window else 1)
        k, v = run.shared["keys and values", source]
    out = attend(q, k, v, settings(layer), run, source)  # the cache holds them already, and takes them again
    return layer.linear("attn_output", out, run, facts.width)


def second_half(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """The dense part and, in models with experts, the experts beside it; the router has a norm of its own."""
    dense = _dense(layer, layer.norm("ffn_norm", x, run), run)
    if not layer.has("ffn_gate_inp"):
        return dense
    facts = layer.facts
    scale = layer.small("ffn_gate_inp", facts.width, kind="scale") * np.float32(facts.width**-0.5)
    asked = normalise(x, scale, None, "rms", facts.eps, run)
    logits = layer.weights.multiply(layer.name("ffn_gate_inp"), asked, run, facts.n_experts, scaled=False)
    into = layer.norm("pre_ffw_norm_2", x, run)
    found = layer.norm("post_ffw_norm_2", routed(layer, into, *choose(layer, logits), run), run)
    return layer.norm("post_ffw_norm_1", dense, run) + found


def _dense(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    up = gated(layer, layer.linear("ffn_gate", x, run), layer.linear("ffn_up", x, run), run)
    return layer.linear("ffn_down", up, run, layer.facts.width)


def whole(layer: "Layer", x: "Array", run: "Pass") -> "Array":
    """A layer: attention and the second half, an embedding of the token for this layer, and a scale."""
    extra = of_layers(layer, x, run)
    first = layer.norm("post_attention_norm", attention(layer, layer.norm("attn_norm", x, run), run), run)
    first += x
    out = layer.norm("post_ffw_norm", second_half(layer, first, run), run)
    out += first
    if extra is not None:
        gate = layer.graph.activate(layer.linear("inp_gate", out, run))
        gate *= extra[:, layer.index]
        out += layer.norm("post_norm", layer.linear("proj", gate, run, layer.facts.width), run)
    if layer.has("layer_output_scale"):
        out *= layer.small("layer_output_scale", 1)
    return out


def of_layers(layer: "Layer", x: "Array", run: "Pass") -> "Array | None":
    """The embeddings of all layers, float32 (rows, layers, length): of the token, and of what goes into layer 0."""
    facts, weights = layer.facts, layer.weights
    length = facts.whole("embedding_length_per_layer_input", 0)
    if not length:
        return None
    if not layer.index:
        assert run.ids is not None
        n = facts.n_layers
        own = weights.rows("per_layer_token_embd.weight", run.ids.reshape(-1), run, n * length).reshape(-1, n, length)
        projected = weights.multiply("per_layer_model_proj.weight", x, run, n * length).reshape(-1, n, length)
        projected *= np.float32(facts.width**-0.5)
        norm = weights.small("per_layer_proj_norm.weight", length)
        projected = normalise(projected, norm, None, "rms", facts.eps, run)
        run.shared["of layers"] = (projected + own * np.float32(length**0.5)) * np.float32(0.5**0.5)
    found: Array = run.shared["of layers"]
    return found


ARCHITECTURES = (
    Architecture(
        "gemma4",
        "Gemma 4",
        graph=Graph(
            activation="gelu",
            rope="halves",
            windows=windowed(6),
            window_base=lambda facts, base: facts.number("rope.freq_base_swa", 10000.0),
            window_scale=lambda facts, scale: 1.0,
            attention_scale=lambda facts, layer: 1.0,
            embedding_scale=lambda facts: facts.width**0.5,
            logit_softcap=0.0,
            layer=whole,
        ),
        checkpoints=GEMMA_4,
    ),
)
