"""How Command R and StableLM are published."""

from quantreg.checkpoints import Checkpoint, Config, Key, Row, common, named

_HEAD_NORMS = named(
    {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
    bias=False,
    optional=lambda config: not config.get("use_qk_norm"),
)


def _context(config: Config) -> int:
    """What the model was trained on, which "model_max_length" says where "max_position_embeddings" is a default."""
    return config.number("model_max_length", "max_position_embeddings")


COMMAND_R = (
    Checkpoint(
        classes=("CohereForCausalLM",),
        rows=(
            *common.OUTER,
            Row("blk.{i}.attn_norm.weight", "model.layers.{i}.input_layernorm.weight"),
            *common.ATTENTION_WEIGHTS,
            *_HEAD_NORMS,
            *common.DENSE_WEIGHTS,
        ),
        keys=(
            *(Key("context_length", _context) if key.new == "context_length" else key for key in common.DECODER_KEYS),
            Key("logit_scale", "logit_scale", "f32"),
            Key("rope.scaling.type", lambda config: "none", "string"),
        ),
        model_type="cohere",
        vocabulary="bpe",
        defaults=(
            ("rope_theta", 500000.0),
            ("layer_norm_eps", 1e-5),
            ("num_key_value_heads", common.heads),
            ("max_position_embeddings", 8192),
            ("logit_scale", 0.0625),
        ),
        restored=(
            ("max_position_embeddings", common.value_of("context_length")),
            ("use_qk_norm", common.has("attn_q_norm.weight")),
        ),
    ),
)


def _cohere_2_rotated(config: Config) -> int:
    return int(config.get("rotary_pct", 1.0) * (config.width // config.heads))


COHERE_2 = (
    Checkpoint(
        classes=("Cohere2ForCausalLM",),
        rows=(
            *common.OUTER[:2],
            Row("blk.{i}.attn_norm.weight", "model.layers.{i}.input_layernorm.weight"),
            *common.ATTENTION_WEIGHTS,
            *common.DENSE_WEIGHTS,
        ),
        keys=(
            *common.DECODER_KEYS,
            Key("logit_scale", "logit_scale", "f32"),
            Key("attention.sliding_window", "sliding_window"),
            Key("vocab_size", "vocab_size"),
            Key("rope.dimension_count", _cohere_2_rotated),
            Key("rope.scaling.type", lambda config: "none", "string"),
        ),
        model_type="cohere2",
        vocabulary="bpe",
        defaults=(("rope_theta", 10000.0), ("head_dim", common.head_size)),
        restored=(("rotary_pct", common.rotated_share),),
    ),
)


def _stablelm_rotated(config: Config) -> int:
    return int(config.rope.get("partial_rotary_factor", 0.25) * (config.width // config.heads))


def _none(config: Config) -> bool:
    """Whether queries and keys have no norms of their own."""
    return not config.get("qk_layernorm")


STABLELM = (
    Checkpoint(
        classes=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
        rows=(
            Row("token_embd.weight", "model.embed_tokens.weight"),
            *named({"output_norm": "model.norm"}, ""),
            Row("output.weight", "lm_head.weight"),
            *named({"attn_norm": "input_layernorm"}),
            *named({"ffn_norm": "post_attention_layernorm"}, optional=lambda config: config["use_parallel_residual"]),
            *common.ATTENTION,
            Row(
                "blk.{i}.attn_q_norm.weight", "model.layers.{i}.self_attn.q_layernorm.norms.{e}.weight", optional=_none
            ),
            Row(
                "blk.{i}.attn_k_norm.weight", "model.layers.{i}.self_attn.k_layernorm.norms.{e}.weight", optional=_none
            ),
            *common.DENSE_WEIGHTS,
        ),
        keys=(
            Key("context_length", "max_position_embeddings"),
            Key("embedding_length", "hidden_size", needed=True),
            common.BLOCK_COUNT,
            Key("feed_forward_length", "intermediate_size", needed=True),
            Key("rope.dimension_count", _stablelm_rotated),
            Key("attention.head_count", "num_attention_heads", needed=True),
            Key("attention.head_count_kv", "num_key_value_heads"),
            Key("use_parallel_residual", "use_parallel_residual", "bool"),
            Key("attention.layer_norm_epsilon", ("layer_norm_eps", "norm_eps"), "f32"),
            common.FILE_TYPE,
        ),
        model_type="stablelm",
        vocabulary="bpe",
        defaults=(
            ("max_position_embeddings", 4096),
            ("use_parallel_residual", False),
            ("layer_norm_eps", 1e-5),
        ),
        restored=(
            ("partial_rotary_factor", common.rotated_share),
            ("use_qkv_bias", common.has("attn_q.bias")),
            ("qk_layernorm", common.has("attn_q_norm.weight")),
        ),
    ),
)
