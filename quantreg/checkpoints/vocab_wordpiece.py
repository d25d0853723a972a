"""WordPiece: the tokenizer model "bert", from a `tokenizer.json` or a `vocab.txt`."""

from collections.abc import Mapping
from typing import Any

from quantreg.checkpoints.added_tokens import added_tokens
from quantreg.checkpoints.special_ids import special_values
from quantreg.checkpoints.tokenizer_files import TokenizerFiles
from quantreg.checkpoints.vocab_bpe import base_vocabulary, tokens_by_id, vocabulary_size
from quantreg.errors import TokenizerError
from quantreg.gguf import Value
from quantreg.tokenization import Kind

__all__ = ["wordpiece_values"]

_CHINESE = 21128  # tokens of the Chinese BERT, whose models the reference calls by another name

# Key -> the usual text of the token and its id in the first BERT models, which readers assume where a file names none.
# (The reference relies on that for every vocabulary.)
_USUAL = {
    "bos": ("[CLS]", 101),
    "unknown": ("[UNK]", 100),
    "seperator": ("[SEP]", 102),
    "padding": ("[PAD]", 0),
    "mask": ("[MASK]", 103),
}


def wordpiece_values(files: TokenizerFiles, config: Mapping[str, Any], pre: str | None) -> dict[str, Value]:
    """Return the keys of the model "bert". ``pre`` is a label only; None gives the usual one.

    In GGUF a token that starts a word has "▁" in front, and one that goes on with a word has no "##".
    """
    base = _lines(files) if not files.tokenizer else base_vocabulary(files)
    added = added_tokens(files, base, "bert")
    tokens, types = tokens_by_id(files, base, added, vocabulary_size(config))
    texts = [
        token if kind is Kind.CONTROL else token[2:] if token.startswith("##") else f"▁{token}"
        for token, kind in zip(tokens, types, strict=True)
    ]
    if pre is None:
        pre = "bert-bge-large" if len(base) == _CHINESE else "jina-v2-en"
    values = {
        "tokenizer.ggml.model": Value("string", "bert"),
        "tokenizer.ggml.pre": Value("string", pre),
        "tokenizer.ggml.tokens": Value("array[string]", texts),
        "tokenizer.ggml.token_type": Value("array[i32]", types),
        **special_values(files, config, limit=len(texts)),
    }
    for role, (name, usual) in _USUAL.items():
        id = base.get(name)
        if id is not None and id != usual:
            values.setdefault(f"tokenizer.ggml.{role}_token_id", Value("u32", id))
    if not files.tokenizer and files.config.get("do_lower_case") is False:
        values.setdefault("tokenizer.ggml.normalizer.lowercase", Value("bool", False))
    return values


def _lines(files: TokenizerFiles) -> dict[str, int]:
    """The tokens of a `vocab.txt`, one a line."""
    lines = files.text("vocab.txt").split("\n")
    if lines and not lines[-1]:
        del lines[-1]
    found: dict[str, int] = {}
    for id, line in enumerate(lines):
        other = found.setdefault(line.removesuffix("\r"), id)
        if other != id:
            raise TokenizerError(f"{files.folder / 'vocab.txt'} has {line!r} in the lines {other + 1} and {id + 1}")
    if not found:
        raise TokenizerError(f"{files.folder / 'vocab.txt'} is empty: download it again")
    return found
