"""How Llama, Mistral and Mixtral are published."""

from dataclasses import replace

from quantreg.checkpoints import Checkpoint, Key, Row, common

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
