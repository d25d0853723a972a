"""Which layers of a model see only the last tokens."""

from collections.abc import Callable

from quantreg.inference.facts import Facts

__all__ = ["windowed"]


def windowed(every: int, first: bool = False) -> Callable[[Facts, int], int]:
    """A window as the key ``attention.sliding_window`` says, in all but one of ``every`` layers.

    The layer without a window is the last of them, or the ``first``. The key ``attention.sliding_window_pattern``
    changes ``every``, or says for each layer whether it has a window. 1 means that no layer has one, 0 that all have.
    """

    def window(facts: Facts, layer: int) -> int:
        size = int(facts.number("attention.sliding_window", 0))
        pattern = facts.get("attention.sliding_window_pattern", every)
        if isinstance(pattern, (int, float)):
            n = int(pattern)
            whole = n > 0 and layer % n == (0 if first else n - 1)
        else:
            whole = not facts.per_layer("attention.sliding_window_pattern")[layer]
        return 0 if whole else size

    return window
