"""Recognise the pre-tokenizer of a `tokenizer.json` by its structure, and name it as `tokenizer.ggml.pre` does.

The steps of "pre_tokenizer" are written as regular expressions in one spelling, and so are those of our own table of
pre-tokenizers. The names with the same expressions split a text in the same way, so that any of them gives the right
tokens. Which one a file gets is only a question of convention: the reference knows models one by one, and `_CUSTOMS`
has what tells them apart.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantreg.checkpoints.tokenizer_files import TokenizerFiles, steps_of
from quantreg.errors import TokenizerError
from quantreg.tokenization.pretokenizers import PRETOKENIZERS

__all__ = ["ORIGINALS", "SAME", "escaped_characters", "found_structure", "plain", "pretokenizer_name"]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # what ByteLevel splits by
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CJK = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_KANA_HAN = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
# Marks of steps that are no expressions.
SPACES_MARKED = 'Replace " " by "▁"'


def _two_cases(numbers: str, suffix: str) -> str:
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{suffix}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{suffix}"
        rf"|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


# Names whose tokenizer.json does not say what the reference does: the expressions there. Most of the reference's are
# simpler, and split differently only where no merge could cross.
ORIGINALS: dict[str, tuple[str, ...]] = {
    "gpt-4o": (_two_cases(r"\p{N}{1,3}", _ENGLISH + "?"),),
    "tekken": (_two_cases(r"\p{N}", ""),),
    "tiny_aya": (r"\d{1,3}(?=(?:\d{3})*\b)", _two_cases(r"\p{N}{1,3}", _ENGLISH + "?")),
    "youtu": (
        PRETOKENIZERS["youtu"].splits[0],
        _two_cases(r"\p{N}", _ENGLISH + "?"),
    ),
    "falcon": (_PUNCTUATION + "+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "deepseek-llm": (*PRETOKENIZERS["deepseek-llm"].splits[:-1], r"\p{N}"),
    "bloom": (r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+",),
    "viking": (r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+", r"\p{N}"),
}
# Names that split as another one does, so that the originals of that one are theirs, too.
SAME = {
    "gpt-4o": ("llama4", "kanana2", "talkie", "minimax-m2", "granite-embed-multi-97m"),
    "tiny_aya": ("cohere2moe",),
    "bloom": ("gpt3-finnish", "poro-chat"),
}

# Classes of tokenizers whose splits are fixed, for folders that have vocab.json and merges.txt alone.
_CLASSES = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2", "RobertaTokenizer": "roberta-bpe"}


@dataclass(frozen=True)
class _Model:
    """What tells apart the models whose texts are split in the same way."""

    kind: str  # "model_type" of config.json
    tokens: Collection[str]
    normal: bool  # texts are normalized to NFC
    roberta: bool


def _kind(*names: str) -> Callable[[_Model], bool]:
    return lambda model: model.kind in names


def _token(*texts: str) -> Callable[[_Model], bool]:
    return lambda model: all(text in model.tokens for text in texts)


# The first that holds names the model; a name without a condition is the usual one of its group. Conditions ask for the
# kind of the model, or for tokens that no other vocabulary of the group has.
_CUSTOMS: tuple[tuple[str, Callable[[_Model], bool]], ...] = (
    ("roberta-bpe", lambda model: model.roberta),
    ("modern-bert", _kind("modernbert")),
    ("exaone4", _kind("exaone4")),
    ("exaone", _kind("exaone")),
    ("codeshell", _kind("codeshell")),
    ("jais", _kind("jais")),
    ("phi-2", _kind("phi")),
    ("falcon-h1", _kind("falcon_h1")),
    ("falcon3", _token(">>TITLE<<", ">>ABSTRACT<<")),
    ("lfm2", _kind("lfm2", "lfm2_moe")),
    ("glm4", _token("[gMASK]", "<sop>")),
    ("chatglm-bpe", _kind("chatglm")),
    ("smaug-bpe", _token("<|begin_of_text|>")),
    ("stablelm2", _kind("stablelm")),
    ("deepseek-r1-qwen", _token("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")),
    ("megrez", _token("<|role_start|>")),
    ("hunyuan", _kind("hunyuan", "hunyuan_v1_moe")),
    ("hunyuan-dense", _kind("hunyuan_v1_dense")),
    ("grok-2", _kind("grok", "grok-1")),
    ("llama4", _kind("llama4", "llama4_text")),
    ("minimax-m2", _kind("minimax_m2")),
    ("cohere2moe", _kind("cohere2_moe")),
    ("smollm", _token("<|im_start|>", "<repo_name>")),
    ("command-r", lambda model: model.normal or model.kind in ("cohere", "cohere2")),
    ("refact", lambda model: "<reponame>" in model.tokens and "<file_sep>" not in model.tokens),
    ("olmo", lambda model: model.normal),
    *(
        (name, lambda model: True)
        for name in (
            *("gpt-2", "starcoder", "llama-bpe", "dbrx", "qwen2", "falcon", "deepseek-v3", "bailingmoe", "gpt-4o"),
            *("tiny_aya", "bloom", "gemma4"),
        )
    ),
)  # fmt: skip


def pretokenizer_name(files: TokenizerFiles, kind: str, tokens: Collection[str]) -> str:
    """Return the name of the pre-tokenizer in `tokenizer.json`.

    ``kind`` is the "model_type" in config.json, and ``tokens`` has all tokens. Raises TokenizerError if the structure
    is unknown.
    """
    if not files.tokenizer and files.tokenizer_class in _CLASSES:
        return _CLASSES[files.tokenizer_class]
    normalizer = list(steps_of(files.tokenizer.get("normalizer")))
    steps, problem = found_structure(files.tokenizer)
    whole = bool(files.model.get("ignore_merges"))
    names = [] if problem else _candidates(steps, whole)
    if not names:
        raise TokenizerError(_unknown(files, steps, problem))
    model = _Model(
        kind,
        tokens,
        any(step.get("type") == "NFC" for step in normalizer),
        any(step.get("type") == "RobertaProcessing" for step in steps_of(files.tokenizer.get("post_processor"))),
    )
    return next((name for name, holds in _CUSTOMS if name in names and holds(model)), names[0])


def _candidates(steps: tuple[str, ...], whole: bool) -> list[str]:
    """The names that split by these steps. Those that treat whole words alike come first."""
    names = _NAMES.get(steps, ())
    same = [name for name in names if PRETOKENIZERS[name].whole_words == whole]
    return same or list(names)


def found_structure(tokenizer: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return what a tokenizer.json splits a text by, as expressions in one spelling, and what cannot be told so."""
    steps: list[str] = []
    byte_level = 0
    model = tokenizer.get("model")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if isinstance(model, dict) and model.get(key):
            return (), f'the model has "{key}": {model[key]!r}'
    for step in steps_of(tokenizer.get("normalizer")):
        if step.get("type") == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == "▁":
            steps.append(SPACES_MARKED)
        elif step.get("type") != "NFC":  # the reference leaves texts as they are; nearly all are NFC already
            return (), f"the normalizer {step.get('type')}"
    for step in steps_of(tokenizer.get("pre_tokenizer")):
        kind = step.get("type")
        if kind == "ByteLevel":
            byte_level += 1
            if step.get("add_prefix_space"):
                return (), "ByteLevel with add_prefix_space"
            if step.get("use_regex", True):
                steps.append(plain(_GPT2))
        elif kind == "Split" and steps == [SPACES_MARKED] and step.get("pattern") == {"String": " "}:
            pass  # there is no space left
        else:
            expression = _expression(step)
            if expression is None:
                return tuple(steps), f"the step {_shown(step)}"
            steps.append(plain(expression))
    if (byte_level == 1) == (SPACES_MARKED in steps):
        return tuple(steps), "no ByteLevel step" if not byte_level else f"{byte_level} ByteLevel steps"
    return tuple(steps), ""


def _expression(step: Mapping[str, Any]) -> str | None:
    """The regular expression that a step cuts by, or None."""
    kind, behavior = step.get("type"), step.get("behavior")
    if kind == "Digits":
        return r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    if kind == "Punctuation":
        return {"Contiguous": _PUNCTUATION + "+", "Isolated": _PUNCTUATION, None: _PUNCTUATION}.get(behavior)
    if kind == "Split":
        pattern = step.get("pattern")
        if not isinstance(pattern, dict):
            return None
        # Every expression with "invert" matches all of a text, so that nothing is removed.
        if behavior == "Isolated" or (behavior == "Removed" and step.get("invert")):
            if isinstance(pattern.get("Regex"), str):
                return pattern["Regex"]
            if isinstance(pattern.get("String"), str):
                return re.escape(pattern["String"])
    return None


def plain(expression: str) -> str:
    """Write a regular expression in one spelling, so that the same splits are the same text."""
    text = escaped_characters(expression)
    for character, escape in (("\r", r"\r"), ("\n", r"\n"), ("\t", r"\t")):
        text = text.replace(character, escape)
    text = text.replace(_ENGLISH, r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])")
    text = text.replace("(?i:[sdmt]|ll|ve|re)", "(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])")
    text = re.sub(r"(?<!\\)([?+*])\+", r"\1", text)  # possessive
    # The text between two matches is a piece of its own.
    return text.removesuffix(r"|\s+") if text.endswith(r"|\s+(?!\S)|\s+") else text


def escaped_characters(expression: str) -> str:
    """Replace escapes such as \\u4e00 by their characters."""
    return re.sub(r"\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})", lambda code: chr(int(code[1] or code[2], 16)), expression)


def _structures() -> Iterator[tuple[tuple[str, ...], str]]:
    for name, pre in PRETOKENIZERS.items():
        marked = (SPACES_MARKED,) if pre.spaces_marked else ()
        yield (*marked, *(() if marked else map(plain, pre.splits))), name
    for name, steps in ORIGINALS.items():
        for other in (name, *SAME.get(name, ())):
            yield tuple(map(plain, steps)), other


def _by_structure() -> dict[tuple[str, ...], tuple[str, ...]]:
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for steps, name in _structures():
        if name != "default":
            found[steps] = (*found.get(steps, ()), name)
    return found


_NAMES = _by_structure()


def _unknown(files: TokenizerFiles, steps: tuple[str, ...], problem: str) -> str:
    found = problem or (f"the steps {' then '.join(map(repr, steps))}" if steps else "no steps at all")
    return (
        f"the pre-tokenizer in {files.folder / 'tokenizer.json'} is not one that GGUF has a name for (found: {found}), "
        "and a wrong one would give other tokens: if you know the name, give it with --override-kv "
        "tokenizer.ggml.pre=str:NAME (in Python, overrides={'tokenizer.ggml.pre': NAME})"
    )


def _shown(step: Mapping[str, Any]) -> str:
    shown = repr(dict(step))
    return shown if len(shown) <= 200 else shown[:200] + "..."
