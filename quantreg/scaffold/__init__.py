"""A new plugin from a template: `quantreg plugins new`."""

import re
from importlib.resources import files
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from zlib import crc32

from quantreg.errors import OutputError, PluginError
from quantreg.recipes import file_types
from quantreg.registry import types

__all__ = ["free_type_id", "new_plugin"]

SKIP = {"__pycache__"}
LONGEST_NAME = 40


def free_type_id(name: str) -> int:
    """A type id of 1000 and up that no installed type has: the same for the same name."""
    type_id = 1000 + crc32(name.encode()) % 64000
    while type_id in types:
        type_id += 1
    return type_id


def new_plugin(name: str, folder=".", *, kind="python", type_id: int | None = None) -> Path:
    """Write a plugin that works to folder/name, ready to be installed; returns the folder.

    ``name`` is the distribution's, such as "my-q3": its package is my_q3 and its type MY_Q3. ``kind`` is "python" (a
    codec in NumPy) or "cython". ``type_id``: default, one that follows from the name. Raises PluginError for a name or
    an id that cannot be used, OutputError if the folder exists.
    """
    _check_name(name)
    module = name.replace("-", "_")
    if type_id is not None and type_id in types:
        taken = types[type_id]
        raise PluginError(f"id {type_id} is taken by {taken.name}: choose another, or leave it out and get a free one")
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

    def fill(text):
        return pattern.sub(lambda match: words[match[0]], text)

    template = files("quantreg.scaffold") / "templates" / kind
    for source, path in _walk(template, ()):
        out = target.joinpath(*map(fill, path))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(fill(source.read_text(encoding="utf-8")), encoding="utf-8")
    return target


def _check_name(name):
    """PluginError for a name that cannot be that of a distribution, a package and a type, or that somebody has."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or len(name) > LONGEST_NAME:
        raise PluginError(
            f"plugin name {name!r}: use lower-case letters, digits and dashes, a letter first, {LONGEST_NAME} at most, "
            "such as my-q3"
        )
    module = name.replace("-", "_")
    why = None
    if module in types:
        why = f"the type {types[module].name} with id {types[module].type_id} is installed already"
    elif module in file_types:
        why = f"{file_types[module].name} is a file type of `quantreg quantize`"
    elif iskeyword(module):
        why = f"{module} is a keyword of Python"
    elif find_spec(module) is not None:
        why = f"there is a Python module {module} already"
    if why:
        raise PluginError(f"plugin name {name!r}: {why}: choose another, such as my-{name}")


def _walk(folder, path):
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.name in SKIP:
            continue
        if item.is_dir():
            yield from _walk(item, (*path, item.name))
        else:
            yield item, (*path, item.name)
