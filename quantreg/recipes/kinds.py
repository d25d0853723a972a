"""Messages about input that is not a model to quantize, or whose tensors have names that no engine knows."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from quantreg.ggml import PLAIN_TYPES
from quantreg.recipes.filetype import FileType
from quantreg.recipes.plans import TensorPlan
from quantreg.words import count, named

__all__ = ["about_foreign_names", "has_foreign_name", "kind_of_file", "nothing_quantized"]

# Names of language models in Hugging Face's or Meta's own checkpoints. Image models have other names, and a prefix
# marks the text encoders in their checkpoints; the engines that run image models load both under these names.
_FOREIGN = re.compile(
    r"""(?:(?:model|base_model|language_model|transformer|backbone|gpt_neox|decoder|encoder|bert|roberta|rwkv|thinker)\.)*
    (?:
        layers\.\d+\.(?:self_attn\.(?!to_)\w+|linear_attn|self_attention|block_sparse_moe|mamba|mixer|input_layernorm
                        |post_attention_layernorm|mlp\.(?:(?:gate|up|down|gate_up)_proj|experts|fc[12]|gate)
                        |attention\.(?:w[qkvo]|wqkv|query_key_value|dense))\b
      | layer\.\d+\.(?:attention\.(?:self|output)|intermediate|output)\.
      | h\.\d+\.(?:attn|mlp|self_attention|ln_[12]|input_layernorm)\b
      | blocks\.\d+\.(?:attn\.Wqkv|att\.(?:key|value|receptance)|ffn\.(?:up_proj|down_proj|key|value|experts)
                        |norm_attn_norm)\b
      | (?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|embeddings\.word_embeddings)\.weight$
    )
    | (?:language_model\.|model\.)?lm_head\.weight$ | embed_out\.weight$""",
    re.VERBOSE | re.ASCII,
)

# Names of the parts of LoRA, LoHa and LoKr adapters, as PEFT, Kohya's scripts and LyCORIS write them.
_ADAPTER = re.compile(
    r"\.(?:lora_(?:[AaBb]|up|down|mid|embedding_[AB]|magnitude_vector)|hada_[wt][12](?:_[ab])?|lokr_[wt][12](?:_[ab])?"
    r"|alpha|dora_scale)(?:\.\w+)?(?:\.weight)?",
    re.ASCII,
)

# general.type -> what the file is, what to do with it to quantize the model, and what to do to run it.
_MERGE = "merge it into the F16 model first (llama.cpp's llama-export-lora), and {} the result"
_KINDS = {
    "adapter": (
        "a LoRA adapter, which is used beside its model: ", _MERGE.format("quantize"), _MERGE.format("run")
    ),
    "imatrix": (
        "an importance matrix: ", "give the model as IN, and this file as imatrix (--imatrix)",
        "give the model that it was made for"
    ),
    "vocab": ("a vocabulary without a model", "", ""),
}  # fmt: skip


def has_foreign_name(name: str) -> bool:
    """Whether a tensor has a name of a Hugging Face or Meta checkpoint of a language model."""
    return _FOREIGN.match(name) is not None and not _is_of_adapter(name)


def _is_of_adapter(name: str) -> bool:
    found = _ADAPTER.search(name)
    return found is not None and found.end() == len(name)


def about_foreign_names(names: Sequence[str], file_type: FileType | None = None) -> str:
    """The sentence about tensors with such names; with ``file_type``, why its rules cannot work."""
    what = "1 tensor has a Hugging Face name" if len(names) == 1 else f"{len(names)} tensors have Hugging Face names"
    why = "llama.cpp loads only GGUF's names" if file_type is None else (
        f"no rule of {file_type.name} knows them, and llama.cpp loads only GGUF's names"
    )  # fmt: skip
    how = (
        'give the folder of the model, with its config.json, which names its class ("architectures"), and its '
        "tokenizer, as in `quantreg quantize FOLDER OUT.gguf TYPE`, or map the names with names (--names)"
    )
    more = "" if file_type is None else (
        f". For another engine, pure (--pure) gives all tensors {file_type.type} under the names that they have"
    )  # fmt: skip
    return f"{what} ({named(names)}): {why}: {how}{more}"


def kind_of_file(metadata: Mapping[str, Any], names: Sequence[str], *, to_run: bool = False) -> str | None:
    """Describe a file that is not a model to quantize, or to run, and what to do with it; None for a model."""
    kind = metadata.get("general.type")
    if kind == "model":
        kind = None
    if kind is None and "adapter.type" in metadata:
        kind = "adapter"
    elif kind is None and ("imatrix.datasets" in metadata or any(name.endswith(".in_sum2") for name in names)):
        kind = "imatrix"
    elif kind is None and metadata.get("general.architecture") == "controlvector":
        return f"a control vector, which is used beside its model: {'run' if to_run else 'quantize'} the model instead"
    elif kind is None and sum(map(_is_of_adapter, names)) * 2 > len(names):
        return (
            "a LoRA adapter, which is used beside its model: merge it into the model in F16 or BF16 first, and "
            f"{'run' if to_run else 'quantize'} the result"
        )
    if not names and any(key.startswith("tokenizer.") for key in metadata):
        kind = "vocab"
    if not isinstance(kind, str) or kind not in _KINDS:
        return None
    what, quantize, run = _KINDS[kind]
    return what + (run if to_run else quantize)


def nothing_quantized(
    file_type: FileType, tensors: Sequence[TensorPlan], metadata: Mapping[str, Any]
) -> tuple[str, ...]:
    """What to say if a plan quantizes no tensor although its file type does, or if the file is not a model."""
    kind = kind_of_file(metadata, [tensor.source.name for tensor in tensors])
    what = () if kind is None else (f"the input is {kind}",)
    if file_type.only_copy or any(tensor.converted and tensor.to_type not in PLAIN_TYPES for tensor in tensors):
        return what
    if not tensors:
        return (f"nothing was quantized: {f'the input is {kind}' if kind else 'the input has no tensors'}",)
    if file_type.type in PLAIN_TYPES and (kind is None or any(tensor.converted for tensor in tensors)):
        return what
    label = f", although the file is labelled {file_type.name}" if file_type.number is not None else ""
    reasons = Counter(_reason(tensor) for tensor in tensors)
    told = [f"{reason}: {count(n, 'tensor')}" for reason, n in reasons.most_common(3)]
    more = f"; for other reasons: {count(reasons.total() - sum(n for _, n in reasons.most_common(3)), 'tensor')}"
    why = "; ".join(told) + (more if len(reasons) > 3 else "")
    if metadata.get("general.type") == "mmproj":
        label += "; the input is an image or audio projector (mmproj)"
    return (f"nothing was quantized{label} ({why})", *what)


def _reason(tensor: TensorPlan) -> str:
    if tensor.converted or tensor.fallback:
        return f"{tensor.to_type} because {tensor.reason.partition(':')[0]}"
    kept = tensor.reason.removesuffix(": kept")
    return f"kept, {kept}" if kept != tensor.reason else f"already {tensor.to_type}"
