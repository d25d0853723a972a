"""How LFM 2 is published: some layers have attention, and the others a short convolution."""

from quantreg.checkpoints import Checkpoint, Config, Described, Key, Row, Squeezed, common, named


def _kv_heads(config: Config) -> list[int]:
    """The heads of keys and values of each layer: none where there is a convolution."""
    return [0 if kind == "conv" else config.kv_heads for kind in config["layer_types"]]


def _feed_forward(config: Config) -> int:
    """The length of the feed-forward network, which config.json gives before it is made smaller and rounded up."""
    length = config.number("block_ff_dim", "intermediate_size")
    if not config.get("block_auto_adjust_ff_dim", True):
        return length
    length = int(config.get("block_ffn_dim_multiplier", 1.0) * int(2 * length / 3))
    step = config.number("block_multiple_of", default=256)
    return step * -(-length // step)


def _layer_types(model: Described) -> list[str]:
    heads = model.get("attention.head_count_kv")
    return ["full_attention" if n else "conv" for n in heads]


_MIXERS = (
    Row("token_embd.weight", "model.embed_tokens.weight"),
    Row("token_embd_norm.weight", "model.embedding_norm.weight"),
    *named({"attn_norm": "operator_norm", "ffn_norm": "ffn_norm"}, bias=False),
    *named(
        {
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.out_proj",
            "attn_q_norm": "self_attn.q_layernorm",
            "attn_k_norm": "self_attn.k_layernorm",
        },
        bias=False,
        unless="shortconv.conv",
    ),
    *named(
        {"shortconv.in_proj": "conv.in_proj", "shortconv.out_proj": "conv.out_proj"},
        bias=False,
        unless="attn_q",
    ),
    *named({"shortconv.conv": "conv.conv"}, how=Squeezed(1), bias=False, unless="attn_q"),
)
LFM_2 = (
    Checkpoint(
        classes=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
        rows=(
            *_MIXERS,
            *named(
                {"ffn_gate": "feed_forward.w1", "ffn_down": "feed_forward.w2", "ffn_up": "feed_forward.w3"},
                bias=False,
            ),
        ),
        keys=(
            *(
                Key(key.new, {"attention.head_count_kv": _kv_heads, "feed_forward_length": _feed_forward}[key.new])
                if key.new in ("attention.head_count_kv", "feed_forward_length")
                else key
                for key in common.DECODER_KEYS
            ),
            Key("vocab_size", "vocab_size", needed=True),
            Key("shortconv.l_cache", "conv_L_cache", needed=True),
        ),
        ignored=("lm_head.weight",),  # always tied
        model_type="lfm2",
        vocabulary="bpe",
        restored=(
            ("norm_eps", common.value_of("attention.layer_norm_rms_epsilon")),
            ("num_key_value_heads", lambda model: max(model.get("attention.head_count_kv"))),
            ("layer_types", _layer_types),
            ("intermediate_size", common.value_of("feed_forward_length")),
            ("block_auto_adjust_ff_dim", False),
            ("conv_bias", False),
        ),
    ),
)

_FF = "model.layers.{i}.feed_forward."

LFM_2_MOE = (
    Checkpoint(
        classes=("Lfm2MoeForCausalLM",),
        rows=(
            *_MIXERS,
            *named(
                {"ffn_gate": "feed_forward.w1", "ffn_down": "feed_forward.w2", "ffn_up": "feed_forward.w3"},
                bias=False,
                unless="ffn_gate_inp",
            ),
            Row("blk.{i}.ffn_gate_inp.weight", f"{_FF}gate.weight", unless="blk.{i}.ffn_gate.weight"),
            Row(
                "blk.{i}.exp_probs_b.bias",
                f"{_FF}expert_bias",
                unless="blk.{i}.ffn_gate.weight",
                optional=lambda config: config.get("use_expert_bias") is False,
            ),
            *common.experts(f"{_FF}experts.{{e}}.", "w1", "w3", "w2", unless="blk.{i}.ffn_gate.weight"),
        ),
        keys=(
            *(
                Key(key.new, _kv_heads) if key.new == "attention.head_count_kv" else key
                for key in common.without(common.DECODER_KEYS, "expert_gating_func")
            ),
            Key("expert_feed_forward_length", "moe_intermediate_size", needed=True),
            Key("leading_dense_block_count", "num_dense_layers", needed=True),
            Key("expert_gating_func", lambda config: 2),
            Key("vocab_size", "vocab_size", needed=True),
            Key("shortconv.l_cache", "conv_L_cache", needed=True),
        ),
        ignored=("lm_head.weight",),  # always tied
        model_type="lfm2_moe",
        vocabulary="bpe",
        restored=(
            ("norm_eps", common.value_of("attention.layer_norm_rms_epsilon")),
            ("num_key_value_heads", lambda model: max(model.get("attention.head_count_kv"))),
            ("num_experts", common.value_of("expert_count")),
            ("layer_types", _layer_types),
            ("use_expert_bias", lambda model: any(name.endswith("exp_probs_b.bias") for name in model.infos)),
            ("conv_bias", False),
        ),
    ),
)
