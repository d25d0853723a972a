"""How gpt-oss is published: experts as blocks of MXFP4, or decoded."""

from typing import Any

from quantreg.checkpoints import Checkpoint, Described, Key, Mxfp4, Row, Share, Transposed, common, named

_EXPERTS = "model.layers.{i}.mlp.experts."


def _halves(new: str, index: int) -> tuple[Row, ...]:
    """Gate or up, whose rows take turns in one tensor: as blocks, as a matrix whose rows are inputs, and the bias."""
    weight, old = f"blk.{{i}}.{new}.weight", f"{_EXPERTS}gate_up_proj"
    return (
        Row(weight, (f"{old}_blocks", f"{old}_scales"), Mxfp4(index, 2)),
        Row(weight, old, (Transposed(), Share(index, 2, -2, alternating=True))),
        Row(f"blk.{{i}}.{new}.bias", f"{old}_bias", Share(index, 2, -1, alternating=True)),
    )


def _rope_scaling(model: Described) -> dict[str, Any] | None:
    """YaRN whose bounds are not rounded, which GGUF cannot say."""
    if model.get("rope.scaling.type") != "yarn":
        return None
    return {
        "rope_type": "yarn",
        "factor": model.get("rope.scaling.factor"),
        "original_max_position_embeddings": model.get("rope.scaling.original_context_length"),
        "beta_fast": model.get("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": model.get("rope.scaling.yarn_beta_slow", 1.0),
        "truncate": False,
    }


GPT_OSS = (
    Checkpoint(
        classes=("GptOssForCausalLM",),
        rows=(
            *common.OUTER,
            *named({"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}, bias=False),
            *common.ATTENTION,
            Row("blk.{i}.attn_sinks.weight", "model.layers.{i}.self_attn.sinks"),
            *named({"ffn_gate_inp": "mlp.router"}),
            *_halves("ffn_gate_exps", 0),
            *_halves("ffn_up_exps", 1),
            Row(
                "blk.{i}.ffn_down_exps.weight",
                (f"{_EXPERTS}down_proj_blocks", f"{_EXPERTS}down_proj_scales"),
                Mxfp4(),
            ),
            Row("blk.{i}.ffn_down_exps.weight", f"{_EXPERTS}down_proj", Transposed()),
            Row("blk.{i}.ffn_down_exps.bias", f"{_EXPERTS}down_proj_bias"),
        ),
        keys=(
            *common.DECODER_KEYS,
            Key("attention.sliding_window", "sliding_window"),
            Key("expert_feed_forward_length", "intermediate_size"),
        ),
        model_type="gpt_oss",
        restored=(("attention_bias", common.has("attn_q.bias")), ("rope_scaling", _rope_scaling)),
        vocabulary="bpe",
        defaults=(
            ("rope_theta", 150000.0),
            ("rms_norm_eps", 1e-5),
            ("sliding_window", 128),
        ),
    ),
)
