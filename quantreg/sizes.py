"""Sizes as people write them: "7B" weights, "4G" bytes."""

import re
from fractions import Fraction

from quantreg.errors import PlanError

__all__ = ["parse_bytes", "parse_count", "parse_params", "parse_size"]

_SMALLEST = 100_000  # a model has more weights than this, so a smaller number without a unit lacks its unit


def parse_params(text: str) -> float:
    """Return the number of weights of a model that is called "7B", "350M", "1.1b" or "7000000000".

    Raises ValueError, with a message for the user, for anything else; also for a small number without a unit, such as
    "7", which most likely lacks its "B".
    """
    number = _number(text)
    if number is None:
        sums = re.fullmatch(r"\s*\d+\s*x\s*[\d.]+\s*[kmbt]\s*", text, re.IGNORECASE | re.ASCII)
        hint = "; for a model of several experts give its total, such as 46.7B for Mixtral 8x7B" if sums else ""
        raise ValueError(f"{text!r}: expected a number of weights such as 7B, 350M or 7000000000{hint}")
    if number < _SMALLEST and text.strip()[-1:].lower() not in _UNITS:
        shown = text.strip()
        raise ValueError(
            f"{text!r}: {shown} weights, or {shown} billion? Add the unit: {shown}B for billions, {shown}M for "
            f"millions, {number / 1e3:g}K for exactly {shown} weights"
        )
    return number


def parse_count(text: str) -> int:
    """Return a number of weights from "500k", "2M" or "20000". Raises ValueError for anything else."""
    number = _number(text)
    if number is None or number < 1:
        raise ValueError(f"{text!r}: expected a number of weights such as 500k or 10M")
    return int(number)


_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def _number(text: str) -> float | None:
    """Return the number in a text with or without a unit; None if it is not one, or is not between 0 and 10^18."""
    text = text.strip()
    unit = _UNITS.get(text[-1:].lower())
    try:
        number = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        return None
    return number if 0 < number < 1e18 else None


def parse_size(size: int | str) -> int:
    """Bytes from an int or from "4G", "500M" (powers of ten, as in llama-gguf-split) or "123456".

    Raises PlanError for anything else.
    """
    found = re.fullmatch(r"(\d{1,18})([KMGT]?)", str(size).strip().upper(), re.ASCII)
    if isinstance(size, bool) or not found or not int(found[1]):
        raise PlanError(f"split size {size!r}: expected bytes, or a size such as 4G or 500M")
    return int(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[found[2]]


def parse_bytes(size: int | str, what: str = "size") -> int:
    """Bytes from an int or from text such as "8GB", "4.2 GB", "500M" (powers of ten), "7.5GiB" or "123456".

    ``what`` names the size in the message. Raises PlanError for anything else.
    """
    found = re.fullmatch(r"(\d{1,18}|\d{0,12}\.\d{1,12})\s*(?:([KMGT])(I?)B?|B)?", str(size).strip().upper(), re.ASCII)
    if isinstance(size, bool) or not found:
        raise PlanError(f"{what} {size!r}: expected bytes, or a size such as 8GB, 500MB or 7.5GiB")
    unit = (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " ")
    nbytes = int(Fraction(found[1]) * unit)
    if not 0 < nbytes < 1 << 63:
        raise PlanError(f"{what} {size!r}: expected a size above 0, such as 8GB, 500MB or 7.5GiB")
    return nbytes
