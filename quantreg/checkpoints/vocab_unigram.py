"""Unigram from a `tokenizer.json`: the tokenizer model "t5"."""

import binascii
from collections.abc import Mapping
from typing import Any

from quantreg.checkpoints.added_tokens import added_tokens
from quantreg.checkpoints.special_ids import special_values
from quantreg.checkpoints.tokenizer_files import TokenizerFiles, steps_of, whole_number
from quantreg.checkpoints.vocab_bpe import looks_special, vocabulary_size
from quantreg.errors import TokenizerError
from quantreg.gguf import Value
from quantreg.tokenization import Kind

__all__ = ["unigram_values"]

_FILLER = -10000.0  # the score of tokens that only fill the vocabulary up
# Steps of normalizers and pre-tokenizers that the model "t5" has, too.
_NORMALIZERS = ("Precompiled", "Replace", "Strip", "Nmt")
_SPLITS = ("Metaspace", "WhitespaceSplit", "Whitespace")


def unigram_values(files: TokenizerFiles, config: Mapping[str, Any], token_types: int | None) -> dict[str, Value]:
    """Return the keys of the model "t5". ``token_types`` is their number, where it is written."""
    path = files.folder / "tokenizer.json"
    pairs = files.model.get("vocab")
    if not isinstance(pairs, list) or not pairs:
        raise TokenizerError(f"{path} has no vocabulary of tokens with scores: download the file again")
    tokens, scores = [], []
    for id, pair in enumerate(pairs):
        text, score = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        if not isinstance(text, str) or isinstance(score, bool) or not isinstance(score, (int, float)):
            raise TokenizerError(f"{path}: token {id} is {pair!r:.60}, not a text with a score: download it again")
        tokens.append(text)
        scores.append(float(score))
    base = {text: id for id, text in enumerate(tokens)}
    kinds: list[int] = [Kind.NORMAL] * len(tokens)
    added = added_tokens(files, base, "xlm-roberta")
    size = max(vocabulary_size(config) or 0, len(tokens), *(id + 1 for id in added))
    if size > (vocabulary_size(config) or size):
        raise TokenizerError(
            f'{path} has {size} tokens, but config.json gives the model a "vocab_size" of {vocabulary_size(config)}: '
            "the tokenizer belongs to another model"
        )
    tokens += [f"[PAD{id}]" for id in range(len(tokens), size)]
    scores += [_FILLER] * (size - len(scores))
    kinds += [Kind.UNUSED] * (size - len(kinds))
    for id, token in added.items():
        tokens[id], scores[id] = token.content, scores[id] if id < len(base) else 0.0
        kinds[id] = Kind.CONTROL if token.special or looks_special(token.content) else Kind.USER_DEFINED
    unknown = files.model.get("unk_id")
    if unknown is not None:
        kinds[whole_number(unknown, f'"unk_id" in {path}')] = Kind.UNKNOWN
    values = {
        "tokenizer.ggml.model": Value("string", "t5"),
        "tokenizer.ggml.pre": Value("string", "default"),
        "tokenizer.ggml.tokens": Value("array[string]", tokens),
        "tokenizer.ggml.scores": Value("array[f32]", scores),
        "tokenizer.ggml.token_type": Value("array[i32]", kinds),
        "tokenizer.ggml.add_space_prefix": Value("bool", _starts_with_space(files)),
    }
    if token_types is not None:
        values["tokenizer.ggml.token_type_count"] = Value("u32", token_types)
    values["tokenizer.ggml.remove_extra_whitespaces"] = Value("bool", _merges_spaces(files))
    charsmap = _charsmap(files)
    if charsmap:
        values["tokenizer.ggml.precompiled_charsmap"] = Value("array[u8]", list(charsmap))
    return values | special_values(files, config, limit=len(tokens))


def _charsmap(files: TokenizerFiles) -> bytes:
    """The table by which texts are normalized. Raises TokenizerError if more is done to them."""
    path = files.folder / "tokenizer.json"
    found = b""
    for step in steps_of(files.tokenizer.get("normalizer")):
        if step.get("type") not in _NORMALIZERS:
            raise TokenizerError(
                f"{path} has a normalizer of the type {step.get('type')!r:.40}, which the tokenizer model t5 does not "
                "have: other texts would become other tokens"
            )
        if step.get("type") == "Precompiled":
            try:
                found = binascii.a2b_base64(step.get("precompiled_charsmap", ""), strict_mode=True)
            except (TypeError, ValueError):
                raise TokenizerError(f'{path}: "precompiled_charsmap" is no Base64: download it again') from None
    wrong = next((s for s in steps_of(files.tokenizer.get("pre_tokenizer")) if s.get("type") not in _SPLITS), None)
    if wrong is not None:
        raise TokenizerError(
            f"{path} splits texts by {wrong.get('type')!r:.40}, which the tokenizer model t5 does not: other texts "
            "would become other tokens"
        )
    return found


def _starts_with_space(files: TokenizerFiles) -> bool:
    marks = (step for step in steps_of(files.tokenizer.get("pre_tokenizer")) if step.get("type") == "Metaspace")
    return any(
        step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space") is not False for step in marks
    )


def _merges_spaces(files: TokenizerFiles) -> bool:
    """Whether several spaces count as one: because texts are split at them, or a step replaces them."""
    splits = {step.get("type") for step in steps_of(files.tokenizer.get("pre_tokenizer"))}
    replaced = (step for step in steps_of(files.tokenizer.get("normalizer")) if step.get("type") == "Replace")
    patterns = (step.get("pattern") for step in replaced)
    return bool(splits & {"WhitespaceSplit", "Whitespace"}) or any(
        isinstance(pattern, dict) and str(pattern.get("Regex", "")).startswith(" {2,}") for pattern in patterns
    )
