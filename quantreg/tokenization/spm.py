"""The model "llama" (SentencePiece): the two neighbours that make the token of the highest score merge first."""

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

from quantreg.errors import TokenizerError
from quantreg.tokenization.marks import MARK, cut_before_marks
from quantreg.tokenization.utf8 import escaped_bytes

__all__ = ["ScoredPieces"]

_REMEMBERED = 1 << 18
# Bytes of a character by the upper half of its first byte, as the reference counts them.
_SIZES = (1,) * 12 + (2, 2, 3, 4)


class ScoredPieces:
    """Encodes text that holds no special tokens."""

    def __init__(self, ids: Mapping[str, int], scores: Sequence[float]) -> None:
        self._ids = ids
        self._costs = {token: -scores[id] for token, id in ids.items()}
        self._cut = cut_before_marks(ids)
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        text = text.replace(" ", MARK)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return self._ids_of(self._merged(_symbols(escaped_bytes(text))))
        known, found = self._known, []
        for part in self._cut(text):
            tokens = known.get(part)
            if tokens is None:
                if len(known) >= _REMEMBERED:
                    known.clear()
                tokens = known[part] = self._ids_of(self._merged(list(part)))
            found += tokens
        return found

    def _ids_of(self, pieces: list[str]) -> list[int]:
        found = []
        for piece in pieces:
            token = self._ids.get(piece)
            if token is None:
                found += [self._of_byte(byte) for byte in escaped_bytes(piece)]
            else:
                found.append(token)
        return found

    def _of_byte(self, byte: int) -> int:
        token = self._ids.get(f"<0x{byte:02X}>")
        if token is None and byte < 128:
            token = self._ids.get(chr(byte))
        if token is None:
            raise TokenizerError(
                f"the vocabulary has no token for the byte 0x{byte:02X}, which the text needs: remove the character, "
                "or check that the model was converted with its byte tokens"
            )
        return token

    def _merged(self, symbols: list[str]) -> list[str]:
        parts: list[str | None] = [*symbols]
        end = len(parts)
        after = list(range(1, end + 1))
        before = list(range(-1, end - 1))
        cost = self._costs.get
        queue = []
        for at in range(end - 1):
            both = symbols[at] + symbols[at + 1]
            found = cost(both)
            if found is not None:
                queue.append((found, at, at + 1, both))
        heapify(queue)
        while queue:
            _, left, right, both = heappop(queue)
            first, second = parts[left], parts[right]
            if first is None or second is None or len(first) + len(second) != len(both):
                continue  # one of the two has merged since
            parts[left], parts[right] = both, None
            after[left] = after[right]
            if after[right] < end:
                before[after[right]] = left
            for one, two in ((before[left], left), (left, after[left])):
                if one >= 0 and two < end:
                    both = parts[one] + parts[two]  # type: ignore[operator]
                    found = cost(both)
                    if found is not None:
                        heappush(queue, (found, one, two, both))
        return [part for part in parts if part is not None]


def _symbols(raw: bytes) -> list[str]:
    """Split bytes where the reference sees characters; it looks only at the first byte of each."""
    found, at = [], 0
    while at < len(raw):
        size = _SIZES[raw[at] >> 4]
        found.append(raw[at : at + size].decode("utf-8", "surrogateescape"))
        at += size
    return found
