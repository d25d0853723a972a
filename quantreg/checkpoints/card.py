"""The head of a model card: the lines of README.md between two rules, which say whose model it is.

They are YAML. Only its simple forms are read: "key: value", "key: [a, b]", and a list of "- value" lines.
"""

import re
from pathlib import Path

__all__ = ["read_card"]

_MOST = 1 << 20  # bytes of README.md that are read


def read_card(folder: Path) -> dict[str, str | list[str]]:
    """The values at the head of README.md in a folder; empty if there is no such file or head."""
    try:
        with open(folder / "README.md", "rb") as file:
            lines = file.read(_MOST).decode("utf-8", "replace").splitlines()
    except OSError:
        return {}
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    found: dict[str, str | list[str]] = {}
    key = None
    for line in lines[1 : lines.index("---", 1)]:
        if begun := re.fullmatch(r"([A-Za-z_][\w-]*):\s*(.*?)\s*", line):
            key, value = begun[1], begun[2]
            if value.startswith("[") and value.endswith("]"):
                found[key] = [_plain(item) for item in value[1:-1].split(",") if item.strip()]
            elif value and value[0] not in "{>|&*!":
                found[key] = _plain(value)
        elif (item := re.fullmatch(r"\s*-\s+(.*?)\s*", line)) and key is not None:
            values = found.setdefault(key, [])
            if isinstance(values, list) and not re.match(r"[\w-]+:\s", item[1]):  # else a mapping, as of results
                values.append(_plain(item[1]))
        elif line.strip() and not line.startswith((" ", "\t", "#")):
            key = None
    return found


def _plain(value: str) -> str:
    """A value without its quotes, or without a comment after it."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return re.sub(r"\s+#.*", "", value)
