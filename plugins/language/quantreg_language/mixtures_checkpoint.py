"""How dots.llm1, MiniMax M2, ERNIE 4.5 with experts and Trinity are published."""

from quantreg.checkpoints import Checkpoint, Config, Key, Row, Vocabulary, common, named

_MLP = "model.layers.{i}.mlp."
_SPARSE = "model.layers.{i}.block_sparse_moe."
_HEAD_NORMS = named({"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}, bias=False)
_BIAS = Row("blk.{i}.exp_probs_b.bias", f"{_MLP}gate.e_score_correction_bias", unless="blk.{i}.ffn_gate.weight")


def _scores(config: Config) -> int:
    """How experts are scored: "noaux_tc" says how they are chosen, by scores of a sigmoid."""
    return 1 if config.get("scoring_func") == "softmax" else 2


DOTS_1 = (
    Checkpoint(
        classes=("Dots1ForCausalLM",),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *common.ATTENTION,
            *_HEAD_NORMS,
            *common.SPARSE_OR_DENSE,
            _BIAS,
            *common.SHARED_EXPERTS,
        ),
        keys=(
            *(
                Key(key.new, _scores, back="scoring_func") if key.new == "expert_gating_func" else key
                for key in common.DECODER_KEYS
            ),
            Key("expert_feed_forward_length", "moe_intermediate_size"),
            Key("leading_dense_block_count", "first_k_dense_replace"),
            Key("expert_shared_count", "n_shared_experts"),
            Key("expert_weights_scale", "routed_scaling_factor", "f32"),
            Key("expert_weights_norm", "norm_topk_prob", "bool"),
        ),
        model_type="dots1",
        restored=(
            ("n_routed_experts", common.value_of("expert_count")),
            ("scoring_func", "sigmoid"),
            ("attention_bias", common.has("attn_q.bias")),
        ),
        vocabulary="qwen2",
        defaults=(("rms_norm_eps", 1e-6), ("n_group", 1), ("topk_group", 1)),
    ),
)
MINIMAX_M2 = (
    Checkpoint(
        classes=("MiniMaxM2ForCausalLM",),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *common.ATTENTION_WEIGHTS,
            *_HEAD_NORMS,
            Row("blk.{i}.ffn_gate_inp.weight", f"{_SPARSE}gate.weight"),
            Row("blk.{i}.exp_probs_b.bias", f"{_SPARSE}e_score_correction_bias"),
            *common.experts(f"{_SPARSE}experts.{{e}}.", "w1", "w3", "w2"),
        ),
        keys=(
            *common.DECODER_KEYS,
            Key("expert_feed_forward_length", "intermediate_size"),
            Key("rope.dimension_count", "rotary_dim", needed=True),
        ),
        model_type="minimax_m2",
        restored=(("scoring_func", "sigmoid"), ("use_routing_bias", True), ("use_qk_norm", True)),
        vocabulary="bpe",
        defaults=(("rms_norm_eps", 1e-6),),
    ),
)


def _shared(config: Config) -> int | None:
    """What the reference writes as the length of the shared experts."""
    return config.number("intermediate_size") // config.kv_heads if config.get("moe_num_shared_experts") else None


ERNIE_4_5_MOE = (
    Checkpoint(
        classes=("Ernie4_5_MoeForCausalLM",),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *common.ATTENTION_WEIGHTS,
            *common.SPARSE_OR_DENSE,
            Row(
                "blk.{i}.exp_probs_b.bias",
                f"{_MLP}moe_statics.e_score_correction_bias",
                unless="blk.{i}.ffn_gate.weight",
            ),
            *named(
                {
                    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
                    "ffn_up_shexp": "mlp.shared_experts.up_proj",
                    "ffn_down_shexp": "mlp.shared_experts.down_proj",
                },
                bias=False,
                unless="ffn_gate",
                optional=lambda config: not config.get("moe_num_shared_experts"),
            ),
        ),
        keys=(
            *common.without(common.DECODER_KEYS, "expert_count", "expert_used_count"),
            Key("expert_count", "moe_num_experts", needed=True),
            Key("expert_used_count", "moe_k", needed=True),
            Key("interleave_moe_layer_step", "moe_layer_interval"),
            Key("leading_dense_block_count", "moe_layer_start_index"),
            Key("expert_feed_forward_length", "moe_intermediate_size"),
            Key("expert_shared_count", "moe_num_shared_experts"),
            Key("expert_shared_feed_forward_length", _shared),
        ),
        ignored=("model.mtp_*",),
        model_type="ernie4_5_moe",
        restored=(
            ("moe_layer_end_index", lambda model: model.number("block_count") - 1),
            ("use_bias", False),
        ),
        vocabulary=Vocabulary(kinds=("sentencepiece",)),
        defaults=(("rope_theta", 500000.0), ("rms_norm_eps", 1e-5)),
    ),
)
AFMOE = (
    Checkpoint(
        classes=("AfmoeForCausalLM",),
        rows=(
            *common.OUTER,
            *named(
                {
                    "attn_norm": "input_layernorm",
                    "post_attention_norm": "post_attention_layernorm",
                    "ffn_norm": "pre_mlp_layernorm",
                    "post_ffw_norm": "post_mlp_layernorm",
                    "attn_gate": "self_attn.gate_proj",
                },
                bias=False,
            ),
            *common.ATTENTION_WEIGHTS,
            *_HEAD_NORMS,
            *(row for row in common.SPARSE_OR_DENSE if row.new != "blk.{i}.ffn_gate_inp.weight"),
            Row("blk.{i}.ffn_gate_inp.weight", f"{_MLP}router.gate.weight", unless="blk.{i}.ffn_gate.weight"),
            Row("blk.{i}.exp_probs_b.bias", f"{_MLP}expert_bias", unless="blk.{i}.ffn_gate.weight"),
            *common.SHARED_EXPERTS,
        ),
        keys=(
            *common.DECODER_KEYS,
            Key("vocab_size", "vocab_size", needed=True),
            Key("rope.dimension_count", lambda config: config.head_size),
            Key("expert_shared_count", "num_shared_experts"),
            Key("expert_feed_forward_length", "moe_intermediate_size"),
            Key("leading_dense_block_count", "num_dense_layers"),
            Key("expert_weights_norm", "route_norm", "bool"),
            Key("expert_weights_scale", "route_scale", "f32"),
            Key("attention.sliding_window", "sliding_window"),
        ),
        model_type="afmoe",
        restored=(
            ("num_experts", common.value_of("expert_count")),
            ("score_func", "sigmoid"),
            ("mup_enabled", True),
            ("global_attn_every_n_layers", 4),
        ),
        vocabulary="llama",
    ),
)
