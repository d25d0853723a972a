"""How Llama, Mistral and Mixtral are published."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quantreg.checkpoints import Checkpoint, Config, Described, Key, Row, common, named
from quantreg.checkpoints.vocabulary_hint import Vocabulary

_LLAMA = Checkpoint(
    classes=("LlamaForCausalLM", "LLaMAForCausalLM", "IQuestCoderForCausalLM"),
    rows=(
        *common.OUTER,
        Row("rope_freqs.weight", (), common.llama3_factors),
        *common.LAYER_NORMS,
        *common.PAIRED_ATTENTION,
        *common.DENSE,
    ),
    keys=(
        *common.DECODER_KEYS,
        Key("vocab_size", "vocab_size", needed=True),
        Key("rope.dimension_count", common.head_size),
    ),
    model_type="llama",
    vocabulary="llama",
    defaults=(*common.DEFAULTS, ("head_dim", common.head_size)),
    restored=(("attention_bias", common.has("attn_q.bias")), ("mlp_bias", common.has("ffn_up.bias"))),
)
_MISTRAL = replace(
    _LLAMA,
    classes=("MistralForCausalLM",),
    model_type="mistral",
    restored=(("sliding_window", None),),
    defaults=(*common.DEFAULTS, ("head_dim", common.head_size), ("num_key_value_heads", 8)),
)
_MIXTRAL = replace(
    _LLAMA,
    classes=("MixtralForCausalLM",),
    rows=(
        *common.OUTER,
        *common.LAYER_NORMS,
        *common.PAIRED_ATTENTION,
        Row("blk.{i}.ffn_gate_inp.weight", "model.layers.{i}.block_sparse_moe.gate.weight"),
        *common.experts("model.layers.{i}.block_sparse_moe.experts.{e}.", gate="w1", down="w2", up="w3"),
    ),
    model_type="mixtral",
    defaults=(("rope_theta", 1e6), ("rms_norm_eps", 1e-5), ("num_key_value_heads", 8)),
    restored=(("sliding_window", None),),
)
LLAMA = (_LLAMA, _MISTRAL, _MIXTRAL)


SMOLLM_3 = (
    replace(
        _LLAMA,
        classes=("SmolLM3ForCausalLM",),
        rows=(*common.OUTER, *common.LAYER_NORMS, *common.PAIRED_WEIGHTS, *common.DENSE_WEIGHTS),
        model_type="smollm3",
        restored=(),
        defaults=(("rope_theta", 2e6), ("rms_norm_eps", 1e-6), ("num_key_value_heads", 4)),
    ),
)
ARCEE = (
    replace(
        _LLAMA,
        classes=("ArceeForCausalLM",),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *common.PAIRED_WEIGHTS,
            *named({"ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}, bias=False),
        ),
        model_type="arcee",
        defaults=(*common.DEFAULTS[:1], ("rms_norm_eps", 1e-5), *common.DEFAULTS[2:], ("head_dim", common.head_size)),
    ),
)


def _rope_parameters(model: Described) -> dict[str, Any]:
    found = {
        "rope_type": "yarn",
        "rope_theta": model.get("rope.freq_base"),
        "factor": model.get("rope.scaling.factor"),
        "original_max_position_embeddings": model.get("rope.scaling.original_context_length"),
        "beta_fast": model.get("rope.scaling.yarn_beta_fast"),
        "beta_slow": model.get("rope.scaling.yarn_beta_slow"),
        "mscale": model.get("rope.scaling.yarn_log_multiplier"),
        "mscale_all_dim": model.get("rope.scaling.yarn_log_multiplier"),
        "llama_4_scaling_beta": model.get("attention.temperature_scale"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _rope(name: str) -> Callable[[Config], Any]:
    return lambda config: config.rope.get(name)


MISTRAL_3 = (
    replace(
        _LLAMA,
        classes=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
        rows=(*common.OUTER, *common.LAYER_NORMS, *common.PAIRED_WEIGHTS, *common.DENSE_WEIGHTS),
        keys=(
            *_LLAMA.keys,
            Key("rope.scaling.yarn_log_multiplier", _rope("mscale_all_dim"), "f32"),
            Key("attention.temperature_scale", _rope("llama_4_scaling_beta"), "f32"),
        ),
        ignored=("vision_tower.*", "multi_modal_projector.*"),
        starts=(("language_model.", ""),),
        model_type="ministral3",
        restored=(("rope_parameters", _rope_parameters), ("rope_scaling", ...), ("rope_theta", ...)),
        defaults=(),
    ),
)
SEED_OSS = (
    Checkpoint(
        classes=("SeedOssForCausalLM",),
        rows=(
            *common.OUTER,
            *named({"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}, bias=False),
            *common.ATTENTION,
            *common.DENSE_WEIGHTS,
        ),
        keys=common.DECODER_KEYS,
        model_type="seed_oss",
        restored=(
            ("attention_bias", common.has("attn_q.bias")),
            ("attention_out_bias", common.has("attn_output.bias")),
        ),
        vocabulary="bpe",
        defaults=(("rope_theta", 10000.0),),
    ),
)
ERNIE_4_5 = (
    Checkpoint(
        classes=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
        rows=(*common.OUTER, *common.LAYER_NORMS, *common.ATTENTION_WEIGHTS, *common.DENSE_WEIGHTS),
        keys=common.DECODER_KEYS,
        model_type="ernie4_5",
        vocabulary=Vocabulary(kinds=("sentencepiece",)),
        defaults=(("rope_theta", 500000.0),),
    ),
)
