"""Token ids back to text, as the reference's llama_detokenize does it."""

import re
from collections.abc import Iterable

from quantreg.errors import TokenizerError
from quantreg.tokenization.marks import MARK
from quantreg.tokenization.utf8 import CHARACTER_BYTES
from quantreg.tokenization.vocabulary import BPE, Kind, Vocabulary

__all__ = ["Pieces"]

_HIDDEN = (Kind.CONTROL, Kind.UNKNOWN)
_VERBATIM = (*_HIDDEN, Kind.USER_DEFINED)


class Pieces:
    """The bytes of every token of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._bytes_in_tokens = vocabulary.model == BPE and not vocabulary.pre.spaces_marked
        self._known: dict[int, bytes] = {}

    def piece(self, id: int, *, special: bool) -> bytes:
        """Return the bytes of one token; those of a control token only if ``special``."""
        found = self._known.get(id)
        if found is None:
            if not 0 <= id < len(self._vocabulary.tokens):
                last = len(self._vocabulary.tokens) - 1
                raise TokenizerError(f"{id} is not a token of the vocabulary, whose ids run from 0 to {last}")
            found = self._known[id] = self._piece(id)
        return b"" if not special and self._vocabulary.kinds[id] in _HIDDEN else found

    def _piece(self, id: int) -> bytes:
        text, kind = self._vocabulary.tokens[id], self._vocabulary.kinds[id]
        if kind in _VERBATIM:
            return _raw(text)
        if kind is Kind.BYTE:
            if not re.fullmatch("<0x[0-9A-Fa-f]{2}>", text):
                raise TokenizerError(f"token {id} is a byte, but its text is {text!r}, not one such as '<0x0A>'")
            return bytes([int(text[3:5], 16)])
        if kind is not Kind.NORMAL:
            return b""
        if self._bytes_in_tokens:
            return b"".join(_byte(character, text) for character in text)
        return _raw(text.replace(MARK, " "))

    def joined(self, ids: Iterable[int], *, special: bool) -> bytes:
        """Return the bytes of several tokens as text: without the space in front that encoding adds."""
        pieces = [self.piece(int(id), special=special) for id in ids]
        if pieces and self._vocabulary.add_space_prefix:
            pieces[0] = pieces[0].removeprefix(b" ")
        text = b"".join(pieces)
        return _cleaned(text) if self._vocabulary.clean_up else text


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _byte(character: str, text: str) -> bytes:
    byte = CHARACTER_BYTES.get(character)
    if byte is None:
        return f"[UNK_BYTE_0x{_raw(character).hex()}{text}]".encode("utf-8", "surrogateescape")
    return bytes([byte])


def _cleaned(text: bytes) -> bytes:
    """Take out the spaces before punctuation, around single quotes and before the suffixes 's, 'm, 're and 've."""
    text = re.sub(rb" (?=[?!.,])", b"", text)
    text = text.replace(b" ' ", b"'")
    return re.sub(rb" (?='(?:s|m|re|ve))", b"", text)
