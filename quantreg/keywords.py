"""Keyword arguments: those of options that several functions share, and those that a function does not have."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar

__all__ = ["names_nearest", "takes"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def takes(*options: type) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Show the fields of dataclasses as the keyword arguments of a function that takes ``**given``.

    `help` and `inspect.signature` list them with their types and defaults. Type checkers read them from the annotation
    of ``**given``, a TypedDict.
    """

    def shown(function: Callable[_P, _T]) -> Callable[_P, _T]:
        own = signature(function)
        parameters = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        for kind in options:
            parameters += [
                Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
                for field in fields(kind)
            ]
        shows: Any = function
        shows.__signature__ = own.replace(parameters=parameters)
        return function

    return shown


def names_nearest(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a function's TypeError about an unknown keyword argument name the argument that was probably meant."""
    known = tuple(signature(function).parameters)

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
