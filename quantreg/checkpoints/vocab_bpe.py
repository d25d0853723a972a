"""Byte pairs from a `tokenizer.json`: the tokenizer model "gpt2" over bytes, and "llama" over plain text."""

import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

from quantreg.checkpoints.added_tokens import AddedToken, added_tokens
from quantreg.checkpoints.decoders import decoded, marks_spaces
from quantreg.checkpoints.merges import merge_texts, read_merges
from quantreg.checkpoints.pretokenizers import pretokenizer_name
from quantreg.checkpoints.special_ids import special_values
from quantreg.checkpoints.tokenizer_files import TokenizerFiles, steps_of, whole_number
from quantreg.errors import TokenizerError
from quantreg.gguf import Value
from quantreg.tokenization import Kind

__all__ = [
    "base_vocabulary",
    "bpe_values",
    "gemma4_values",
    "is_llama",
    "llama_values",
    "tokens_by_id",
    "vocabulary_size",
]

_MAX_TOKENS = 1 << 24


def bpe_values(
    files: TokenizerFiles, config: Mapping[str, Any], pre: str | None, named: Sequence[tuple[str, str]] = ()
) -> dict[str, Value]:
    """Return the keys of the model "gpt2".

    ``pre`` names the pre-tokenizer; None recognises it. ``named`` are roles, each with the text of its token, for those
    that the files do not name.
    """
    base = base_vocabulary(files)
    kind = _text(config.get("model_type"))
    added = added_tokens(files, base, kind)
    tokens, types = tokens_by_id(files, base, added, vocabulary_size(config))
    if files.model.get("byte_fallback"):
        types = _with_bytes(tokens, types)
    ids = {token.content: id for id, token in added.items()}
    if pre is None:
        pre = pretokenizer_name(files, kind, ChainMap(dict.fromkeys(ids, 0), base))  # a set of all would be large
    return {
        "tokenizer.ggml.model": Value("string", "gpt2"),
        "tokenizer.ggml.pre": Value("string", pre),
        "tokenizer.ggml.tokens": Value("array[string]", tokens),
        "tokenizer.ggml.token_type": Value("array[i32]", types),
        **special_values(
            files,
            config,
            merges=merge_texts(read_merges(files)),
            named={role: ids[text] for role, text in named if text in ids},
        ),
    }


# Tokens that a reader shows although the files call them special: what a model says in them is part of its answer.
_SHOWN = {f"<|{name}>" for name in ("channel", "tool_call", "tool_response")}
_SHOWN |= {f"<{name}|>" for name in ("channel", "tool_call", "tool_response")} | {'<|"|>'}


def gemma4_values(files: TokenizerFiles, config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the keys of the model "gemma4": byte pairs over plain text, with their merges."""
    base = base_vocabulary(files)
    added = added_tokens(files, base, _text(config.get("model_type")))
    tokens, types = tokens_by_id(files, base, added, vocabulary_size(config))
    for id, token in added.items():
        tokens[id] = token.content
        if token.content in _SHOWN:
            types[id] = Kind.USER_DEFINED
    return {
        "tokenizer.ggml.model": Value("string", "gemma4"),
        "tokenizer.ggml.tokens": Value("array[string]", tokens),
        "tokenizer.ggml.scores": Value("array[f32]", [-1000.0] * len(tokens)),
        "tokenizer.ggml.token_type": Value("array[i32]", _with_bytes(tokens, types)),
        **special_values(files, config, merges=merge_texts(read_merges(files))),
        "tokenizer.ggml.add_space_prefix": Value("bool", False),
        "tokenizer.ggml.add_bos_token": Value("bool", True),
    }


def base_vocabulary(files: TokenizerFiles) -> dict[str, int]:
    """The vocabulary of the model in `tokenizer.json` or `vocab.json`, without added tokens. Each id occurs once."""
    if files.tokenizer:
        name, vocabulary = "tokenizer.json", files.model.get("vocab")
    else:
        name, vocabulary = "vocab.json", files.mapping("vocab.json")
    path = files.folder / name
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise TokenizerError(f"{path} has no vocabulary that maps tokens to ids: download the file again")
    seen: set[int] = set()
    for token, id in vocabulary.items():
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < 1 << 31:
            whole_number(id, f"the id of the token {token!r} in {path}")  # raises
        if id in seen:
            other = next(other for other, its in vocabulary.items() if its == id)
            raise TokenizerError(f"{path} gives {other!r} and {token!r} the same id {id}: correct the file")
        seen.add(id)
    return vocabulary


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """The size of the vocabulary in config.json: the number of rows of the embedding, or None."""
    size = config.get("vocab_size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _MAX_TOKENS:
        raise TokenizerError(
            f'"vocab_size" in config.json is {size!r}, not a number from 1 to {_MAX_TOKENS}: correct it'
        )
    return size


def tokens_by_id(
    files: TokenizerFiles, base: Mapping[str, int], added: Mapping[int, AddedToken], size: int | None
) -> tuple[list[str], list[int]]:
    """Return the texts and types of all tokens; ids without a token, up to ``size``, are "[PAD17]" and unused."""
    last = max(max(base.values()), *added) if added else max(base.values())
    if size is None:
        size = last + 1
    if last >= size or size > _MAX_TOKENS:
        text = added[last].content if last in added else next(token for token, id in base.items() if id == last)
        raise TokenizerError(
            f"the tokenizer in {files.folder} has the token {text!r} with the id {last}, but config.json gives "
            f'the model a "vocab_size" of {size}: the tokenizer belongs to another model, or tokens were added without '
            "making the embedding larger; remove those tokens from the tokenizer's files"
        )
    marked = marks_spaces(files)
    tokens: list[str] = [""] * size
    types: list[int] = [Kind.UNUSED] * size
    for token, id in base.items():
        tokens[id], types[id] = token, Kind.NORMAL
    for id, one in added.items():
        text = one.content if one.normalized else decoded(files, one.content)
        control = one.special or looks_special(text)
        tokens[id] = text.replace("▁", " ") if marked and not control else text
        types[id] = Kind.CONTROL if control else Kind.USER_DEFINED
    for id, kind in enumerate(types):
        if kind == Kind.UNUSED:
            tokens[id] = f"[PAD{id}]"
    return tokens, types


def _with_bytes(tokens: Sequence[str], types: Sequence[int]) -> list[int]:
    """The types of tokens where those like "<0x0A>" stand for bytes."""
    return [
        Kind.BYTE if type == Kind.NORMAL and re.fullmatch("<0x[0-9A-Fa-f]{2}>", token) else type
        for token, type in zip(tokens, types, strict=True)
    ]


def looks_special(token: str) -> bool:
    """Say whether an added token is a control token although its folder does not say so, as the reference decides."""
    ends = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        token.startswith(start) and token.endswith(end) for start, end in ends
    )


def is_llama(files: TokenizerFiles) -> bool:
    """Say whether `tokenizer.json` holds byte pairs over plain text with a token for each byte, as Llama 2's does."""
    decoder = files.tokenizer.get("decoder")
    return (
        files.model_type == "BPE"
        and bool(files.model.get("byte_fallback"))
        and isinstance(decoder, dict)
        and decoder.get("type") == "Sequence"
    )


def llama_values(files: TokenizerFiles, config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the keys of the model "llama" from a `tokenizer.json`.

    The score of a token is minus the rank of the merge that makes it, so that the highest score merges first, as in a
    `tokenizer.model`. (The reference writes -1000 for all, so that a text is merged from the left: with the vocabulary
    of Llama 2, half of the longer texts become other tokens.) There is no padding up to "vocab_size".
    """
    base = base_vocabulary(files)
    kind = _text(config.get("model_type"))
    added = added_tokens(files, base, kind)
    size = max(max(base.values()), *added) + 1 if added else max(base.values()) + 1
    if size > len(base.keys() | {token.content for token in added.values()}):
        raise TokenizerError(f"{files.folder / 'tokenizer.json'} has ids without a token: download it again")
    tokens, types = tokens_by_id(files, base, added, max(size, vocabulary_size(config) or 0))
    del tokens[size:], types[size:]
    types = _with_bytes(tokens, types)
    ranks: dict[str, int] = {}
    rank = -1
    for rank, (left, right) in enumerate(read_merges(files)):
        ranks.setdefault(left + right, rank)
    values = {
        "tokenizer.ggml.model": Value("string", "llama"),
        "tokenizer.ggml.pre": Value("string", "default"),
        "tokenizer.ggml.tokens": Value("array[string]", tokens),
        "tokenizer.ggml.scores": Value("array[f32]", [-float(ranks.get(token, rank + 1)) for token in tokens]),
        "tokenizer.ggml.token_type": Value("array[i32]", types),
        **special_values(files, config, limit=len(tokens)),
    }
    if not _starts_with_space(files):  # GGUF's default is that a text starts with a space
        values["tokenizer.ggml.add_space_prefix"] = Value("bool", False)
    return values


def _starts_with_space(files: TokenizerFiles) -> bool:
    """Say whether a text gets a space in front."""
    return any(step.get("type") == "Prepend" for step in steps_of(files.tokenizer.get("normalizer"))) or any(
        step.get("type") == "Metaspace"
        and step.get("prepend_scheme", "always") != "never"
        and step.get("add_prefix_space") is not False
        for step in steps_of(files.tokenizer.get("pre_tokenizer"))
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
