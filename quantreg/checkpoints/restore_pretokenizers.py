"""From a name in `tokenizer.ggml.pre` to the steps of a `tokenizer.json`: `pretokenizers` the other way."""

import re
from typing import Any

from quantreg.checkpoints.pretokenizers import ORIGINALS, SAME, escaped_characters
from quantreg.errors import TokenizerError
from quantreg.tokenization.pretokenizers import PRETOKENIZERS

__all__ = ["normalizer_of", "pretokenizer_of"]

_GPT2 = PRETOKENIZERS["gpt-2"].splits[0]
# Names whose models have texts in the normal form NFC.
_NORMAL = (
    *("qwen2", "qwen35", "deepseek-r1-qwen", "megrez", "hunyuan", "kormo", "f2llmv2", "olmo", "mpt", "command-r"),
    *("tiny_aya", "cohere2moe"),
)
_CLASSES_OF_OURS = (r"\p{Upper}", r"\p{Lower}", r"\p{NotHan}")


def pretokenizer_of(name: str) -> dict[str, Any]:
    """Return the "pre_tokenizer" for a name. Raises TokenizerError if no expressions say what it does."""
    pre = PRETOKENIZERS[name]
    if pre.spaces_marked:
        return {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    original = next((key for key in ORIGINALS if name == key or name in SAME.get(key, ())), None)
    splits = pre.splits if original is None else ORIGINALS[original]
    if any(part in split for split in splits for part in _CLASSES_OF_OURS):
        raise TokenizerError(
            f"a folder cannot hold the pre-tokenizer {name!r}: no tokenizer.json can say how it splits a text; take "
            "the tokenizer's files from the model's own folder"
        )
    steps = [_step(split) for split in splits]
    regex = bool(splits) and splits[-1].removesuffix(r"|\s+") == _GPT2
    if regex:
        del steps[-1]
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex})
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _step(split: str) -> dict[str, Any]:
    if split in (r"\p{N}", r"\p{N}+"):
        return {"type": "Digits", "individual_digits": split == r"\p{N}"}
    if "(?=" not in split and "(?!" not in split and "(?<" not in split:
        split = re.sub(r"\\d", "[0-9]", split)
    return {
        "type": "Split",
        "pattern": {"Regex": escaped_characters(split)},
        "behavior": "Isolated",
        "invert": False,
    }


def normalizer_of(name: str) -> dict[str, Any] | None:
    """Return the "normalizer" for a name, or None."""
    if PRETOKENIZERS[name].spaces_marked:
        return {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {"type": "NFC"} if name in _NORMAL else None
