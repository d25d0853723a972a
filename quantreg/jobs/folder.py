"""A folder with a published model as a source: its tensors are read as those of the GGUF model that it becomes."""

import os
from collections.abc import Mapping
from typing import Any

from quantreg.checkpoints.folder import Folder, read_folder
from quantreg.gguf import Metadata
from quantreg.jobs.source import Source

__all__ = ["FolderSource"]


class FolderSource(Source):
    """A folder with config.json, a tokenizer and safetensors files, in the shape of `Source`.

    Names, shapes, order of rows and metadata are those of GGUF; tensors are read in the types in which they are stored,
    except that those which GGUF always holds as F32 are F32. Raises what `checkpoints.read_folder` raises.
    """

    folder: Folder
    described: Metadata  # `metadata` as it was read
    is_described = True

    def __init__(self, path: str | os.PathLike[str], given: Mapping[str, Any] | None = None) -> None:
        self.folder = read_folder(path, given)
        self.described = Metadata.of(self.folder.metadata)
        self._fill(
            headers=(),
            metadata=self.described,
            places=self.folder.places,
            paths=self.folder.paths,
            size=sum(self.folder.sizes),
            warnings=self.folder.warnings,
            stored=self.folder.how,
        )
