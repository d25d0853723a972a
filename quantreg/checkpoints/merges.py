"""The merges of byte pairs, from `tokenizer.json` in either spelling, or from `merges.txt`."""

from quantreg.checkpoints.tokenizer_files import TokenizerFiles
from quantreg.errors import TokenizerError

__all__ = ["merge_texts", "read_merges"]


def read_merges(files: TokenizerFiles) -> list[tuple[str, str]]:
    """Return the pairs that merge, the first to merge first. Raises TokenizerError if there are none."""
    merges = files.model.get("merges")
    path = files.folder / "tokenizer.json"
    if not merges and files.has("merges.txt"):
        return _of_text(files)
    if not isinstance(merges, list) or not merges:
        raise TokenizerError(f"{path} has no merges, which byte pairs need: download the file again")
    found = []
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        left, right = pair if isinstance(pair, list) and len(pair) == 2 else ("", "")
        if not left or not right or not isinstance(left, str) or not isinstance(right, str):
            shown = repr(merge)[:60]
            raise TokenizerError(f"{path}: merge {number} is {shown}, not two tokens: the file is damaged")
        found.append((left, right))
    return found


def _of_text(files: TokenizerFiles) -> list[tuple[str, str]]:
    lines = files.text("merges.txt").split("\n")
    if lines[0].strip().startswith("#"):
        del lines[0]
    pairs = (line.split() for line in lines)
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def merge_texts(merges: list[tuple[str, str]]) -> list[str]:
    """Write merges as in GGUF: "left right". A space within a part, which few vocabularies have, becomes "Ġ"."""
    texts = [f"{left} {right}" for left, right in merges]
    if sum(text.count(" ") for text in texts) == len(texts):
        return texts
    return [f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in merges]
