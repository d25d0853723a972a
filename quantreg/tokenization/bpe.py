"""The model "gpt2": byte pairs. A piece starts as single characters; the pair of the lowest rank merges first."""

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

from quantreg.tokenization.marks import cut_before_marks
from quantreg.tokenization.pretokenizers import PreTokenizer
from quantreg.tokenization.splitting import splitter
from quantreg.tokenization.utf8 import BYTE_CHARACTERS, as_bytes, as_characters

__all__ = ["BytePairs"]

_REMEMBERED = 1 << 18  # words whose tokens are kept; a text repeats most of its words
_SHORT = 32  # up to so many characters, looking at all pairs again is faster than a heap


class BytePairs:
    """Encodes text that holds no special tokens."""

    def __init__(self, ids: Mapping[str, int], merges: Sequence[str], pre: PreTokenizer) -> None:
        self._ids = ids
        self._pre = pre
        self._split = splitter(pre.splits)
        self._known: dict[str, list[int]] = {}
        self._count = len(merges)
        # Symbols hold no spaces, so that "left right" is as good a key as a pair; the first of equal merges counts.
        self._ranks = dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))
        if pre.spaces_marked:  # whole lines repeat less than their words
            lines, cut = self._split, cut_before_marks(merge.replace(" ", "", 1) for merge in merges)
            self._split = lambda text: [part for line in lines(text) for part in cut(line)]

    def encode(self, text: str) -> list[int]:
        text = as_characters(text)
        if self._pre.spaces_marked:
            text = text.replace(" ", "▁")
        known, found = self._known, []
        for word in self._split(text):
            tokens = known.get(word)
            if tokens is None:
                if len(known) >= _REMEMBERED:
                    known.clear()
                tokens = known[word] = self._word(word)
            found += tokens
        return found

    def _word(self, word: str) -> list[int]:
        ids, pre = self._ids, self._pre
        symbols = word if pre.spaces_marked else as_bytes(word).decode("latin-1").translate(BYTE_CHARACTERS)
        if pre.whole_words and symbols in ids:
            return [ids[symbols]]
        if pre.newline_runs and not word.strip("\n") and symbols in ids:
            return [ids[symbols]]
        found = []
        for symbol in self._merged(symbols):
            token = self._ids.get(symbol)
            if token is None:
                found += self._of_bytes(symbol)
            else:
                found.append(token)
        return found

    def _of_bytes(self, symbol: str) -> list[int]:
        """Spell a symbol that is no token; the reference drops bytes that the vocabulary does not have."""
        raw = as_bytes(symbol)
        names = (f"<0x{byte:02X}>" for byte in raw) if self._pre.spaces_marked else map(chr, raw)
        return [self._ids[name] for name in names if name in self._ids and (len(name) > 1 or name.isascii())]

    def _merged(self, symbols: str) -> list[str]:
        if len(symbols) > _SHORT:
            return self._merged_by_heap(symbols)
        parts, rank = list(symbols), self._ranks.get
        nowhere = self._count
        while len(parts) > 1:
            ranks = [rank(f"{left} {right}", nowhere) for left, right in pairwise(parts)]
            best = min(ranks)
            if best == nowhere:
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts

    def _merged_by_heap(self, symbols: str) -> list[str]:
        parts: list[str | None] = list(symbols)
        after = list(range(1, len(parts) + 1))
        before = list(range(-1, len(parts) - 1))
        rank, end = self._ranks.get, len(parts)
        queue = []
        for at in range(end - 1):
            found = rank(f"{parts[at]} {parts[at + 1]}")
            if found is not None:
                queue.append((found, at, at + 1, 2))
        heapify(queue)
        while queue:
            _, left, right, size = heappop(queue)
            first, second = parts[left], parts[right]
            if first is None or second is None or len(first) + len(second) != size:
                continue  # one of the two has merged since
            parts[left], parts[right] = first + second, None
            after[left] = after[right]
            if after[right] < end:
                before[after[right]] = left
            for one, two in ((before[left], left), (left, after[left])):
                if one >= 0 and two < end:
                    found = rank(f"{parts[one]} {parts[two]}")
                    if found is not None:
                        heappush(queue, (found, one, two, len(parts[one]) + len(parts[two])))  # type: ignore[arg-type]
        return [part for part in parts if part is not None]
