"""Mistral's `tekken.json`: tokens as bytes, whose number is also the order in which they merge."""

import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from quantreg.checkpoints.special_ids import special_values
from quantreg.checkpoints.tokenizer_files import TokenizerFiles, whole_number
from quantreg.checkpoints.vocab_bpe import vocabulary_size
from quantreg.errors import TokenizerError
from quantreg.gguf import Value
from quantreg.tokenization import Kind
from quantreg.tokenization.utf8 import BYTE_CHARACTERS

__all__ = ["tekken_values"]

NAME = "tekken.json"
_BYTES = 256  # the first tokens are the bytes, in their order
# The special tokens of files that list none, which are those up to version 7.
_FIRST = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


def tekken_values(files: TokenizerFiles, config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the keys of the model "gpt2" from a `tekken.json`. Raises TokenizerError if it is damaged."""
    path = files.folder / NAME
    data = files.mapping(NAME, shorten=lambda found: found.get("token_bytes", found) if "rank" in found else found)
    said = data.get("config")
    if not isinstance(said, dict):
        raise TokenizerError(f'{path} has no "config": the file is damaged, download it again')
    size = whole_number(said.get("default_vocab_size"), f'"default_vocab_size" in {path}')
    n_special = whole_number(said.get("default_num_special_tokens"), f'"default_num_special_tokens" in {path}')
    special = _special(data, n_special, path)
    ranks = _ranks(data.get("vocab"), size - n_special, path)
    tokens = [*special, *map(_characters, ranks)]
    wanted = vocabulary_size(config) or len(tokens)
    if len(tokens) > wanted:
        raise TokenizerError(
            f'{path} has {len(tokens)} tokens, but config.json gives the model a "vocab_size" of {wanted}: the '
            "tokenizer belongs to another model"
        )
    types = [Kind.CONTROL] * n_special + [Kind.NORMAL] * len(ranks) + [Kind.UNUSED] * (wanted - len(tokens))
    tokens += [f"[PAD{id}]" for id in range(len(tokens), wanted)]
    ids = {"bos": "<s>", "eos": "</s>", "unknown": "<unk>", "padding": "<pad>"}
    found = {role: special.index(text) for role, text in ids.items() if text in special}
    found.setdefault("padding", found.get("eos", 0))
    return {
        "tokenizer.ggml.model": Value("string", "gpt2"),
        "tokenizer.ggml.pre": Value("string", "tekken"),
        "tokenizer.ggml.merges": Value("array[string]", _merges(ranks, path)),
        **{f"tokenizer.ggml.{role}_token_id": Value("u32", found[role]) for role in ids if role in found},
        "tokenizer.ggml.tokens": Value("array[string]", tokens),
        "tokenizer.ggml.scores": Value("array[f32]", [0.0] * len(tokens)),
        "tokenizer.ggml.token_type": Value("array[i32]", types),
        "tokenizer.ggml.add_bos_token": Value("bool", True),
        "tokenizer.ggml.add_eos_token": Value("bool", False),
        **{key: value for key, value in special_values(files, {}).items() if "chat_template" in key},
    }


def _characters(token: bytes) -> str:
    return token.decode("latin-1").translate(BYTE_CHARACTERS)


def _special(data: Mapping[str, Any], number: int, path: object) -> list[str]:
    """The texts of the special tokens, which have the first ids."""
    listed = data.get("special_tokens")
    texts = list(_FIRST) if listed is None else [one.get("token_str") for one in listed if isinstance(one, dict)]
    if len(texts) > number or not all(isinstance(text, str) for text in texts) or len(set(texts)) < len(texts):
        raise TokenizerError(f"{path}: its special tokens are not up to {number} different texts: download it again")
    return [*texts, *(f"<SPECIAL_{id}>" for id in range(len(texts), number))]


def _ranks(entries: Any, number: int, path: object) -> dict[bytes, int]:
    """Token -> rank, of the first ``number`` tokens, in the order of the ranks."""
    if not isinstance(entries, list) or not _BYTES <= number <= len(entries):
        raise TokenizerError(f"{path} does not have the {number} tokens of which it speaks: download it again")
    found: dict[bytes, int] = {}
    for rank, text in enumerate(entries[:number]):
        try:
            token = binascii.a2b_base64(text, strict_mode=True)
        except (TypeError, ValueError):
            raise TokenizerError(f"{path}: token {rank} is {text!r:.60}, not bytes in Base64: download it") from None
        if not token or found.setdefault(token, rank) != rank or (rank < _BYTES and token != bytes((rank,))):
            raise TokenizerError(f"{path}: token {rank} is {token!r:.60}, which cannot be: download it again")
    return found


def _merges(ranks: Mapping[bytes, int], path: object) -> Sequence[str]:
    """Every pair of tokens that makes a token, by the rank of what they make, and then by their own."""
    found: list[str] = []
    for token, rank in ranks.items():
        if rank < _BYTES:
            continue
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = sorted(
            (ranks[left], ranks[right], left, right) for left, right in cuts if left in ranks and right in ranks
        )
        if not pairs:
            raise TokenizerError(f"{path}: no two tokens make token {rank}, {token!r:.60}: download it again")
        found += [f"{_characters(left)} {_characters(right)}" for _, _, left, right in pairs]
    return found
