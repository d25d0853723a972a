"""The tables of all file types (built in, of plugins, registered by hand) and of all architectures (of plugins)."""

from typing import TYPE_CHECKING

from quantreg.errors import UnknownTypeError
from quantreg.ggml import REMOVED_FILE_TYPES
from quantreg.recipes.architecture import Architectures
from quantreg.recipes.builtin import BUILT_IN, recipe_for
from quantreg.recipes.filetype import FileType, FileTypes

if TYPE_CHECKING:
    from pluggy import HookImpl

    from quantreg.qtype import QuantType

__all__ = ["architectures", "file_types", "type_or_file_type"]

# The registry loads pluggy, which takes more than 10 ms. A program that only imports recipes does not need it, so each
# function imports the registry when it is called.


def _hooks() -> list["HookImpl"]:
    """The plugins' implementations of register_recipes, in the order in which the plugins were loaded."""
    from quantreg.registry import registry

    return registry.hook.register_recipes.get_hookimpls()


def _report(hook: "HookImpl", error: BaseException) -> None:
    from quantreg.registry import registry

    registry.blame("register_recipes", hook, error)


def _why_missing(name: str) -> str:
    from quantreg.registry import registry

    return registry.why_missing(name)


def _find_type(name: str) -> "QuantType | None":
    from quantreg.registry import registry

    return registry.find(name)


file_types: FileTypes = FileTypes(BUILT_IN, _hooks, _report, _why_missing, _find_type, recipe_for)


def type_or_file_type(key: "str | int | QuantType | FileType") -> "QuantType | FileType":
    """Find the type with this name or id, or else the file type with this name, alias or number.

    A QuantType or a FileType is returned as it is. Raises UnknownTypeError if neither exists,
    and UnknownFileTypeError for a file type that ggml removed.
    """
    from quantreg.registry import registry, types

    if isinstance(key, FileType):
        return key
    found = registry.find(key)
    if found is not None:
        return found
    if not isinstance(key, str):
        return registry.get(key)  # raises: an id is not the number of a file type
    if key in file_types or key.strip().upper() in {name for name, _ in REMOVED_FILE_TYPES.values()}:
        return file_types.find(key)  # raises for a name that ggml removed
    from difflib import get_close_matches  # slow to load, and seldom needed

    near = get_close_matches(key.upper(), [*types, *file_types], n=1)
    hint = f"did you mean {near[0]}?" if near else "see `quantreg types` and `quantreg file-types` for those installed"
    raise UnknownTypeError(f"unknown type or file type {key!r}: {hint}{registry.why_missing(key)}")


def _architecture_hooks() -> list["HookImpl"]:
    from quantreg.registry import registry

    return registry.hook.register_architectures.get_hookimpls()


def _report_architecture(hook: "HookImpl", error: BaseException) -> None:
    from quantreg.registry import registry

    registry.blame("register_architectures", hook, error)


architectures: Architectures = Architectures(_architecture_hooks, _report_architecture)
