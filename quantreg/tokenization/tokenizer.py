"""`Tokenizer`: text to token ids and back, from the metadata of a GGUF file alone."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from quantreg.tokenization.bpe import BytePairs
from quantreg.tokenization.decoding import Pieces
from quantreg.tokenization.special import SpecialTokens
from quantreg.tokenization.spm import ScoredPieces
from quantreg.tokenization.unigram import Unigram
from quantreg.tokenization.vocabulary import BPE, SPM, UGM, Kind, Vocabulary
from quantreg.tokenization.wpm import WordPieces

__all__ = ["Tokenizer"]


class Tokenizer:
    """Turns text into token ids and back, exactly as llama.cpp does with the same file.

    It knows the tokenizer models "llama" (SentencePiece), "gpt2" and "gemma4" (byte pairs), "bert"
    (WordPiece) and "t5" (Unigram).

    >>> import quantreg
    >>> tokenizer = quantreg.Tokenizer.of({
    ...     "tokenizer.ggml.model": "llama",
    ...     "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "▁", "h", "i", "hi", "▁hi"],
    ...     "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0],
    ...     "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
    ... })
    >>> tokenizer.encode("hi hi")
    [7, 7]
    >>> tokenizer.decode([7, 7])
    'hi hi'
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._pieces = Pieces(vocabulary)
        self._special = SpecialTokens(vocabulary)

    @cached_property
    def _model(
        self,
    ) -> BytePairs | ScoredPieces | Unigram | WordPieces:  # encoding alone needs it, and it takes a second to make
        return _model(self._vocabulary)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[Vocabulary]]:
        return Tokenizer, (self._vocabulary,)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Return the tokenizer of a model with this metadata, such as ``quantreg.open(path).metadata``.

        Raises TokenizerError if there is no vocabulary, if it is damaged, or if its model or pre-tokenizer is unknown:
        tokens that only look right would spoil every figure computed from them.
        """
        return cls(Vocabulary.of(metadata))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of a text, without BOS and EOS.

        ``special``: control tokens such as "<|im_end|>" in the text become those tokens. Otherwise they are plain text,
        which is right for text that nobody wrote as a prompt. Tokens that the model's makers added as "user-defined"
        are found in both cases.

        The text may hold bytes that are no UTF-8, as Python's surrogateescape handler reads them. Raises TokenizerError
        if it holds other surrogates, or a character that the vocabulary cannot write.
        """
        parts = self._special.split(text, control=special)
        if self._vocabulary.model == SPM and self._vocabulary.add_space_prefix:
            # A text starts as a word does; so does what follows a special token.
            parts = [
                f" {part}" if isinstance(part, str) and (at == 0 or isinstance(parts[at - 1], int)) else part
                for at, part in enumerate(parts)
            ]
        found: list[int] = []
        for part in parts:
            if isinstance(part, int):
                found.append(part)
            else:
                found += self._model.encode(part)
        return found

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Return the text of token ids; bytes that are no UTF-8 become U+FFFD.

        ``special``: control tokens show their text instead of nothing. Raises TokenizerError for an id outside the
        vocabulary.
        """
        return self.decode_bytes(ids, special=special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, special: bool = False) -> bytes:
        """Return the text of token ids as bytes, which may end in the middle of a character."""
        return self._pieces.joined(ids, special=special)

    def token_bytes(self, id: int, *, special: bool = False) -> bytes:
        """Return the bytes of one token, with the space in front if it starts a word.

        A control token has none, unless ``special`` asks for its text.
        """
        return self._pieces.piece(int(id), special=special)

    def __repr__(self) -> str:
        return f"<Tokenizer {self._vocabulary.model}: {len(self.tokens)} tokens>"

    @property
    def tokens(self) -> Sequence[str]:
        """The tokens as the file writes them, by id."""
        return self._vocabulary.tokens

    @property
    def kinds(self) -> Sequence[Kind]:
        """The types of the tokens, by id, with the corrections that the reference makes."""
        return self._vocabulary.kinds

    @property
    def bos(self) -> int | None:
        """The token at the beginning of a text, or None."""
        return self._vocabulary.roles.get("bos")

    @property
    def eos(self) -> int | None:
        """The token at the end of a text, or None."""
        return self._vocabulary.roles.get("eos")

    @property
    def eot(self) -> int | None:
        """The token at the end of a turn in a chat, or None."""
        return self._vocabulary.roles.get("eot")

    @property
    def sep(self) -> int | None:
        """The separator, which ends every text of a "bert" model, or None."""
        return self._vocabulary.roles.get("sep")

    @property
    def add_bos(self) -> bool:
        """Whether the model puts BOS in front of a text."""
        return self._vocabulary.add_bos

    @property
    def add_eos(self) -> bool:
        """Whether the model puts EOS behind a text."""
        return self._vocabulary.add_eos

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens at which a generation ends."""
        return self._vocabulary.end_ids


def _model(vocabulary: Vocabulary) -> BytePairs | ScoredPieces | Unigram | WordPieces:
    if vocabulary.model == SPM:
        return ScoredPieces(vocabulary.ids, vocabulary.scores)
    if vocabulary.model == UGM:
        return Unigram(vocabulary)
    if vocabulary.model == BPE:
        return BytePairs(vocabulary.ids, vocabulary.merges, vocabulary.pre)
    unknown = vocabulary.roles.get("unknown")
    return WordPieces(vocabulary.ids, unknown, lowercase=vocabulary.lowercase, strip_accents=vocabulary.strip_accents)
