"""Keyword arguments that a function does not have: the error names the nearest one that it has."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["names_nearest"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def names_nearest(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a function's TypeError about an unknown keyword argument name the argument that was probably meant."""
    code = function.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @wraps(function)
    def checked(*args: _P.args, **keywords: _P.kwargs) -> _T:
        for name in keywords:
            if name not in known:
                from difflib import get_close_matches  # slow to load, and seldom needed

                near = get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"its arguments are {', '.join(known)}"
                raise TypeError(f"{function.__name__}() has no argument {name!r}: {hint}")
        return function(*args, **keywords)

    return checked
