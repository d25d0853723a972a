"""Which architecture a model has, and so how it is computed."""

from collections.abc import Mapping
from typing import Any

from quantreg.errors import ModelError, PluginError
from quantreg.inference.graph import Graph
from quantreg.recipes import Architecture
from quantreg.recipes.catalog import architectures

__all__ = ["architecture_of"]


def architecture_of(metadata: Mapping[str, Any]) -> Architecture:
    """The architecture of a model with this metadata. Raises ModelError if it is none that quantreg can compute."""
    name = metadata.get("general.architecture")
    if not name:
        raise ModelError("the file has no general.architecture: it holds no model that can run; convert it to GGUF")
    found = architectures.get(name)
    if found is None or found.graph is None:
        known = ", ".join(sorted(each.name for each in architectures.values() if each.graph is not None))
        raise ModelError(
            f"quantreg cannot compute models of architecture {name!r}. It knows {known}; a plugin adds another with "
            "the hook register_architectures and a quantreg.Architecture that has a graph"
        )
    if not isinstance(found.graph, Graph):
        raise PluginError(f"architecture {name!r}: graph is {found.graph!r}, expected a quantreg.Graph")
    return found
