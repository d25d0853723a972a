"""How the family of GPT-2 and GPT-NeoX is published."""

from quantreg.checkpoints import Apart, Checkpoint, Config, Described, Key, Plus, Row, Transposed, common, named
from quantreg.checkpoints.vocabulary_hint import Vocabulary
from quantreg.gguf import Value

_GPT2 = "h.{i}."
_NEOX = "gpt_neox.layers.{i}."
_FALCON = "transformer.h.{i}."


_TURNED = {
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}

# The names that GPT-2 has for what others call "num_hidden_layers" and so on.
_SHORT = (
    ("n_layer", common.value_of("block_count")),
    ("n_positions", common.value_of("context_length")),
    ("n_ctx", common.value_of("context_length")),
)

GPT_2 = (
    Checkpoint(
        classes=("GPT2LMHeadModel",),
        rows=(
            Row("token_embd.weight", "wte.weight"),
            Row("position_embd.weight", "wpe.weight"),
            *named({"output_norm": "ln_f"}, ""),
            Row("output.weight", "lm_head.weight", optional=True),
            *named({"attn_norm": "ln_1", "ffn_norm": "ln_2"}, _GPT2),
            *named(_TURNED, _GPT2, how=Transposed(), bias=False),
            *(Row(f"blk.{{i}}.{new}.bias", f"{_GPT2}{old}.bias") for new, old in _TURNED.items()),
        ),
        keys=(
            common.BLOCK_COUNT,
            Key("context_length", ("n_ctx", "n_positions"), needed=True),
            Key("embedding_length", "n_embd", needed=True),
            Key("feed_forward_length", lambda config: 4 * config.width),
            Key("attention.head_count", "n_head", needed=True),
            Key("attention.layer_norm_epsilon", "layer_norm_epsilon", "f32"),
            common.FILE_TYPE,
        ),
        ignored=("h.*.attn.bias", "h.*.attn.masked_bias"),  # masks
        starts=(("transformer.", ""),),
        model_type="gpt2",
        vocabulary="bpe",
        defaults=(("layer_norm_epsilon", 1e-5),),
        restored=_SHORT,
    ),
)


def _neox_parts(config: Config) -> Apart:
    return Apart(config.heads, (config.width // config.heads,) * 3)


def _neox_rotated(config: Config) -> int:
    return int(config.get("rotary_pct", config.rope.get("partial_rotary_factor", 0.25)) * config.head_size)


GPT_NEOX = (
    Checkpoint(
        classes=("GPTNeoXForCausalLM",),
        rows=(
            Row("token_embd.weight", "gpt_neox.embed_in.weight"),
            *named({"output_norm": "gpt_neox.final_layer_norm"}, ""),
            Row("output.weight", "embed_out.weight"),
            *named({"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}, _NEOX),
            *named({"attn_qkv": "attention.query_key_value"}, _NEOX, how=_neox_parts),
            *named(
                {"attn_output": "attention.dense", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"},
                _NEOX,
            ),
        ),
        keys=(
            Key("context_length", "max_position_embeddings", needed=True),
            Key("embedding_length", "hidden_size", needed=True),
            common.BLOCK_COUNT,
            Key("feed_forward_length", "intermediate_size", needed=True),
            Key("rope.dimension_count", _neox_rotated),
            Key("attention.head_count", "num_attention_heads", needed=True),
            Key("use_parallel_residual", "use_parallel_residual", "bool"),
            Key("attention.layer_norm_epsilon", "layer_norm_eps", "f32"),
            common.FILE_TYPE,
        ),
        model_type="gpt_neox",
        vocabulary="bpe",
        defaults=(("use_parallel_residual", True), ("layer_norm_eps", 1e-5), ("max_position_embeddings", 2048)),
        restored=(("rotary_pct", common.rotated_share), ("rotary_emb_base", common.value_of("rope.freq_base", 10000))),
    ),
)


def _falcon_kv_heads(config: Config) -> int:
    """Of the first models all heads share keys and values; what config.json says then does not count."""
    if config.get("new_decoder_architecture") or not config.get("multi_query", True):
        return config.number("num_kv_heads", "n_head_kv", default=config.heads)
    return 1


def _falcon_parts(config: Config) -> Apart:
    groups, size = _falcon_kv_heads(config), config.width // config.heads
    return Apart(groups, (config.heads // groups * size, size, size))


def _norms(config: Config) -> int:
    """How many norms a layer has: transformers takes two for the architecture of Falcon 40B if nothing is said."""
    return int(config.get("num_ln_in_parallel_attn", 2 if config.get("new_decoder_architecture") else 1))


def _one_norm(config: Config) -> bool:
    return _norms(config) == 1


def _is_new(model: Described) -> bool:
    """Whether a model has the architecture of Falcon 40B, whose queries are grouped."""
    shared = model.number("attention.head_count_kv")
    return model.has("blk.0.attn_norm_2.weight") or shared not in (1, model.number("attention.head_count"))


FALCON = (
    Checkpoint(
        classes=("FalconForCausalLM", "RWForCausalLM"),
        rows=(
            Row("token_embd.weight", "transformer.word_embeddings.weight"),
            *named({"output_norm": "transformer.ln_f"}, ""),
            Row("output.weight", "lm_head.weight", optional=True),
            *named({"attn_norm": "input_layernorm"}, _FALCON, back=_one_norm),
            *named({"attn_norm": "ln_mlp"}, _FALCON),
            *named({"attn_norm_2": "ln_attn"}, _FALCON, optional=_one_norm),
            *named({"attn_qkv": "self_attention.query_key_value"}, _FALCON, how=_falcon_parts, bias=False),
            *named(
                {"attn_output": "self_attention.dense", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"},
                _FALCON,
                bias=False,
            ),
        ),
        keys=(
            Key("context_length", lambda config: 2048),  # config.json does not say it
            Key("tensor_data_layout", lambda config: "jploski", "string"),
            Key("embedding_length", "hidden_size", needed=True),
            Key("feed_forward_length", lambda config: 4 * config.width),
            common.BLOCK_COUNT,
            Key("attention.head_count", lambda config: config.heads),
            Key("attention.head_count_kv", _falcon_kv_heads),
            Key("attention.layer_norm_epsilon", "layer_norm_epsilon", "f32"),
            common.FILE_TYPE,
        ),
        model_type="falcon",
        vocabulary="bpe",
        defaults=(("layer_norm_epsilon", 1e-5),),
        restored=(
            ("num_attention_heads", common.value_of("attention.head_count")),
            ("num_kv_heads", common.value_of("attention.head_count_kv")),
            ("multi_query", lambda model: model.number("attention.head_count_kv") == 1),
            ("new_decoder_architecture", _is_new),
            ("num_ln_in_parallel_attn", lambda model: 2 if model.has("blk.0.attn_norm_2.weight") else 1),
            ("parallel_attn", True),
            ("bias", False),
            ("alibi", False),
        ),
    ),
)
STARCODER_2 = (
    Checkpoint(
        classes=("Starcoder2ForCausalLM",),
        rows=(
            Row("token_embd.weight", "model.embed_tokens.weight"),
            *named({"output_norm": "model.norm"}, ""),
            Row("output.weight", "lm_head.weight", optional=common.tied),
            *named({"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}),
            *common.ATTENTION,
            *named({"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}),
        ),
        keys=common.DECODER_KEYS,
        model_type="starcoder2",
        vocabulary="bpe",
        defaults=(("rope_theta", 10000.0), ("norm_epsilon", 1e-5), ("num_key_value_heads", 2)),
        restored=(
            ("norm_epsilon", common.value_of("attention.layer_norm_epsilon")),
            ("use_bias", common.has("attn_q.bias")),
        ),
    ),
)
STARCODER = (
    Checkpoint(
        classes=("GPTBigCodeForCausalLM",),
        rows=(
            Row("token_embd.weight", "wte.weight"),
            Row("position_embd.weight", "wpe.weight"),
            *named({"output_norm": "ln_f"}, ""),
            *named({"attn_norm": "ln_1", "ffn_norm": "ln_2", **_TURNED}, _GPT2),
        ),
        keys=(
            Key("context_length", "n_positions", needed=True),
            Key("embedding_length", "n_embd", needed=True),
            Key("feed_forward_length", lambda config: 4 * config.width),
            common.BLOCK_COUNT,
            Key("attention.head_count", "n_head", needed=True),
            Key("attention.head_count_kv", lambda config: 1),
            Key("attention.layer_norm_epsilon", "layer_norm_epsilon", "f32"),
            common.FILE_TYPE,
        ),
        starts=(("transformer.", ""),),
        model_type="gpt_bigcode",
        vocabulary="bpe",
        restored=(
            ("n_layer", common.value_of("block_count")),
            ("n_inner", common.value_of("feed_forward_length")),
            ("multi_query", True),
        ),
    ),
)
BLOOM = (
    Checkpoint(
        classes=("BloomForCausalLM",),
        rows=(
            Row("token_embd.weight", "word_embeddings.weight"),
            *named({"token_embd_norm": "word_embeddings_layernorm", "output_norm": "ln_f"}, ""),
            *named({"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}, _GPT2),
            *named({"attn_qkv": "self_attention.query_key_value"}, _GPT2, how=_neox_parts),
            *named(
                {"attn_output": "self_attention.dense", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"},
                _GPT2,
            ),
        ),
        keys=(
            Key("context_length", lambda config: config.get("seq_length", config.width)),
            Key("embedding_length", lambda config: config.width),
            Key("feed_forward_length", lambda config: 4 * config.width),
            common.BLOCK_COUNT,
            Key("attention.head_count", lambda config: config.heads),
            Key("attention.head_count_kv", lambda config: config.heads),
            Key("attention.layer_norm_epsilon", "layer_norm_epsilon", "f32"),
            common.FILE_TYPE,
        ),
        starts=(("transformer.", ""),),
        model_type="bloom",
        vocabulary="bpe",
        restored=(
            ("seq_length", common.value_of("context_length")),
            ("hidden_size", common.value_of("embedding_length")),
            ("n_layer", common.value_of("block_count")),
            ("n_head", common.value_of("attention.head_count")),
        ),
    ),
)


def _nemotron_rotated(config: Config) -> int:
    return int(config.rope.get("partial_rotary_factor", 0.5) * config.width) // config.heads


NEMOTRON = (
    Checkpoint(
        classes=("NemotronForCausalLM",),
        rows=(
            Row("token_embd.weight", "model.embed_tokens.weight"),
            Row("output_norm.weight", "model.norm.weight", Plus()),
            Row("output_norm.bias", "model.norm.bias"),
            Row("output.weight", "lm_head.weight"),
            *named({"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}, how=Plus(), bias=False),
            Row("blk.{i}.attn_norm.bias", "model.layers.{i}.input_layernorm.bias"),
            Row("blk.{i}.ffn_norm.bias", "model.layers.{i}.post_attention_layernorm.bias"),
            *common.ATTENTION_WEIGHTS,
            *named({"ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}, bias=False),
        ),
        keys=(
            *common.DECODER_KEYS,
            Key("vocab_size", "vocab_size", needed=True),
            Key("attention.layer_norm_epsilon", "norm_eps", "f32"),
            Key("rope.dimension_count", _nemotron_rotated),
            Key("rope.scaling.type", lambda config: "none", "string"),
        ),
        model_type="nemotron",
        vocabulary=Vocabulary(
            kinds=("sentencepiece",),
            keys=(
                ("tokenizer.ggml.padding_token_id", Value("u32", 0)),
                ("tokenizer.ggml.unknown_token_id", Value("u32", 1)),
            ),
        ),
        defaults=(("rope_theta", 10000.0),),
        restored=(
            ("norm_eps", common.value_of("attention.layer_norm_epsilon")),
            ("partial_rotary_factor", common.rotated_share),
        ),
    ),
)
