"""Find the special tokens in a text: those that users added always, control tokens only where asked."""

from collections.abc import Iterator

from quantreg.tokenization.utf8 import as_bytes
from quantreg.tokenization.vocabulary import Kind, Vocabulary

__all__ = ["SpecialTokens"]

_SPACE = " \t\n\v\f\r"


class SpecialTokens:
    """The special tokens of a vocabulary, the longest first, as the reference looks for them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        kinds, tokens = vocabulary.kinds, vocabulary.tokens
        special = [id for id, kind in enumerate(kinds) if kind in (Kind.CONTROL, Kind.USER_DEFINED, Kind.UNKNOWN)]
        special.sort(key=lambda found: -len(as_bytes(tokens[found])))
        self._all = [(tokens[id], id) for id in special]
        self._added = [(tokens[id], id) for id in special if kinds[id] is Kind.USER_DEFINED]
        self._lstrip, self._rstrip = vocabulary.lstrip, vocabulary.rstrip

    def split(self, text: str, *, control: bool) -> list[str | int]:
        """Cut a text into ids of special tokens and the text between them."""
        parts: list[str | int] = [text] if text else []
        for token, id in self._all if control else self._added:
            if token in text:
                parts = [piece for part in parts for piece in self._cut(part, token, id)]
        return parts

    def _cut(self, part: str | int, token: str, id: int) -> Iterator[str | int]:
        if isinstance(part, int) or token not in part:
            yield part
            return
        first, *others = part.split(token)
        if id in self._lstrip:
            first, others = first.rstrip(_SPACE), [*(other.rstrip(_SPACE) for other in others[:-1]), *others[-1:]]
        if id in self._rstrip:
            others = [other.lstrip(_SPACE) for other in others]
        if first:
            yield first
        for other in others:
            yield id
            if other:
                yield other
