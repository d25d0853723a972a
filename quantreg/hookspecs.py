"""The hooks that a plugin may implement. A plugin is a module behind an entry point of the group ``quantreg``."""

from collections.abc import Callable
from typing import TYPE_CHECKING

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
