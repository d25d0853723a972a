"""How Qwen is published."""

from quantreg.checkpoints import Checkpoint, common, named

_HEAD_NORMS = named({"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}, bias=False)

QWEN3 = (
    Checkpoint(
        classes=("Qwen3ForCausalLM",),
        rows=(*common.OUTER, *common.LAYER_NORMS, *common.ATTENTION, *_HEAD_NORMS, *common.DENSE),
        keys=common.DECODER_KEYS,
        model_type="qwen3",
    ),
)
