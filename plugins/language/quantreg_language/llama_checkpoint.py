"""How Llama, Mistral and Mixtral are published."""

from quantreg.checkpoints import Checkpoint, Config, Key, Row, common

# The experts of Mixtral: w1 is the gate, w2 leads down, w3 up.
_MIXTRAL = (
    Row("blk.{i}.ffn_gate_inp.weight", "model.layers.{i}.block_sparse_moe.gate.weight", optional=True),
    *(
        Row(
            f"blk.{{i}}.ffn_{new}_exps.weight",
            f"model.layers.{{i}}.block_sparse_moe.experts.{{e}}.{old}.weight",
            unless=f"blk.{{i}}.ffn_{new}.weight",
        )
        for new, old in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    ),
)


def _rotated(config: Config) -> int:
    return config.head_size


LLAMA = (
    Checkpoint(
        classes=(
            "LLaMAForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM",
            "IQuestCoderForCausalLM",
        ),
        rows=(
            *common.OUTER,
            Row("rope_freqs.weight", (), common.llama3_factors),
            *common.LAYER_NORMS,
            *common.PAIRED_ATTENTION,
            *common.DENSE,
            *_MIXTRAL,
        ),
        keys=(
            *common.DECODER_KEYS,
            Key("vocab_size", "vocab_size", needed=True),
            Key("rope.dimension_count", _rotated),
        ),
        model_type="llama",
    ),
)  # fmt: skip
