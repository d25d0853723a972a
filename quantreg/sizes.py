"""How much memory a model takes."""

from quantreg.registry import types

__all__ = ["estimate_memory_gb", "parse_params"]


def estimate_memory_gb(params_billion: float, qtype) -> float:
    """Gigabytes (10^9 bytes) that params_billion * 10^9 weights take in this type: 7.0 in Q4_K is 3.9375.

    Weights only, all in one type: no context, and recipes such as Q4_K_M keep some tensors larger.
    """
    return params_billion * types[qtype].bits_per_weight / 8


def parse_params(text: str) -> float:
    """Number of parameters from "7B", "350M", "1.1b" or "7000000000"; ValueError if it is none of these."""
    text = text.strip()
    unit = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}.get(text[-1:].lower())
    number = float(text[:-1] if unit else text) * (unit or 1)
    if not 0 < number < 1e18:
        raise ValueError(text)
    return number
