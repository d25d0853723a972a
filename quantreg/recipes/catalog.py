"""The file types that there are: the built-in ones, those of plugins, and those registered by hand."""

from quantreg.recipes.builtin import BUILT_IN
from quantreg.recipes.filetype import FileTypes

__all__ = ["file_types"]

# The registry loads pluggy, which whoever only reads the table of file types does not need: each function imports it.


def _hooks():
    """The plugins' implementations of register_recipes, in the order in which the plugins were loaded."""
    from quantreg.registry import registry

    return registry.hook.register_recipes.get_hookimpls()


def _report(hook, error):
    from quantreg.registry import registry

    registry.blame("register_recipes", hook, error)


def _why_missing(name):
    from quantreg.registry import registry

    return registry.why_missing(name)


def _find_type(name):
    from quantreg.registry import registry

    return registry.find(name)


file_types: FileTypes = FileTypes(BUILT_IN, _hooks, _report, _why_missing, _find_type)
