"""Numbers and lists of names in messages."""

from collections.abc import Sequence

__all__ = ["count", "listed", "named"]


def count(number: int, noun: str) -> str:
    """Format a number of things: "1 tensor", "2 tensors"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Join names as in "a, b and c", or "a, b, c and 4 more" if more than ``most`` + 1 are given."""
    if len(names) > most + 1:
        names = [*names[:most], f"{len(names) - most} more"]
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def named(names: Sequence[str]) -> str:
    """Name one of one or more things, for brackets after their number: "a", or "the first is a"."""
    return names[0] if len(names) == 1 else f"the first is {names[0]}"
