"""Sizes as people write them ("7B", "4G"), and how much memory a model takes."""

import re

from quantreg.errors import PlanError
from quantreg.registry import types

__all__ = ["estimate_memory_gb", "parse_params", "parse_size"]


def estimate_memory_gb(params_billion: float, qtype: object) -> float:
    """Gigabytes (10^9 bytes) that params_billion * 10^9 weights take in this type: 3.9375 for 7.0 in Q4_K.

    Counts weights only, all in one type: no context, and recipes such as Q4_K_M keep some tensors larger.
    Raises UnknownTypeError.
    """
    return params_billion * types[qtype].bits_per_weight / 8


def parse_params(text: str) -> float:
    """The number of parameters in "7B", "350M", "1.1b" or "7000000000". Raises ValueError for anything else."""
    text = text.strip()
    unit = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}.get(text[-1:].lower())
    number = float(text[:-1] if unit else text) * (unit or 1)
    if not 0 < number < 1e18:
        raise ValueError(text)
    return number


def parse_size(size: int | str) -> int:
    """Bytes from an int or from "4G", "500M" (powers of ten, as in llama-gguf-split) or "123456".

    Raises PlanError for anything else.
    """
    found = re.fullmatch(r"(\d{1,18})([KMGT]?)", str(size).strip().upper(), re.ASCII)
    if isinstance(size, bool) or not found or not int(found[1]):
        raise PlanError(f"split size {size!r}: expected bytes, or a size such as 4G or 500M")
    return int(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[found[2]]
