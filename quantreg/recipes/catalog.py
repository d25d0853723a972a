"""The tables of all file types (built in, of plugins, registered by hand) and of all architectures (of plugins)."""

from typing import TYPE_CHECKING

from quantreg.recipes.architecture import Architectures
from quantreg.recipes.builtin import BUILT_IN
from quantreg.recipes.filetype import FileTypes

if TYPE_CHECKING:
    from pluggy import HookImpl

    from quantreg.qtype import QuantType

__all__ = ["architectures", "file_types"]

# The registry loads pluggy, which takes more than 10 ms. A program that only imports recipes does not need it, so each
# function imports the registry when it is called.


def _hooks() -> list["HookImpl"]:
    """The plugins' implementations of register_recipes, in the order in which the plugins were loaded."""
    from quantreg.registry import registry

    return registry.hook.register_recipes.get_hookimpls()


def _report(hook: "HookImpl", error: Exception) -> None:
    from quantreg.registry import registry

    registry.blame("register_recipes", hook, error)


def _why_missing(name: str) -> str:
    from quantreg.registry import registry

    return registry.why_missing(name)


def _find_type(name: str) -> "QuantType | None":
    from quantreg.registry import registry

    return registry.find(name)


file_types: FileTypes = FileTypes(BUILT_IN, _hooks, _report, _why_missing, _find_type)


def _architecture_hooks() -> list["HookImpl"]:
    from quantreg.registry import registry

    return registry.hook.register_architectures.get_hookimpls()


def _report_architecture(hook: "HookImpl", error: Exception) -> None:
    from quantreg.registry import registry

    registry.blame("register_architectures", hook, error)


architectures: Architectures = Architectures(_architecture_hooks, _report_architecture)
