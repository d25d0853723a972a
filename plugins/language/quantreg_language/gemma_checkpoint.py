"""How Gemma is published: its norms are stored as their difference from 1."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quantreg.checkpoints import Checkpoint, Config, Described, Key, Plus, Row, common, named

_OUTER = (
    Row("token_embd.weight", "model.embed_tokens.weight"),
    Row("output_norm.weight", "model.norm.weight", Plus()),
)
_DENSE = (*common.ATTENTION_WEIGHTS, *common.DENSE_WEIGHTS)
_BOTH_SIDES = named(
    {
        "attn_norm": "input_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    how=Plus(),
    bias=False,
)
_HEAD_NORMS = named({"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}, how=Plus(), bias=False)
_SIZES = (
    Key("context_length", "max_position_embeddings", needed=True),
    Key("embedding_length", "hidden_size", needed=True),
    common.BLOCK_COUNT,
    Key("feed_forward_length", "intermediate_size", needed=True),
    Key("attention.head_count", "num_attention_heads", needed=True),
    Key("attention.head_count_kv", "num_key_value_heads"),
    Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", "f32"),
    Key("attention.key_length", "head_dim"),
    Key("attention.value_length", "head_dim"),
    common.FILE_TYPE,
)
_DEFAULTS = (("rms_norm_eps", 1e-6), ("head_dim", 256))
_IGNORED = ("lm_head.weight",)  # always tied


def _scalar(layers_27b: int) -> Callable[[Described], float]:
    """By what queries are scaled: the length of a head, but for the model of 27 B, known by its number of layers."""

    def scalar(model: Described) -> float:
        if model.number("block_count") == layers_27b:
            return model.number("embedding_length") // model.number("attention.head_count")
        return model.head_size

    return scalar


def _window(config: Config) -> Any:
    return None if config.get("sliding_window_pattern") == 1 else config.get("sliding_window")


GEMMA = (
    Checkpoint(
        classes=("GemmaForCausalLM",),
        rows=(
            *_OUTER,
            *named({"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}, how=Plus(), bias=False),
            *_DENSE,
        ),
        keys=_SIZES,
        ignored=_IGNORED,
        model_type="gemma",
        vocabulary="gemma",
        defaults=(*_DEFAULTS, ("max_position_embeddings", 8192)),
    ),
)
GEMMA_2 = (
    Checkpoint(
        classes=("Gemma2ForCausalLM",),
        rows=(*_OUTER, *_BOTH_SIDES, *_DENSE),
        keys=(
            *_SIZES,
            Key("attn_logit_softcapping", "attn_logit_softcapping", "f32"),
            Key("final_logit_softcapping", "final_logit_softcapping", "f32"),
            Key("attention.sliding_window", "sliding_window"),
        ),
        ignored=_IGNORED,
        model_type="gemma2",
        vocabulary="gemma2",
        defaults=(
            *_DEFAULTS,
            ("max_position_embeddings", 8192),
            ("num_key_value_heads", 4),
            ("attn_logit_softcapping", 50.0),
            ("final_logit_softcapping", 30.0),
            ("sliding_window", 4096),
        ),
        restored=(("query_pre_attn_scalar", _scalar(46)),),
    ),
)
GEMMA_3 = (
    Checkpoint(
        classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        rows=(*_OUTER, *_BOTH_SIDES, *_DENSE, *_HEAD_NORMS),
        keys=(
            *common.DECODER_KEYS,
            Key("final_logit_softcapping", lambda config: config.get("final_logit_softcapping") or None, "f32"),
            Key("attention.sliding_window", _window),
        ),
        ignored=(*_IGNORED, "vision_tower.*", "multi_modal_projector.*"),
        starts=(("language_model.", ""),),
        model_type="gemma3_text",
        vocabulary="gemma3",
        defaults=(
            *_DEFAULTS,
            ("max_position_embeddings", 131072),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("rope_theta", 1e6),
            ("rope_local_base_freq", 10000.0),
            ("sliding_window", 4096),
        ),
        restored=(
            ("query_pre_attn_scalar", _scalar(62)),
            ("final_logit_softcapping", common.value_of("final_logit_softcapping")),
            ("rope_local_base_freq", common.value_of("rope.freq_base_swa", 10000.0)),
            ("sliding_window", common.value_of("attention.sliding_window")),
        ),
    ),
)
GEMMA_EMBEDDING = (
    replace(
        GEMMA_3[0],
        classes=("Gemma3TextModel",),
        keys=(*common.DECODER_KEYS, Key("attention.sliding_window", "sliding_window", needed=True), common.POOLING),
        ignored=(),
        starts=(("embed_tokens.", "model.embed_tokens."), ("layers.", "model.layers."), ("norm.", "model.norm.")),
        defaults=(("rms_norm_eps", 1e-6),),
        restored=(
            ("use_bidirectional_attention", True),
            ("query_pre_attn_scalar", lambda model: model.head_size),
            ("rope_local_base_freq", common.value_of("rope.freq_base_swa", 10000.0)),
            ("sliding_window", common.value_of("attention.sliding_window")),
        ),
    ),
)
