"""Work items whose arrays lie in memory as codecs want them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

__all__ = ["aligned"]

Item = TypeVar("Item", bound=Any)


def aligned(item: Item) -> Item:
    """A work item whose arrays lie as codecs want them: those that a cluster has sent may start anywhere."""
    changed: dict[str, Any] = {}
    for name in ("importance", "had", "parameters"):
        value = getattr(item, name, None)
        if isinstance(value, np.ndarray):
            changed[name] = np.require(value, requirements=["C", "A"])
        elif isinstance(value, Mapping):
            changed[name] = {key: np.require(array, requirements=["C", "A"]) for key, array in value.items()}
    encodings = getattr(item, "encodings", ())
    if encodings:
        changed["encodings"] = tuple(map(aligned, encodings))
    return replace(item, **changed)
