"""Cut text in which "▁" marks spaces where no merge can cross, so that the tokens of each part can be remembered."""

import re
from collections.abc import Callable, Iterable

__all__ = ["MARK", "cut_before_marks"]

MARK = "▁"


def cut_before_marks(tokens: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a function that cuts a text in front of its spaces.

    Two neighbours can only merge into one of ``tokens``. There is no cut behind a character that stands in front of a
    space in one of them.
    """
    inner = {token[at - 1] for token in tokens if MARK in token[1:] for at in _marks(token)} - {MARK}
    if not inner:
        return re.compile(f"{MARK}*[^{MARK}]+|{MARK}+").findall
    before = "".join(map(re.escape, sorted(inner)))
    return re.compile(f"{MARK}*(?:[^{MARK}]|(?<=[{before}]){MARK}+)+|{MARK}+").findall


def _marks(token: str) -> list[int]:
    return [at for at, character in enumerate(token) if at and character == MARK]
