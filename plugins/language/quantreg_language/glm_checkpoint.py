"""How GLM-4 and its successors are published."""

from quantreg.checkpoints import Checkpoint, Config, Key, Row, common, named

_MLP = "model.layers.{i}.mlp."
_DEFAULTS = (("rope_theta", 10000.0), ("head_dim", 128))


def _rotated(config: Config) -> int:
    return int(config.head_size * config.rope.get("partial_rotary_factor", 0.5))


_FUSED = named({"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}, bias=False)

GLM_4 = (
    Checkpoint(
        classes=("Glm4ForCausalLM",),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *named(
                {"post_attention_norm": "post_self_attn_layernorm", "post_ffw_norm": "post_mlp_layernorm"}, bias=False
            ),
            *common.ATTENTION,
            *_FUSED,
        ),
        keys=(*common.DECODER_KEYS, Key("rope.dimension_count", _rotated)),
        model_type="glm4",
        restored=(
            ("partial_rotary_factor", common.rotated_share),
            ("attention_bias", common.has("attn_q.bias")),
        ),
        vocabulary="glm4",
        defaults=(*_DEFAULTS, ("rms_norm_eps", 1.5625e-07)),
    ),
)
GLM = (
    Checkpoint(
        classes=("GlmForCausalLM",),
        rows=(*common.OUTER, *common.LAYER_NORMS, *common.ATTENTION, *_FUSED),
        keys=(
            Key("context_length", "max_position_embeddings"),
            Key("embedding_length", "hidden_size", needed=True),
            Key("feed_forward_length", "intermediate_size", needed=True),
            common.BLOCK_COUNT,
            Key("attention.head_count", "num_attention_heads", needed=True),
            Key("attention.head_count_kv", "num_key_value_heads"),
            Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", "f32", needed=True),
            common.FILE_TYPE,
            Key("rope.dimension_count", _rotated),
            Key("=tokenizer.ggml.add_bos_token", lambda config: False, "bool"),
            Key("rope.freq_base", lambda config: config.rope["rope_theta"], "f32"),
        ),
        model_type="glm",
        restored=(
            ("head_dim", lambda model: model.head_size),
            ("partial_rotary_factor", common.rotated_share),
            ("attention_bias", common.has("attn_q.bias")),
        ),
        vocabulary="glm",
        defaults=(("rope_theta", 10000.0),),
    ),
)


def _further(config: Config) -> int | None:
    """How many layers predict further tokens; 0 only if config.json speaks of them."""
    return config.further or (None if config.get("num_nextn_predict_layers") is None else 0)


GLM_4_MOE = (
    Checkpoint(
        classes=("Glm4MoeForCausalLM",),
        rows=(
            *common.OUTER,
            *named({"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}, bias=False),
            *common.ATTENTION,
            *named(
                {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
                bias=False,
                optional=lambda config: not config.get("use_qk_norm"),
            ),
            *common.SPARSE_OR_DENSE,
            Row("blk.{i}.exp_probs_b.bias", f"{_MLP}gate.e_score_correction_bias", unless="blk.{i}.ffn_gate.weight"),
            *common.SHARED_EXPERTS,
            *common.further_rows(),
            *common.FURTHER_ENDS,
        ),
        keys=(
            *common.without(common.DECODER_KEYS, "expert_gating_func"),
            Key("rope.dimension_count", _rotated),
            Key("expert_feed_forward_length", "moe_intermediate_size"),
            Key("expert_shared_count", "n_shared_experts"),
            Key("leading_dense_block_count", "first_k_dense_replace"),
            Key("expert_gating_func", lambda config: 2),
            Key("expert_weights_scale", "routed_scaling_factor", "f32"),
            Key("expert_weights_norm", "norm_topk_prob", "bool"),
            Key("nextn_predict_layers", _further),
        ),
        further=True,
        model_type="glm4_moe",
        restored=(
            ("num_hidden_layers", common.trunk_layers),
            ("num_nextn_predict_layers", common.value_of("nextn_predict_layers")),
            ("n_routed_experts", common.value_of("expert_count")),
            ("partial_rotary_factor", common.rotated_share),
            ("attention_bias", common.has("attn_q.bias")),
            ("use_qk_norm", common.has("attn_q_norm.weight")),
        ),
        vocabulary="glm4moe",
        defaults=(("rope_theta", 10000.0), ("rms_norm_eps", 1e-5)),
    ),
)
