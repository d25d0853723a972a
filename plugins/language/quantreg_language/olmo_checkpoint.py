"""How OLMo is published."""

from dataclasses import replace

from quantreg.checkpoints import Checkpoint, Config, Described, Key, Row, common, named


def _pattern(config: Config) -> list[bool]:
    """Which layers have a window."""
    kinds = config.get("layer_types")
    if kinds is None:
        return [(i + 1) % 4 != 0 for i in range(config.n_layers)]
    return [kind == "sliding_attention" for kind in kinds]


def _layer_types(model: Described) -> list[str]:
    pattern = model.get("attention.sliding_window_pattern")
    return ["sliding_attention" if windowed else "full_attention" for windowed in pattern]


_OLMO_2 = Checkpoint(
    classes=("Olmo2ForCausalLM",),
    rows=(
        *common.OUTER,
        *named(
            {
                "attn_q_norm": "self_attn.q_norm",
                "attn_k_norm": "self_attn.k_norm",
                "post_attention_norm": "post_attention_layernorm",
                "post_ffw_norm": "post_feedforward_layernorm",
            },
            bias=False,
        ),
        *common.ATTENTION_WEIGHTS,
        *common.DENSE_WEIGHTS,
    ),
    keys=common.DECODER_KEYS,
    model_type="olmo2",
    vocabulary="bpe",
    defaults=(("rope_theta", 10000.0), ("rms_norm_eps", 1e-5), ("num_key_value_heads", common.heads)),
)
_OLMO_3 = replace(
    _OLMO_2,
    classes=("Olmo3ForCausalLM",),
    keys=(
        *common.DECODER_KEYS,
        Key("attention.sliding_window", "sliding_window"),
        Key("attention.sliding_window_pattern", _pattern, "array[bool]"),
    ),
    model_type="olmo3",
    defaults=(
        ("rope_theta", 500000.0),
        ("rope_local_base_freq", 500000.0),
        ("rms_norm_eps", 1e-5),
        ("num_key_value_heads", common.heads),
        ("sliding_window", 4096),
    ),
    restored=(("layer_types", _layer_types),),
)
OLMO_2 = (_OLMO_2, _OLMO_3)


OLMO = (
    Checkpoint(
        classes=("OlmoForCausalLM", "OLMoForCausalLM"),
        rows=(
            Row("token_embd.weight", "model.embed_tokens.weight"),
            Row("output.weight", "lm_head.weight", optional=common.tied),
            *common.PAIRED_WEIGHTS,
            *common.DENSE_WEIGHTS,
        ),
        keys=(
            *common.DECODER_KEYS,
            Key("attention.layer_norm_epsilon", lambda config: 1e-5, "f32"),  # config.json does not say it
            Key("attention.clamp_kqv", "clip_qkv", "f32"),
        ),
        model_type="olmo",
        vocabulary="bpe",
        defaults=(("rope_theta", 10000.0), ("num_key_value_heads", common.heads)),
    ),
)
OLMOE = (
    Checkpoint(
        classes=("OlmoeForCausalLM",),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *common.ATTENTION_WEIGHTS,
            *named({"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}, bias=False),
            Row("blk.{i}.ffn_gate_inp.weight", "model.layers.{i}.mlp.gate.weight"),
            *common.experts("model.layers.{i}.mlp.experts.{e}."),
        ),
        keys=common.DECODER_KEYS,
        model_type="olmoe",
        restored=(("num_experts", common.value_of("expert_count")), ("norm_topk_prob", False)),
        vocabulary="bpe",
        defaults=(("rope_theta", 10000.0), ("rms_norm_eps", 1e-5), ("num_key_value_heads", common.heads)),
    ),
)
