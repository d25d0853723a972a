"""The model "t5" (Unigram, Kudo 2018): of all ways to cut a text, that whose tokens have the largest sum of scores."""

from quantreg.tokenization.charsmap import Charsmap
from quantreg.tokenization.marks import MARK, cut_before_marks
from quantreg.tokenization.utf8 import escaped_bytes
from quantreg.tokenization.vocabulary import Kind, Vocabulary

__all__ = ["Unigram"]

_REMEMBERED = 1 << 18
_PENALTY = 10.0  # by how much a character without a token scores below the worst token


class Unigram:
    """Encodes text that holds no special tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens, kinds = vocabulary.tokens, vocabulary.kinds
        usable = (Kind.NORMAL, Kind.USER_DEFINED, Kind.UNUSED)
        self._scores = {
            token: (0.0 if kind is Kind.USER_DEFINED else float(score), id)
            for id, (token, kind, score) in enumerate(zip(tokens, kinds, vocabulary.scores, strict=False))
            if kind in usable
        }
        normal = (float(score) for score, kind in zip(vocabulary.scores, kinds, strict=False) if kind is Kind.NORMAL)
        self._unknown = min(normal, default=0.0) - _PENALTY
        self._unknown_id = vocabulary.roles.get("unknown", 2)
        self._longest: dict[str, int] = {}  # the length of the longest token that begins with a character
        for token in self._scores:
            self._longest[token[0]] = max(self._longest.get(token[0], 0), len(token))
        added = (token for token, kind in zip(tokens, kinds, strict=True) if kind is Kind.USER_DEFINED)
        self._added = sorted((token.encode("utf-8", "surrogatepass") for token in added), key=len, reverse=True)
        self._charsmap = Charsmap(vocabulary.charsmap) if vocabulary.charsmap else None
        self._space, self._merge = vocabulary.add_space_prefix, vocabulary.merge_spaces
        # A word can be cut alone if each token begins at most one: then only its first character is a mark.
        self._cut = cut_before_marks(self._scores) if MARK in self._scores else None
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        text = self.normalized(text)
        found: list[int] = []
        for word in [text] if self._cut is None else self._cut(text):
            tokens = self._known.get(word)
            if tokens is None:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                tokens = self._known[word] = self._best(word)
            for id in tokens:
                if id != self._unknown_id or found[-1:] != [id]:
                    found.append(id)
        return found

    def _best(self, text: str) -> list[int]:
        """The tokens of the best way to cut a text."""
        end = len(text)
        sums = [0.0, *([float("-inf")] * end)]
        before: list[tuple[int, int]] = [(0, 0)] * (end + 1)  # where the last token begins, and the token
        for at in range(end):
            here, single = sums[at], False
            for length in range(1, min(self._longest.get(text[at], 0), end - at) + 1):
                scored = self._scores.get(text[at : at + length])
                if scored is None:
                    continue
                single = single or length == 1
                if here + scored[0] > sums[at + length]:
                    sums[at + length], before[at + length] = here + scored[0], (at, scored[1])
            if not single and here + self._unknown > sums[at + 1]:
                sums[at + 1], before[at + 1] = here + self._unknown, (at, self._unknown_id)
        found = []
        while end:
            end, id = before[end]
            found.append(id)
        return found[::-1]

    def normalized(self, text: str) -> str:
        """The text as the tokens spell it: normalized, with marks in place of spaces."""
        pieces: list[str] = []
        inside = begun = False
        for piece in self._replaced(escaped_bytes(text)).decode("utf-8", "replace"):
            if piece == " ":
                inside = False
                if not self._merge:
                    pieces.append(MARK)
                continue
            if not inside:
                inside = True
                if self._merge or (self._space and not begun):
                    pieces.append(MARK)
                    begun = True
            pieces.append(piece)
        return "".join(pieces)

    def _replaced(self, raw: bytes) -> bytes:
        """The bytes after the table has replaced what it knows. Tokens that users added stay as they are."""
        table, added = self._charsmap, self._added
        if table is None:
            return raw
        found, at, size = bytearray(), 0, len(raw)
        while at < size:
            token = next((token for token in added if raw.startswith(token, at)), b"") if added else b""
            length, new = (len(token), token) if token else table.longest(raw, at)
            if length:
                found += new
                at += length
                continue
            found.append(raw[at])
            at += 1
            while at < size and raw[at] & 0xC0 == 0x80:  # the rest of a character
                found.append(raw[at])
                at += 1
        return bytes(found)
