"""Which tensors of a model an importance matrix covers: the job around `importance.coverage_of`."""

from os import PathLike

from quantreg.importance import ImatrixLike, ImportanceMatrix
from quantreg.importance.coverage import Coverage, coverage_of
from quantreg.jobs.inputs import open_described

__all__ = ["coverage"]


def coverage(src: str | bytes | PathLike[str], imatrix: ImatrixLike) -> Coverage:
    """Compare an importance matrix (an ImportanceMatrix, a mapping of arrays or a path) with the model at src.

    The model is a GGUF file, any of several shards, or a folder with a published model. Raises GGUFFormatError,
    ImportanceError, what `quantreg.convert` raises for a folder, and OSError.
    """
    matrix = ImportanceMatrix.of(imatrix)
    source = open_described(src)
    return coverage_of(source.tensors, str(source.metadata.get("general.architecture", "")), matrix)
