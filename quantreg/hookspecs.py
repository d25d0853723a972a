"""The hooks a plugin may implement. A plugin is a module behind an entry point of the group ``quantreg``."""

import pluggy

hookspec = pluggy.HookspecMarker("quantreg")
hookimpl = pluggy.HookimplMarker("quantreg")


@hookspec
def register_types(register):
    """Call ``register(qtype)`` for each QuantType; ``register(qtype, replace=True)`` takes over a name or id."""


@hookspec(firstresult=True)
def score_importance(qtype, tensor, weights, columns):
    """Importance of each weight of a slab of rows, or None to abstain.

    ``qtype`` is the QuantType about to encode, ``tensor`` the tensor's name or None, ``weights`` float32 (rows, cols),
    ``columns`` the calibration statistics, float32 (cols,), or None. A float32 result of shape (cols,) is used as
    column statistics, one of shape (rows, cols) as the error weights themselves.
    """


@hookspec
def register_recipes(register):
    """Call ``register(file_type)`` for each `quantreg.recipes.FileType`."""


@hookspec
def register_commands(cli):
    """Add subcommands to ``cli``, the click group of the ``quantreg`` command."""
