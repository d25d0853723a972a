"""The vocabulary of a folder, kept while its files stay as they are.

A tokenizer of 150,000 tokens takes a second to read. A run may plan its model for many file types, and open it again to
measure its outputs.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantreg.checkpoints.vocabulary import vocabulary
from quantreg.checkpoints.vocabulary_hint import Vocabulary
from quantreg.gguf import Value

__all__ = ["vocabulary_once"]

_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_SETTLED = 2 * 10**9  # ns: a file that has just been written may change again without a new time of change

_last: tuple[tuple[Any, ...], dict[str, Value]] | None = None  # one, because a vocabulary takes some 20 MB


def vocabulary_once(
    folder: Path,
    config: Mapping[str, Any],
    hint: Vocabulary | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Value]:
    """Return what `vocabulary` returns, without reading the files again if it was the last one asked for.

    Raises what `vocabulary` raises.
    """
    global _last
    begun = time.time_ns()
    stamps = tuple(sorted(_stamps(folder)))
    given = {key: value for key, value in (overrides or {}).items() if key.startswith("tokenizer.")}
    key = (os.path.realpath(folder), stamps, dict(config), hint, given)
    last = _last
    if last is not None and last[0] == key:
        return dict(last[1])
    found = vocabulary(folder, config, hint, overrides)
    if all(max(times) < begun - _SETTLED for _, _, times in stamps):
        _last = (key, found)
    return dict(found)


def _stamps(folder: Path, beyond: str = "additional_chat_templates") -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """What changes when a file does that may be part of the tokenizer: name, size, times of change."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == beyond and entry.is_dir():
                yield from _stamps(Path(entry.path))
            elif entry.is_file() and not entry.name.endswith(_WEIGHTS):
                found = entry.stat()
                yield entry.path, found.st_size, (found.st_mtime_ns, found.st_ctime_ns)
