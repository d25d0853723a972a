"""Which layers of a model see only the last tokens."""

from collections.abc import Callable
from dataclasses import replace

from quantreg.inference.facts import Facts
from quantreg.inference.rope import Rope

__all__ = ["unscaled", "windowed"]


def windowed(every: int, first: bool = False, size: int = 0) -> Callable[[Facts, int], int]:
    """A window as the key ``attention.sliding_window`` says, or else of this size, in all but one of ``every`` layers.

    The layer without a window is the last of them, or the ``first``. The key ``attention.sliding_window_pattern``
    changes ``every``, or says for each layer whether it has a window. 1 means that no layer has one, 0 that all have.
    """

    def window(facts: Facts, layer: int) -> int:
        length = facts.whole("attention.sliding_window", size)
        pattern = facts.get("attention.sliding_window_pattern", every)
        if isinstance(pattern, (int, float)):
            n = int(pattern)
            whole = n > 0 and layer % n == (0 if first else n - 1)
        else:
            whole = not facts.per_layer("attention.sliding_window_pattern")[layer]
        return 0 if whole else length

    return window


def unscaled(rope: Rope) -> Rope:
    """The rotation of layers whose window needs no scaling for long texts."""
    return replace(rope, scale=1.0, yarn=None, magnitude=1.0)
