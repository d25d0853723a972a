"""Many warnings of the same kind as one line."""

import re
from collections import defaultdict
from collections.abc import Iterable

__all__ = ["grouped"]

# What differs between warnings of one kind: patterns, the names of tensors and files, and numbers.
_VARYING = re.compile(
    r"""(?<=^tensor\ type\ )[^ ]+(?==)
    | [\w./\\-]*[\w-]\.(?:weight|bias|scale|gguf|safetensors)\b
    | \d+(?:\.\d+)?(?:e[+-]?\d+)?""",
    re.ASCII | re.VERBOSE,
)
_FEW = 3  # up to so many warnings of a kind are printed one by one
_NAMED = 3  # how many other names the line for more of them gives


def grouped(warnings: Iterable[str]) -> list[str]:
    """Keep up to three warnings of a kind as they are. Replace more by one line: the first, with the names of others.

    Two warnings are of a kind if they differ only in patterns, names of tensors and numbers. The order is that of the
    first of each kind.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for warning in dict.fromkeys(warnings):
        kinds[_VARYING.sub("*", warning)].append(warning)
    lines: list[str] = []
    for found in kinds.values():
        if len(found) <= _FEW:
            lines += found
            continue
        names = list(dict.fromkeys(name for name in map(_name, found[1:]) if name and name != _name(found[0])))
        told = f": {', '.join(names[:_NAMED])}{' ...' if len(names) > _NAMED else ''}" if names else ""
        lines.append(f"{found[0]} (and {len(found) - 1} more warnings like this{told})")
    return lines


def _name(warning: str) -> str:
    """Return the pattern or the first name of a tensor in a warning, or else the first number."""
    found = _VARYING.findall(warning)
    if warning.startswith("tensor type "):
        return found[0]
    return next((word for word in found if word.endswith((".weight", ".bias", ".scale"))), found[0] if found else "")
