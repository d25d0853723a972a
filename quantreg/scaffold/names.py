"""Names and ids for new plugins: which ones are free, and why others cannot be used."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from keyword import iskeyword
from zlib import crc32

from quantreg.errors import PluginError
from quantreg.ggml import REMOVED_TYPES
from quantreg.qtype import QuantType
from quantreg.recipes import file_types
from quantreg.registry import registry, types

__all__ = ["check_id", "check_project", "check_type", "free_type_id", "numpy_type"]

FIRST_FREE = 1000  # ggml adds types of its own below this
_LONGEST_NAME = 40


def free_type_id(name: str, taken: Sequence[int] = ()) -> int:
    """Return a type id of at least 1000 that no installed type has. It follows from the name, if it is free."""
    type_id = FIRST_FREE + crc32(name.encode()) % 64000
    while type_id in types or type_id in taken:
        type_id += 1
    return type_id


def numpy_type(module: str) -> QuantType | None:
    """Return the installed type of this name if a plugin implements it in NumPy, else None."""
    qtype: QuantType | None = types.get(module)
    if qtype is None or registry.is_built_in(qtype):
        return None
    return qtype if qtype.codec.level == "python" else None


def check_id(type_id: int) -> None:
    """Raise PluginError if a type already has this id, or had it in ggml."""
    if type_id in types:
        raise PluginError(
            f"id {type_id} is taken by {types[type_id].name}: choose another, or leave it out to get a free one"
        )
    if type_id in REMOVED_TYPES:
        raise PluginError(
            f"id {type_id} was that of ggml's {REMOVED_TYPES[type_id]}, which old files hold: choose another, or leave "
            "it out to get a free one"
        )


def check_project(name: str) -> None:
    """Raise PluginError if the name is taken, or cannot be that of a distribution and a package."""
    _check_form(name)
    module = name.replace("-", "_")
    if iskeyword(module):
        raise _taken(name, f"{module} is a Python keyword")
    if find_spec(module) is not None:
        raise _taken(name, f"there is already a Python module {module}")


def check_type(name: str) -> None:
    """Raise PluginError if a type or a file type has this name, or if it cannot be that of a type and a module."""
    _check_form(name)
    module = name.replace("-", "_")
    if module in types:
        found = types[module]
        raise _taken(name, f"the type {found.name} with id {found.type_id} is already installed")
    if module in file_types:
        raise _taken(name, f"{file_types[module].name} is a file type of `quantreg quantize`")
    if iskeyword(module):
        raise _taken(name, f"{module} is a Python keyword")


def _check_form(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or len(name) > _LONGEST_NAME:
        raise PluginError(
            f"plugin name {name!r}: use at most {_LONGEST_NAME} lower-case letters, digits and dashes, and start with "
            "a letter, as in my-q3"
        )


def _taken(name: str, why: str) -> PluginError:
    return PluginError(f"plugin name {name!r}: {why}: choose another, such as my-{name}")
