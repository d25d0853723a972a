"""How Hunyuan is published."""

from quantreg.checkpoints import Checkpoint, common, named

HUNYUAN = (
    Checkpoint(
        classes=("HunYuanDenseV1ForCausalLM",),
        rows=(
            *common.OUTER,
            *common.LAYER_NORMS,
            *common.ATTENTION_WEIGHTS,
            *named({"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}, bias=False),
            *common.DENSE_WEIGHTS,
        ),
        keys=common.DECODER_KEYS,
        model_type="hunyuan_v1_dense",
        vocabulary="hunyuan",
        defaults=(("rope_theta", 10000.0),),
    ),
)
