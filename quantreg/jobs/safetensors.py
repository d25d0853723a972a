"""A safetensors model as a source: its tensors are read like GGUF's."""

import os
from collections.abc import Mapping

from quantreg.jobs.source import Source
from quantreg.safetensors import read_model

__all__ = ["SafetensorsSource"]


class SafetensorsSource(Source):
    """A safetensors model in the shape of `Source`: a file, any of several shards, or their ``.index.json``.

    ``names`` gives tensors their GGUF names, see `safetensors.read_model`. A safetensors file has no metadata: use
    override_kv. With ``partial``, a shard whose siblings are missing is read alone, with a warning, and with
    ``any_type``, dtypes for which GGUF has no type are accepted. Raises SafetensorsError, GGUFFormatError, OSError.
    """

    keeps_dims = True

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        names: Mapping[str, str | None] | str | bytes | os.PathLike[str] | None = None,
        *,
        partial: bool = False,
        any_type: bool = False,
    ) -> None:
        model = read_model(path, names, any_dtype=any_type, partial=partial)
        self._fill(
            headers=(),
            metadata={},
            places=model.places,
            paths=model.paths,
            size=sum(model.sizes),
            warnings=model.warnings,
        )
