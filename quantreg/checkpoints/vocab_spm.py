"""SentencePiece: the tokenizer model "llama" from a `tokenizer.model`, which is a protobuf message."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantreg.checkpoints.protobuf import encoded, fields
from quantreg.checkpoints.special_ids import special_values
from quantreg.checkpoints.tokenizer_files import TokenizerFiles, whole_number
from quantreg.checkpoints.vocab_bpe import looks_special, vocabulary_size
from quantreg.checkpoints.vocabulary_hint import Vocabulary
from quantreg.errors import TokenizerError
from quantreg.gguf import Value
from quantreg.tokenization import Kind

__all__ = ["Piece", "encoded_pieces", "is_tiktoken", "sentencepiece_values"]

_FILE = "tokenizer.model"
# Type of a piece in the file -> type of the token; the reference takes user-defined pieces for normal ones.
_KINDS = {
    1: Kind.NORMAL,
    2: Kind.UNKNOWN,
    3: Kind.CONTROL,
    4: Kind.NORMAL,
    5: Kind.UNUSED,
    6: Kind.BYTE,
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a `tokenizer.model`: its text as bytes, its score, and its type as the file numbers it."""

    text: bytes
    score: float
    type: int


def is_tiktoken(files: TokenizerFiles) -> bool:
    """Say whether `tokenizer.model` is a list of base64 texts and ranks, as the original files of Llama 3 are."""
    head = files.raw(_FILE)[:4096]
    return re.match(rb"[A-Za-z0-9+/]+=* [0-9]+\r?\n[A-Za-z0-9+/]+=* [0-9]+\r?\n", head) is not None


def _read_pieces(files: TokenizerFiles) -> list[Piece]:
    """Read the pieces of `tokenizer.model`, by id. Raises TokenizerError if it is damaged."""
    path = files.folder / _FILE
    try:
        pieces = [_piece(value) for number, value in fields(memoryview(files.raw(_FILE))) if number == 1]
    except TokenizerError as error:
        raise TokenizerError(f"{path} is no SentencePiece model ({error}): download it again") from None
    if not pieces:
        raise TokenizerError(f"{path} is no SentencePiece model (it has no pieces): download it again")
    seen: dict[bytes, int] = {}
    for id, piece in enumerate(pieces):
        other = seen.setdefault(piece.text, id)
        if other != id:
            raise TokenizerError(
                f"{path} has the piece {piece.text.decode('utf-8', 'replace')!r} twice, as {other} and {id}: "
                "the file is damaged, download it again"
            )
    return pieces


def _piece(message: object) -> Piece:
    text, score, kind = b"", 0.0, 1
    if not isinstance(message, memoryview):
        raise TokenizerError("a piece is a number")
    for number, value in fields(message):
        if number == 1 and isinstance(value, memoryview):
            text = bytes(value)
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if kind not in _KINDS:
        raise TokenizerError(f"a piece of the unknown type {kind}")
    if not text:
        raise TokenizerError("a piece without a text")
    return Piece(text, score, kind)


def encoded_pieces(pieces: Sequence[Piece], *, space: bool) -> bytes:
    """Encode a `tokenizer.model` of byte pairs. ``space``: a text gets a space in front."""
    messages = [(1, encoded([(1, piece.text), (2, piece.score), (3, piece.type)])) for piece in pieces]
    texts = [(number, piece.type) for number, piece in enumerate(pieces)]
    unknown = next((number for number, kind in texts if kind == 2), 0)
    trainer = encoded([(3, 2), (4, len(messages)), (35, int(any(kind == 6 for _, kind in texts))), (40, unknown)])
    normalizer = encoded([(1, b"identity"), (3, int(space)), (4, 0), (5, 1)])
    return encoded([*messages, (2, trainer), (3, normalizer)])


def sentencepiece_values(files: TokenizerFiles, config: Mapping[str, Any], hint: Vocabulary) -> dict[str, Value]:
    """Return the keys of the model "llama" from a `tokenizer.model` and the added tokens of the folder.

    Tokens from the "vocab_size" of config.json on have no row in the embedding: they are left out, as the reference
    does.
    """
    table = _Table(_read_pieces(files), vocabulary_size(config))
    if files.has("added_tokens.json"):
        for text, id in files.mapping("added_tokens.json").items():
            what = f"the id of the token {text!r} in {files.folder / 'added_tokens.json'}"
            table.set(whole_number(id, what), text, Kind.USER_DEFINED)
    for id, entry in files.decoder_entries():
        table.add(id, entry, hint.looks_special)
    if hint.added_from_json:
        for entry in files.added:
            table.add(entry["id"], entry, looks=False)
    return {
        "tokenizer.ggml.model": Value("string", "llama"),
        "tokenizer.ggml.pre": Value("string", "default"),
        "tokenizer.ggml.tokens": Value("array[string]", table.tokens),
        "tokenizer.ggml.scores": Value("array[f32]", table.scores),
        "tokenizer.ggml.token_type": Value("array[i32]", table.types),
        **special_values(files, config, limit=len(table.tokens)),
    }


class _Table:
    """Tokens, scores and types by id. Ids without a token are "[PAD17]" and unused."""

    def __init__(self, pieces: list[Piece], size: int | None) -> None:
        size = len(pieces) if size is None else size
        self.tokens: list[bytes | str] = [f"[PAD{id}]" for id in range(size)]
        self.scores = [-10000.0] * size
        self.types = [Kind.UNUSED] * size
        for id, piece in enumerate(pieces[:size]):
            self.tokens[id], self.scores[id], self.types[id] = piece.text, piece.score, _KINDS[piece.type]

    def set(self, id: int, text: str, kind: Kind) -> None:
        if id < len(self.tokens):
            self.tokens[id], self.scores[id], self.types[id] = text, -1000.0, kind

    def add(self, id: int, entry: Mapping[str, Any], looks: bool) -> None:
        text = entry["content"]
        if entry.get("special") or (looks and looks_special(text)):
            self.set(id, text, Kind.CONTROL)
        else:
            self.set(id, text.replace("▁", " ") if looks else text, Kind.USER_DEFINED)
