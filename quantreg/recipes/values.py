"""How a command line spells a typed metadata value: ``u32:5``, ``str:text``, ``array[f32]:[0.5,1]``."""

import json
import math
import re
from typing import Any, NamedTuple

__all__ = ["TYPE_NAMES", "TypedValue", "parse_value"]

_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_SCALARS = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "string")
# llama-quantize's names and what they stand for; "int" is an i32 for a negative number.
_ALIASES = {"int": "u32", "uint": "u32", "float": "f32", "str": "string"}
TYPE_NAMES: str = "int, float, bool, str, or one of GGUF's u8 to u64, i8 to i64, f32, f64, string and array[TYPE]"


class TypedValue(NamedTuple):
    """A value and GGUF's name for its type. Whether the type can hold the value is not checked here."""

    type: str
    data: Any


def parse_value(kind: str, text: str) -> TypedValue:
    """Parse the text of a value of this type, which is GGUF's or llama-quantize's name, or ``array[TYPE]``.

    Numbers are decimal; arrays are JSON lists. Raises ValueError, which says what was expected.
    """
    if kind == "int" and text.startswith("-"):
        kind = "i32"
    kind = _ALIASES.get(kind, kind)
    element = kind[6:-1] if kind.startswith("array[") and kind.endswith("]") else None
    if element is not None:
        element = _ALIASES.get(element, element)
    if (element or kind) not in _SCALARS:
        raise ValueError(f"{kind!r} is not a type: expected {TYPE_NAMES}")
    if element is None:
        return TypedValue(kind, _scalar(kind, text))
    try:
        found = json.loads(text, parse_float=_finite)
    except OverflowError as error:
        raise ValueError(str(error)) from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ValueError(f"{text!r} is not an {kind}: expected a JSON list such as [1,2]")
    return TypedValue(f"array[{element}]", found)


def _scalar(kind: str, text: str) -> object:
    if kind == "string":
        return text
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text]
        if kind[0] == "f":
            return _finite(text)
        if _WHOLE.fullmatch(text):
            return int(text)
    except OverflowError as error:
        raise ValueError(str(error)) from None
    except (KeyError, ValueError):
        pass
    expected = "true or false" if kind == "bool" else "a number" if kind[0] == "f" else "a whole number"
    raise ValueError(f"{text!r} is not {'an' if kind[0] == 'i' else 'a'} {kind}: expected {expected}") from None


def _finite(text: str) -> float:
    """Parse a number. Raises OverflowError if it is too large for a float, but not for the text "inf"."""
    if "_" in text:
        raise ValueError("underscores are not part of a number")
    number = float(text)
    if math.isinf(number) and any(map(str.isdigit, text)):
        raise OverflowError(f"{text} is too large: f64 holds numbers up to 1.8e308")
    return number
