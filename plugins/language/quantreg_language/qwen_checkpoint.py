"""How Qwen is published."""

from typing import Any

from quantreg.checkpoints import Checkpoint, Config, Key, Row, Share, Transposed, common, named

_SEES = "the class has a part that sees images, which a GGUF file of the language model lacks"
_LAYERS = (*common.OUTER, *common.LAYER_NORMS, *common.ATTENTION)
_HEAD_NORMS = named({"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}, bias=False)
_EXPERTS = (
    Row("blk.{i}.ffn_gate_inp.weight", "model.layers.{i}.mlp.gate.weight"),
    *common.experts("model.layers.{i}.mlp.experts.{e}."),
)
_SHARED = named(
    {
        "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
        "ffn_up_shexp": "mlp.shared_expert.up_proj",
        "ffn_down_shexp": "mlp.shared_expert.down_proj",
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    },
    bias=False,
)
_EXPERTS_BACK: tuple[tuple[str, Any], ...] = (
    ("num_experts", common.value_of("expert_count")),
    ("decoder_sparse_step", 1),
    ("mlp_only_layers", []),
)
_DEFAULTS = (("rope_theta", 10000.0), ("rms_norm_eps", 1e-6))
_KEYS = (*common.DECODER_KEYS, common.POOLING)
_EXPERT_KEYS = (*common.DECODER_KEYS, Key("expert_feed_forward_length", "moe_intermediate_size"))

QWEN2 = (
    Checkpoint(
        classes=("Qwen2ForCausalLM",),
        rows=(*_LAYERS, *common.DENSE),
        keys=_KEYS,
        model_type="qwen2",
        vocabulary="qwen2",
        defaults=_DEFAULTS,
    ),
)
QWEN2_VL = (
    Checkpoint(
        classes=("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
        rows=(*_LAYERS, *common.DENSE),
        keys=common.DECODER_KEYS,
        ignored=("visual.*", "model.visual.*"),
        starts=(("model.language_model.", "model."),),
        model_type="qwen2_vl",
        one_way=_SEES,
        vocabulary="qwen2",
        defaults=(("rms_norm_eps", 1e-5),),
    ),
)
QWEN2_MOE = (
    Checkpoint(
        classes=("Qwen2MoeForCausalLM",),
        rows=(*_LAYERS, *_EXPERTS, *_SHARED),
        keys=(*_EXPERT_KEYS, Key("expert_shared_feed_forward_length", "shared_expert_intermediate_size")),
        model_type="qwen2_moe",
        restored=(*_EXPERTS_BACK, ("norm_topk_prob", False)),
        vocabulary="bpe",
        defaults=_DEFAULTS,
    ),
)
QWEN3 = (
    Checkpoint(
        classes=("Qwen3ForCausalLM",),
        rows=(*_LAYERS, *_HEAD_NORMS, *common.DENSE),
        keys=_KEYS,
        model_type="qwen3",
        restored=(("attention_bias", common.has("attn_q.bias")),),
        vocabulary="qwen2",
        defaults=(*_DEFAULTS, ("head_dim", 128)),
    ),
)


def _deepstack(config: Config) -> int:
    """Into how many of the first layers features of an image go."""
    return len(config.get("vision_config", {}).get("deepstack_visual_indexes", ()))


QWEN3_VL = (
    Checkpoint(
        classes=("Qwen3VLForConditionalGeneration",),
        rows=(*_LAYERS, *_HEAD_NORMS, *common.DENSE),
        keys=(*_KEYS, Key("n_deepstack_layers", _deepstack)),
        ignored=("model.visual.*",),
        starts=(("model.language_model.", "model."),),
        model_type="qwen3_vl",
        one_way=_SEES,
        vocabulary="qwen2",
        defaults=(("rms_norm_eps", 1e-6), ("head_dim", 128)),
    ),
)
_FUSED = "model.layers.{i}.mlp.experts."
QWEN3_VL_MOE = (
    Checkpoint(
        classes=("Qwen3VLMoeForConditionalGeneration",),
        rows=(
            *_LAYERS,
            *_HEAD_NORMS,
            _EXPERTS[0],
            Row("blk.{i}.ffn_gate_exps.weight", f"{_FUSED}gate_up_proj", (Transposed(), Share(0, 2, -2))),
            Row("blk.{i}.ffn_up_exps.weight", f"{_FUSED}gate_up_proj", (Transposed(), Share(1, 2, -2))),
            Row("blk.{i}.ffn_down_exps.weight", f"{_FUSED}down_proj", Transposed()),
        ),
        keys=(*_EXPERT_KEYS, Key("n_deepstack_layers", _deepstack)),
        ignored=("model.visual.*",),
        starts=(("model.language_model.", "model."),),
        model_type="qwen3_vl_moe",
        one_way=_SEES,
        vocabulary="qwen2",
        defaults=(("rms_norm_eps", 1e-6),),
    ),
)
QWEN3_MOE = (
    Checkpoint(
        classes=("Qwen3MoeForCausalLM",),
        rows=(*_LAYERS, *_HEAD_NORMS, *_EXPERTS),
        keys=_EXPERT_KEYS,
        model_type="qwen3_moe",
        restored=(*_EXPERTS_BACK, ("norm_topk_prob", True), ("attention_bias", common.has("attn_q.bias"))),
        vocabulary="bpe",
        defaults=(*_DEFAULTS, ("num_key_value_heads", 4)),
    ),
)
