"""A safetensors model as a source: its tensors are read like GGUF's."""

import os
from collections.abc import Mapping

from quantreg.jobs.source import Source
from quantreg.safetensors import read_model

__all__ = ["SafetensorsSource"]


class SafetensorsSource(Source):
    """A safetensors model in the shape of `Source`: a file, or the ``.index.json`` of several.

    ``names`` gives tensors their GGUF names, see `safetensors.read_model`. A safetensors file has no metadata: use
    override_kv. Raises SafetensorsError, OSError.
    """

    def __init__(
        self, path: str | os.PathLike[str], names: Mapping[str, str | None] | str | os.PathLike[str] | None = None
    ) -> None:
        model = read_model(path, names)
        self._fill(
            headers=(), metadata={}, places=model.places, paths=model.paths, size=model.size, warnings=model.warnings
        )
