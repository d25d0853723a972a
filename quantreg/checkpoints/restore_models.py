"""The vocabulary of a GGUF file as the model of a `tokenizer.json`, for each tokenizer model."""

import base64
import json
from collections.abc import Collection, Sequence
from typing import Any

from quantreg.checkpoints.restore_pretokenizers import normalizer_of, pretokenizer_of
from quantreg.errors import TokenizerError
from quantreg.tokenization import Kind

__all__ = ["as_bert", "as_bpe", "as_llama", "as_unigram", "is_padding", "with_strips"]

_ADDED = (Kind.CONTROL, Kind.USER_DEFINED, Kind.UNKNOWN)


def is_padding(id: int, token: str, kind: int) -> bool:
    """Say whether a token only fills the vocabulary up to the size of the embedding."""
    return kind == Kind.UNUSED and token.removeprefix("▁") == f"[PAD{id}]"


def as_bpe(tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], pre: str, whole: bool) -> dict[str, Any]:
    """Return the parts of a `tokenizer.json` for the model "gpt2", without merges into what is no token."""
    vocabulary = _vocabulary(tokens, kinds)
    pairs = [pair for pair in map(_pair, merges) if {*pair, "".join(pair)} <= vocabulary.keys()]
    normalizer = normalizer_of(pre)
    marked = normalizer is not None and normalizer["type"] == "Replace"
    return {
        "added_tokens": _added(tokens, kinds),
        "normalizer": normalizer,
        "pre_tokenizer": pretokenizer_of(pre),
        "decoder": _marks_decoder(False)
        if marked
        else {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>" if marked and "<unk>" in tokens else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": marked,
            "byte_fallback": marked,
            "ignore_merges": whole,
            "vocab": vocabulary,
            "merges": pairs,
        },
    }


def as_llama(
    tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float], unknown: int | None, space: bool
) -> dict[str, Any]:
    """Return the parts of a `tokenizer.json` for the model "llama": byte pairs over plain text.

    A merge makes a token of two, and the token of the highest score merges first.
    """
    vocabulary = _vocabulary(tokens, kinds)
    merges: list[tuple[float, int, int, list[str]]] = []
    for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind != Kind.NORMAL:
            continue
        for at in range(1, len(token)):
            left, right = vocabulary.get(token[:at]), vocabulary.get(token[at:])
            if left is not None and right is not None:
                merges.append((-scores[id], id, at, [token[:at], token[at:]]))
    merges.sort(key=lambda merge: merge[:3])
    marks: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {
        "added_tokens": _added(tokens, kinds),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, marks]}
        if space
        else marks,
        "pre_tokenizer": None,
        "decoder": _marks_decoder(space),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else tokens[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [pair for _, _, _, pair in merges],
        },
    }


def as_unigram(
    tokens: Sequence[str],
    kinds: Sequence[int],
    scores: Sequence[float],
    unknown: int | None,
    charsmap: bytes,
    *,
    space: bool,
    merge: bool,
) -> dict[str, Any]:
    """Return the parts of a `tokenizer.json` for the model "t5"."""
    marks = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always" if space else "never", "split": True}
    table = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    last = max((id for id, token in enumerate(tokens) if not is_padding(id, token, kinds[id])), default=-1)
    return {
        "added_tokens": _added(tokens, kinds),
        "normalizer": table if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks]}
        if merge
        else marks,
        "decoder": marks,
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[token, float(score)] for token, score in zip(tokens, scores, strict=False)][: last + 1],
            "byte_fallback": False,
        },
    }


def as_bert(
    tokens: Sequence[str], kinds: Sequence[int], unknown: int, *, lowercase: bool, strip_accents: bool | None
) -> dict[str, Any]:
    """Return the parts of a `tokenizer.json` for the model "bert"."""
    words = [
        token if kind == Kind.CONTROL or is_padding(id, token, kind) else _word(token)
        for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
    ]
    return {
        "added_tokens": _added(words, kinds),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": strip_accents,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": words[unknown],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": _vocabulary(words, kinds),
        },
    }


def _word(token: str) -> str:
    return token[1:] if token.startswith("▁") else f"##{token}"


def _vocabulary(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, int]:
    """Token -> id, with the added tokens, so that each keeps its id; without those that only fill up."""
    found: dict[str, int] = {}
    for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if not is_padding(id, token, kind):
            other = found.setdefault(token, id)
            if other != id:
                raise TokenizerError(f"the vocabulary has the token {token!r} twice, as {other} and {id}")
    return found


def with_strips(added: list[dict[str, Any]], lstrip: Collection[int], rstrip: Collection[int]) -> list[dict[str, Any]]:
    """Mark the added tokens that swallow the white space before them or behind them."""
    return [{**entry, "lstrip": entry["id"] in lstrip, "rstrip": entry["id"] in rstrip} for entry in added]


def _added(tokens: Sequence[str], kinds: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "id": id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != Kind.USER_DEFINED,
        }
        for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if token and kind in _ADDED
    ]


def _pair(merge: str) -> list[str]:
    left, _, right = merge.partition(" ")
    if not left or not right:
        raise TokenizerError(f"the merge {json.dumps(merge)} is not two tokens: convert the model again")
    return [left, right]


def _marks_decoder(space: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if space:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
