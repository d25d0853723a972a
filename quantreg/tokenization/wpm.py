"""The model "bert" (WordPiece): words are normalized, then cut from the left into the longest tokens."""

from collections.abc import Mapping

from quantreg.errors import TokenizerError
from quantreg.tokenization.categories import WHITESPACE, category, lowered, without_accent
from quantreg.tokenization.marks import MARK
from quantreg.tokenization.utf8 import as_characters

__all__ = ["WordPieces"]

_REMEMBERED = 1 << 18
# Blocks of Chinese characters, each of which is a word. The sixth starts where the reference starts it, not at U+2B820.
_CHINESE = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


class WordPieces:
    """Encodes text that holds no special tokens."""

    def __init__(self, ids: Mapping[str, int], unknown: int | None, *, lowercase: bool, strip_accents: bool) -> None:
        self._ids = ids
        self._unknown = unknown
        self._longest = max(map(len, ids), default=0)
        self._normal = _Normal(lowercase, strip_accents)
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        known, found = self._known, []
        for word in as_characters(text).translate(self._normal).split(" "):
            tokens = known.get(word)
            if tokens is None:
                if len(known) >= _REMEMBERED:
                    known.clear()
                tokens = known[word] = self._word(word) if word else []
            found += tokens
        return found

    def _word(self, word: str) -> list[int]:
        word = MARK + word
        found, at = [], 0
        while at < len(word):
            for end in range(min(len(word), at + self._longest), at, -1):
                token = self._ids.get(word[at:end])
                if token is not None:
                    found.append(token)
                    at = end
                    break
            else:
                return [self._unknown_token()]
        return found

    def _unknown_token(self) -> int:
        if self._unknown is None:
            raise TokenizerError("the vocabulary has no token for unknown words, which the text needs")
        return self._unknown


class _Normal(dict[int, str]):
    """What a character becomes: nothing, itself in lower case, or a word of its own between spaces."""

    def __init__(self, lowercase: bool, strip_accents: bool) -> None:
        self._lowercase = lowercase
        self._strip_accents = strip_accents

    def __missing__(self, code: int) -> str:
        self[code] = self._normal(code)
        return self[code]

    def _normal(self, code: int) -> str:
        if self._strip_accents:
            code = without_accent(code)
        if code in WHITESPACE:
            return " "
        letter = category(code)
        if code in (0, 0xFFFD) or letter == "C" or (letter == "M" and self._strip_accents):
            return ""
        text = chr(lowered(code) if self._lowercase else code)
        alone = (
            letter == "P" or (letter == "S" and code < 0x7F) or any(first <= code <= last for first, last in _CHINESE)
        )
        return f" {text} " if alone else text
