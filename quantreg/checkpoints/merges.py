"""The merges of byte pairs, from `tokenizer.json` in either spelling, or from `merges.txt`."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from quantreg.checkpoints.tokenizer_files import STRING, TokenizerFiles
from quantreg.errors import TokenizerError

__all__ = ["merge_texts", "read_merges"]

# An entry of the list in `tokenizer.json`, in either spelling, with what stands before it.
_ENTRY = re.compile(rf"[\s,]*+(?:\[\s*({STRING})\s*,\s*({STRING})\s*\]|({STRING}))", re.DOTALL)


def read_merges(files: TokenizerFiles) -> Iterator[tuple[str, str]]:
    """Yield the pairs that merge, the first to merge first. Raises TokenizerError if there are none."""
    text, merges = files.merges_text, files.model.get("merges")
    path = files.folder / "tokenizer.json"
    if text is None and not merges and files.has("merges.txt"):
        yield from _of_text(files)
        return
    if text is None and (not isinstance(merges, list) or not merges):
        raise TokenizerError(f"{path} has no merges, which byte pairs need: download the file again")
    for number, merge in enumerate(merges or () if text is None else _entries(text, path)):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        left, right = pair if isinstance(pair, list) and len(pair) == 2 else ("", "")
        if not left or not right or not isinstance(left, str) or not isinstance(right, str):
            shown = repr(merge)[:60]
            raise TokenizerError(f"{path}: merge {number} is {shown}, not two tokens: the file is damaged")
        yield left, right


def _entries(text: str, path: Path) -> Iterator[Any]:
    """Yield the entries of a list of merges, one by one: as lists they would take more memory than all the rest."""
    at = 0
    decode = json.JSONDecoder().raw_decode
    try:
        while (found := _ENTRY.match(text, at)) is not None:
            at = found.end()
            left, right, both = found.groups()
            yield _plain(both) if left is None else [_plain(left), _plain(right)]
        rest = text[at:].lstrip(" \t\r\n,")
        if rest:  # something that is no merge
            yield decode(rest)[0]
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON ({error}): the file is damaged, download it again") from None


def _plain(string: str) -> str:
    """The text of a string of JSON."""
    return str(json.loads(string)) if "\\" in string else string[1:-1]


def _of_text(files: TokenizerFiles) -> Iterator[tuple[str, str]]:
    lines = files.text("merges.txt").split("\n")
    if lines[0].strip().startswith("#"):
        del lines[0]
    pairs = (line.split() for line in lines)
    return ((pair[0], pair[1]) for pair in pairs if len(pair) == 2)


def merge_texts(merges: Iterable[tuple[str, str]]) -> list[str]:
    """Write merges as in GGUF: "left right". A space within a part, which few vocabularies have, becomes "Ġ"."""
    return [f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in merges]
