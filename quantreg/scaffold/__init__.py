"""Write a new plugin from a template: `quantreg plugins new`."""

import os
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from zlib import crc32

from quantreg.errors import OutputError, PluginError
from quantreg.recipes import file_types
from quantreg.registry import types

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["free_type_id", "new_plugin"]

_SKIP = {"__pycache__"}
_LONGEST_NAME = 40


def free_type_id(name: str) -> int:
    """Return a type id of at least 1000 that no installed type has. It follows from the name, if it is free."""
    type_id = 1000 + crc32(name.encode()) % 64000
    while type_id in types:
        type_id += 1
    return type_id


def new_plugin(
    name: str,
    folder: str | os.PathLike[str] = ".",
    *,
    kind: Literal["python", "cython"] = "python",
    type_id: int | None = None,
) -> Path:
    """Write a working plugin to folder/name, ready to be installed, and return its folder.

    ``name`` is the name of the distribution, such as "my-q3": the package is then my_q3 and the type MY_Q3. ``kind`` is
    "python" for a codec in NumPy, or "cython". The default ``type_id`` follows from the name (see `free_type_id`).
    Raises PluginError for a name or an id that cannot be used, and OutputError if the folder exists.
    """
    _check_name(name)
    module = name.replace("-", "_")
    if type_id is not None and type_id in types:
        taken = types[type_id]
        raise PluginError(f"id {type_id} is taken by {taken.name}: choose another, or leave it out to get a free one")
    target = Path(folder) / name
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target} exists already: choose another name, or remove it")
    words = {
        "my-q3": name,
        "my_q3": module,
        "MY_Q3": module.upper(),
        "MyQ3": "".join(part.capitalize() for part in module.split("_")),
        "4242": str(free_type_id(module.upper()) if type_id is None else type_id),
    }
    pattern = re.compile("|".join(words))

    def fill(text: str) -> str:
        return pattern.sub(lambda match: words[match[0]], text)

    template = files("quantreg.scaffold") / "_templates" / kind
    for source, path in _walk(template, ()):
        out = target.joinpath(*map(fill, path))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(fill(source.read_text(encoding="utf-8")), encoding="utf-8")
    return target


def _check_name(name: str) -> None:
    """Raise PluginError if the name is taken, or cannot be that of a distribution, a package and a type."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or len(name) > _LONGEST_NAME:
        raise PluginError(
            f"plugin name {name!r}: use at most {_LONGEST_NAME} lower-case letters, digits and dashes, and start with "
            "a letter, as in my-q3"
        )
    module = name.replace("-", "_")
    why = None
    if module in types:
        why = f"the type {types[module].name} with id {types[module].type_id} is already installed"
    elif module in file_types:
        why = f"{file_types[module].name} is a file type of `quantreg quantize`"
    elif iskeyword(module):
        why = f"{module} is a Python keyword"
    elif find_spec(module) is not None:
        why = f"there is already a Python module {module}"
    if why:
        raise PluginError(f"plugin name {name!r}: {why}: choose another, such as my-{name}")


def _walk(folder: "Traversable", path: tuple[str, ...]) -> "Iterator[tuple[Traversable, tuple[str, ...]]]":
    """Yield each file under the folder, and the names that lead to it."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.name in _SKIP:
            continue
        if item.is_dir():
            yield from _walk(item, (*path, item.name))
        else:
            yield item, (*path, item.name)
