"""Opening what a job reads: a GGUF or safetensors model, an importance matrix."""

import os
from collections.abc import Mapping

from quantreg.errors import PlanError
from quantreg.importance import ImportanceMatrix
from quantreg.jobs.safetensors import SafetensorsSource
from quantreg.jobs.source import Source
from quantreg.safetensors import is_safetensors

__all__ = ["open_imatrix", "open_source"]


def open_source(
    path: str | os.PathLike[str], names: Mapping[str, str | None] | str | os.PathLike[str] | None = None
) -> Source:
    """The model at path: a GGUF file, any shard of one, a safetensors file or the index of several.

    ``names`` maps the names in a safetensors file to GGUF's, see `SafetensorsSource`. Raises GGUFFormatError,
    SafetensorsError, PlanError, OSError.
    """
    if is_safetensors(path):
        return SafetensorsSource(path, names)
    if names is not None:
        raise PlanError(f"{os.fspath(path)}: names are for safetensors files, tensors of a GGUF file have theirs")
    return Source(path)


def open_imatrix(imatrix: "ImportanceMatrix | str | os.PathLike[str] | None") -> ImportanceMatrix | None:
    """The importance matrix, read if it is given as a path; None without one."""
    return imatrix if imatrix is None or isinstance(imatrix, ImportanceMatrix) else ImportanceMatrix.read(imatrix)
