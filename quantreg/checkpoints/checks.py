"""What speaks against a checkpoint before any of its tensors are read: packed weights, and shapes that do not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

from quantreg.checkpoints.config import Config
from quantreg.errors import CheckpointError
from quantreg.gguf import TensorInfo

__all__ = ["check_shapes", "refuse_packed"]

# Values of quant_method whose weights are read: FP8 with scales, and MXFP4 where a row of the table takes it. What the
# other formats mean is known only to the programs that made them.
_READ = ("fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors", "modelopt")
_PACKED = {
    "awq": "packs four bits and scales by groups (AWQ)",
    "gptq": "packs integers in an order of columns of their own (GPTQ)",
    "bitsandbytes": "packs weights for the kernels of bitsandbytes",
    "bitnet": "packs ternary weights, four in a byte (BitNet)",
    "hqq": "packs integers with zero points (HQQ)",
    "aqlm": "stores indices into codebooks (AQLM)",
}


def refuse_packed(config: Config) -> None:
    """Raise CheckpointError if the weights are packed in a way that quantreg does not read."""
    said = config.get("quantization_config")
    method = said.get("quant_method") if isinstance(said, dict) else None
    if method is None or method in _READ:
        return
    what = _PACKED.get(str(method), "is a format of its own")
    raise CheckpointError(
        f"{config.path}: the weights are quantized already, with quant_method {method!r:.40}, which {what}: quantreg "
        "does not decode it, and quantizing twice would lose more: start from the BF16 or F16 model that it was made of"
    )


def check_shapes(infos: Sequence[TensorInfo], metadata: Mapping[str, Any], architecture: str, where: str) -> None:
    """Raise CheckpointError if a tensor has not the shape that the configuration asks for.

    Only what means the same in all architectures is looked at: the widths, the vocabulary, the number of experts, and,
    where queries have the usual shape, the heads of keys and values. ``metadata`` is that of the GGUF model, in plain
    values.
    """

    def number(key: str) -> int | None:
        value = metadata.get(f"{architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    width, heads = number("embedding_length"), number("attention.head_count")
    kv_heads = None if isinstance(metadata.get(f"{architecture}.attention.head_count_kv"), list) else heads
    kv_heads = number("attention.head_count_kv") or kv_heads
    key = number("attention.key_length") or (width // heads if width and heads else None)
    value = number("attention.value_length") or key
    keys = kv_heads * key if kv_heads and key else None
    values = kv_heads * value if kv_heads and value else None
    ff, experts, words = number("feed_forward_length"), number("expert_count"), number("vocab_size")
    # the role of a tensor -> its shape in NumPy order; None fits every length
    expected: dict[str, tuple[int | None, ...]] = {
        "token_embd.weight": (words, width),
        "output.weight": (words, width),
        "output_norm.weight": (width,),
        "attn_norm.weight": (width,),
        "ffn_norm.weight": (width,),
        "attn_q.weight": (None, width),
        "attn_k.weight": (keys, width),
        "attn_v.weight": (values, width),
        "attn_qkv.weight": (None, width),
        "attn_output.weight": (width, None),
        "ffn_gate.weight": (ff, width),
        "ffn_up.weight": (None, width),
        "ffn_down.weight": (width, ff),
        "ffn_gate_inp.weight": (experts, width),
        "ffn_gate_exps.weight": (experts, None, width),
        "ffn_up_exps.weight": (experts, None, width),
        "ffn_down_exps.weight": (experts, width, None),
    }
    usual = {
        info.name.rpartition(".attn_q.weight")[0]
        for info in infos
        if info.name.endswith(".attn_q.weight") and heads and key and info.shape[:1] == (heads * key,)
    }
    for info in infos:
        role = info.name.split(".", 2)[2] if info.name.startswith("blk.") else info.name
        shape = expected.get(role)
        if role in ("attn_k.weight", "attn_v.weight") and info.name.rsplit(".", 2)[0] not in usual:
            continue
        fits = shape is None or (
            len(shape) == len(info.shape)
            and all(want is None or want == have for want, have in zip(shape, info.shape, strict=True))
        )
        if not fits and shape is not None:
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise CheckpointError(
                f"{where}: {info.name} has the shape {list(info.shape)}, but config.json asks for [{wanted}]: "
                "config.json is that of another model, or a file is damaged: download both again"
            )
