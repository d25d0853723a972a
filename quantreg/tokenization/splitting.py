"""Split a text into the pieces in which byte pairs merge, as the table of pre-tokenizers says.

Expressions that name a category do not run on the text: they run on its shape, a string of the same length in which one
character stands for each category. Python's `re`, which knows no categories, then splits as the reference does.
"""

import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise

from quantreg.tokenization.categories import WHITESPACE, category

__all__ = ["splitter"]

_SPACE = "\x0b"  # any white space beyond ASCII, in a shape; \s matches it
_OTHER = "\xd0"  # neither letter, mark, number, punctuation, symbol nor white space
_CLASSES = {
    "L": "\xd2\xd6A-Za-z",
    "M": "\xd4",
    "N": "\xd10-9",
    "P": "\xd3!-#%-*,-/:-;?-@\\[-\\]_{}",
    "S": "\xd5$+<->\\^`|~",
    "Upper": "\xd2\xd6A-Z",
    "Lower": "\xd2\xd6a-z",
    "Han": "\xd6\xd7",
    "NotHan": "\xd2A-Za-z",
}
_SHAPES = {"L": "\xd2", "M": "\xd4", "N": "\xd1", "P": "\xd3", "S": "\xd5"}
_HAN = (
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2EBEF), (0x2F800, 0x2FA1F)),
)


def _shape(code: int) -> str:
    if code < 128:
        return chr(code)
    if code in WHITESPACE:
        return _SPACE
    letter = category(code)
    if any(first <= code <= last for first, last in _HAN):
        return "\xd6" if letter == "L" else "\xd7"
    return _SHAPES.get(letter, _OTHER)


class _Shapes(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = _shape(code)
        return self[code]


_shapes = _Shapes()
_spaces = {code: _SPACE for code in WHITESPACE if code > 127}


@cache
def _compiled(expression: str) -> tuple[re.Pattern[str], bool]:
    """Compile an expression of the table; also say whether it is for the shape of the text."""
    parts = re.split(r"(\\.|\[|\])", expression)  # every second one is an escape or a bracket
    inside, shaped, written = False, False, []
    for index, part in enumerate(parts):
        if part == "\\p":
            name, parts[index + 1] = parts[index + 1][1:].split("}", 1)
            written.append(_CLASSES[name] if inside else f"[{_CLASSES[name]}]")
            shaped = True
        elif part == "$" or (index % 2 == 0 and part.endswith("$") and not inside):
            written.append(part[:-1] + r"\Z")  # Python's $ also matches in front of a line break at the end
        else:
            inside = {"[": True, "]": False}.get(part, inside)
            written.append(part)
    return re.compile("".join(written), re.ASCII), shaped


def _ends(pattern: re.Pattern[str], text: str, starts: list[int]) -> list[int]:
    """Cut every piece of a text at the matches of a pattern.

    The pieces are given by where they start, followed by the end of the last one.
    """
    if len(starts) == 2:
        cuts = {0, len(text)}
        for match in pattern.finditer(text):
            cuts.update(match.span())
        return sorted(cuts)
    found = [0]
    add, iterate = found.append, pattern.finditer
    start = 0
    for end in starts[1:]:
        for match in iterate(text, start, end):
            first, last = match.span()
            if first > start:
                add(first)
            if last > first:
                add(last)
            start = last
        if start < end:
            add(end)
        start = end
    return found


def splitter(expressions: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a function that splits a text by the expressions of a pre-tokenizer."""
    patterns = [_compiled(expression) for expression in expressions]

    def split(text: str) -> list[str]:
        if text.isascii():
            shape = plain = text
        else:
            shape = text.translate(_shapes) if any(shaped for _, shaped in patterns) else text
            plain = text.translate(_spaces)
        starts = [0, len(text)]
        for pattern, shaped in patterns:
            looked_at = shape if shaped else plain
            # A pattern that does not look at the end of a piece and matches nowhere is soon done with.
            if "(?" in pattern.pattern or r"\Z" in pattern.pattern or pattern.search(looked_at):
                starts = _ends(pattern, looked_at, starts)
        return [text[start:end] for start, end in pairwise(starts)]

    return split
