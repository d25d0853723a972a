"""How Llama, Mistral and Mixtral are published."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quantreg.checkpoints import Checkpoint, Config, Key, Row, common, named
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
)
_MISTRAL = replace(
    _LLAMA,
    classes=("MistralForCausalLM",),
    model_type="mistral",
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
)
LLAMA = (_LLAMA, _MISTRAL, _MIXTRAL)


SMOLLM_3 = (
    replace(
        _LLAMA,
        classes=("SmolLM3ForCausalLM",),
        rows=(*common.OUTER, *common.LAYER_NORMS, *common.PAIRED_WEIGHTS, *common.DENSE_WEIGHTS),
        model_type="smollm3",
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
