"""The hooks that a plugin may implement. A plugin is a module behind an entry point of the group ``quantreg``."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click
    import numpy as np
    from numpy.typing import NDArray

    from quantreg.qtype import QuantType

hookspec: pluggy.HookspecMarker = pluggy.HookspecMarker("quantreg")
hookimpl: pluggy.HookimplMarker = pluggy.HookimplMarker("quantreg")


@hookspec
def register_types(register: Callable[..., None]) -> None:
    """Call ``register(qtype)`` for each QuantType. ``register(qtype, replace=True)`` takes over a name or an id."""


@hookspec(firstresult=True)
def score_importance(
    qtype: "QuantType", tensor: str | None, weights: "NDArray[np.float32]", columns: "NDArray[np.float32] | None"
) -> "NDArray[np.float32] | None":
    """Return the importance of the weights of a slab of rows, or None to leave it to others.

    ``qtype`` is the QuantType that is about to encode, ``tensor`` the name of the tensor or None. ``weights`` has
    shape (rows, cols); ``columns`` are the calibration statistics of shape (cols,), or None. The result is float32: of
    shape (cols,) it replaces the statistics, of shape (rows, cols) it is used as the error weights themselves.
    """


@hookspec
def register_recipes(register: Callable[..., None]) -> None:
    """Call ``register(file_type)`` for each `quantreg.FileType`."""


@hookspec
def register_architectures(register: Callable[..., None]) -> None:
    """Call ``register(architecture)`` for each `quantreg.Architecture`. ``replace=True`` takes over a name."""


@hookspec
def register_commands(cli: "click.Group") -> None:
    """Add subcommands to ``cli``, the click group of the ``quantreg`` command."""


class EncoderScores:
    """The importance that a type's own encoder computes. It is used if no plugin's score_importance gives another."""

    @hookimpl(trylast=True)
    def score_importance(self, qtype: "QuantType", weights: Any, columns: Any) -> Any:
        return None if columns is None else qtype.score(weights, columns)


def problem_of(module: object, marked: Iterable[str]) -> str | None:
    """Say what is wrong with the hooks of a plugin, or return None. ``marked`` names those that @hookimpl marks.

    A hook that does not exist would never be called, and neither would a function without the mark. One exception:
    quantreg has always called a register_types without it.
    """
    known = _known()
    marked = set(marked)
    functions = [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name, None))]
    misspelt = sorted(marked.difference(known))
    if not marked and "register_types" not in functions:
        misspelt = [name for name in functions if name not in known and _nearest(name, known)]
    if misspelt:
        near = _nearest(misspelt[0], known)
        hint = f"did you mean {near}?" if near else f"the hooks are {', '.join(known)}"
        return f"there is no hook {misspelt[0]}: {hint}"
    for name in sorted(set(known).intersection(functions) - marked - {"register_types"}):
        if name.startswith("register_") or _takes_what_a_hook_takes(getattr(module, name), globals()[name]):
            return f"{name} is not marked as a hook: write @quantreg.hookimpl above it"
    return None


def register(manager: pluggy.PluginManager, module: object, key: str) -> str | None:
    """Register a plugin with pluggy, and return what is wrong with its hooks, or None."""
    try:
        manager.register(module, name=key)
    except pluggy.PluginValidationError as error:
        for name in _known():
            expected = _parameters(globals()[name])
            unknown = _parameters(getattr(module, name, None)) - expected
            if unknown and f"hook {name!r}" in str(error):
                code = globals()[name].__code__
                words = ", ".join(code.co_varnames[: code.co_argcount])
                return f"{name} has the argument {min(unknown)}: write {name}({words}), or fewer of these"
        return str(error)
    return problem_of(module, [caller.name for caller in manager.get_hookcallers(module) or ()])


def _known() -> list[str]:
    """The names of the hooks."""
    return [name for name, value in globals().items() if hasattr(value, "quantreg_spec")]


def _takes_what_a_hook_takes(function: object, hook: Callable[..., object]) -> bool:
    """Whether a function has only parameters of the hook, and so is not a helper that happens to have its name."""
    names = _parameters(function)
    return bool(names) and names <= _parameters(hook)


def _parameters(function: object) -> set[str]:
    code = getattr(function, "__code__", None)  # the module inspect is slow to load
    return set() if code is None else set(code.co_varnames[: code.co_argcount]) - {"self"}


def _nearest(name: str, known: Iterable[str]) -> str | None:
    from difflib import get_close_matches  # slow to load, and seldom needed

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.8)), None)


def plugin_of(impl: Any) -> str:
    """Name the plugin that has this implementation of a hook: "plugin MY_Q3 of my-q3"."""
    distribution, _, plugin = impl.plugin_name.partition(":")
    return f"plugin {plugin} of {distribution}"
