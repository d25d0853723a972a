"""The table of SentencePiece by which a text is normalized: the longest piece that it knows is replaced, from the left.

It is a trie in a double array (Kanda 2018, "Space- and Time-Efficient String Dictionaries"): the number of bytes of the
array, the array of 32-bit numbers, and the replacements, each of which ends with a zero byte. A number has the offset
to the children of a node in bits 10 to 30, which bit 9 multiplies by 256; in bit 8, whether a piece ends there; and in
bits 0 to 7 the byte that leads to the node. Where a piece ends, the number at the offset is where its replacement is.
"""

from array import array
from sys import byteorder

from quantreg.errors import TokenizerError

__all__ = ["Charsmap"]

_DAMAGED = "tokenizer.ggml.precompiled_charsmap is damaged: convert the model again"


class Charsmap:
    """Replaces pieces of UTF-8. Raises TokenizerError if the table is damaged."""

    def __init__(self, data: bytes) -> None:
        size = int.from_bytes(data[:4], "little")
        if len(data) < 8 or not 4 <= size <= len(data) - 4 or size % 4:
            raise TokenizerError(_DAMAGED)
        self._nodes = array("I", data[4 : 4 + size])
        if byteorder == "big":
            self._nodes.byteswap()
        self._texts = data[4 + size :]

    def longest(self, raw: bytes, at: int) -> tuple[int, bytes]:
        """How many bytes are replaced at a place of a text, 0 for none, and by which."""
        found, place, nodes = 0, 0, self._nodes
        try:
            node = _children(nodes[0])
            for number in range(at, len(raw)):
                byte = raw[number]
                node ^= byte
                packed = nodes[node]
                if not byte or packed & 0x800000FF != byte:
                    break
                node ^= _children(packed)
                if packed >> 8 & 1:
                    found, place = number - at + 1, nodes[node] & 0x7FFFFFFF
            if not found:
                return 0, b""
            return found, self._texts[place : self._texts.index(0, place)]
        except (IndexError, ValueError):
            raise TokenizerError(_DAMAGED) from None


def _children(packed: int) -> int:
    """The offset from a node to its children."""
    return (packed >> 10) << (8 if packed & 0x200 else 0)
