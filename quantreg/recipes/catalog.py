"""The tables of all file types (built in, of plugins, registered by hand) and of all architectures (of plugins)."""

from collections.abc import Callable
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


def _of_hook(name: str) -> "tuple[Callable[[], list[HookImpl]], Callable[[HookImpl, BaseException], None]]":
    """Return ``hooks`` and ``report`` of `Plugged` for the hook of this name. Plugins are asked in loading order."""

    def hooks() -> list["HookImpl"]:
        from quantreg.registry import registry

        found: list[HookImpl] = getattr(registry.hook, name).get_hookimpls()
        return found

    def report(hook: "HookImpl", error: BaseException) -> None:
        from quantreg.registry import registry

        registry.blame(name, hook, error)

    return hooks, report


def _why_missing(name: str) -> str:
    from quantreg.registry import registry

    return registry.why_missing(name)


def _find_type(name: str) -> "QuantType | None":
    from quantreg.registry import registry

    return registry.find(name)


file_types: FileTypes = FileTypes(BUILT_IN, *_of_hook("register_recipes"), _why_missing, _find_type, recipe_for)
architectures: Architectures = Architectures(*_of_hook("register_architectures"))


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
