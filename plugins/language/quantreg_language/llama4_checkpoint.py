"""How Llama 4 is published."""

from quantreg.checkpoints import Checkpoint, Config, Key, Row, Share, Transposed, common, named
from quantreg.errors import CheckpointError

_FF = "model.layers.{i}.feed_forward."
_DENSE = "blk.{i}.ffn_gate.weight"


def _expert_step(config: Config) -> int:
    """Every how manieth layer has experts. Raises CheckpointError for MobileLLM, which is of the same class."""
    kinds = config.get("layer_types")
    if kinds and all(kind == "full_attention" for kind in kinds):
        raise CheckpointError(
            f"{config.path}: every layer sees all tokens, but quantreg converts only those models of Llama 4's class "
            "that see chunks of tokens: use llama.cpp's convert_hf_to_gguf.py"
        )
    return config.number("interleave_moe_layer_step", default=1)


LLAMA_4 = (
    Checkpoint(
        classes=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
        rows=(
            *common.OUTER,
            Row("rope_freqs.weight", (), common.llama3_factors),
            *common.LAYER_NORMS,
            *common.ATTENTION_WEIGHTS,
            *named(
                {
                    "ffn_gate": "feed_forward.gate_proj",
                    "ffn_up": "feed_forward.up_proj",
                    "ffn_down": "feed_forward.down_proj",
                },
                bias=False,
                unless="ffn_gate_inp",
            ),
            Row("blk.{i}.ffn_gate_inp.weight", f"{_FF}router.weight", unless=_DENSE),
            Row(
                "blk.{i}.ffn_gate_exps.weight",
                f"{_FF}experts.gate_up_proj",
                (Transposed(), Share(0, 2, -2)),
                unless=_DENSE,
            ),
            Row(
                "blk.{i}.ffn_up_exps.weight",
                f"{_FF}experts.gate_up_proj",
                (Transposed(), Share(1, 2, -2)),
                unless=_DENSE,
            ),
            Row("blk.{i}.ffn_down_exps.weight", f"{_FF}experts.down_proj", Transposed(), unless=_DENSE),
            *named(
                {
                    "ffn_gate_shexp": "feed_forward.shared_expert.gate_proj",
                    "ffn_up_shexp": "feed_forward.shared_expert.up_proj",
                    "ffn_down_shexp": "feed_forward.shared_expert.down_proj",
                },
                bias=False,
                unless="ffn_gate",
            ),
        ),
        keys=(
            *(
                Key(key.new, "intermediate_size_mlp", needed=True) if key.new == "feed_forward_length" else key
                for key in common.DECODER_KEYS
            ),
            Key("vocab_size", "vocab_size", needed=True),
            Key("rope.dimension_count", lambda config: config.head_size),
            Key("interleave_moe_layer_step", _expert_step, back="interleave_moe_layer_step"),
            Key("expert_feed_forward_length", "intermediate_size", needed=True),
        ),
        ignored=("vision_model.*", "multi_modal_projector.*"),
        starts=(("language_model.model.", "model."), ("language_model.lm_head.", "lm_head.")),
        model_type="llama4_text",
        restored=(("use_qk_norm", lambda model: model.get("expert_count") != 128),),
        vocabulary="bpe",
        defaults=(("rope_theta", 500000.0), ("rms_norm_eps", 1e-5)),
    ),
)
