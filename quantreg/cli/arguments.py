"""The words of the command line on Windows, whose shells leave patterns and ``~`` to the program."""

import os
from collections.abc import Iterable
from glob import glob

__all__ = ["expand"]


def expand(words: Iterable[str]) -> list[str]:
    """Return the words as a shell of another system would pass them on.

    No name on Windows holds ``*`` or ``?``, so a word with one of them is a pattern: the names that match replace it,
    in order, and without any it stays. Brackets and ``$`` may be part of a name, and mean themselves.
    """
    out: list[str] = []
    for word in words:
        if word == "~" or word.startswith(("~/", "~\\")):
            word = os.path.expanduser(word)
        found = sorted(glob(word.replace("[", "[[]"), recursive=True)) if "*" in word or "?" in word else []
        out += found or [word]
    return out
