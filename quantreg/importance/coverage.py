"""Which tensors of a model an importance matrix covers, and how well."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from quantreg import gguf
from quantreg.importance.matrix import ImportanceMatrix
from quantreg.recipes.keep import kept_because
from quantreg.recipes.order import arrange, trimmed

__all__ = ["Coverage", "TensorCoverage", "coverage_of"]


@dataclass(frozen=True, slots=True)
class TensorCoverage:
    """How well an importance matrix covers one tensor.

    - ``state``: "covered"; "partly" (some rows or columns are zero); "no entry"; "wrong length" (the matrix was made
      for another model).
    - ``n_experts``: the number of importance rows, 1 for a plain matrix.
    - ``zero_rows``: the numbers of the rows that are all zero or were never counted. Ones are used instead of them.
    - ``zero_columns``: the share of zeros in the other rows, from 0 to 1.
    """

    name: str
    state: str
    n_experts: int
    zero_rows: tuple[int, ...] = ()
    zero_columns: float = 0.0


@dataclass(frozen=True, slots=True)
class Coverage:
    """How well an importance matrix covers a model.

    ``tensors`` are those that a recipe may quantize, in the order of the output. ``unused`` are the names of entries
    for which the model has no tensor.
    """

    tensors: tuple[TensorCoverage, ...]
    unused: tuple[str, ...]

    def __repr__(self) -> str:
        covered = sum(tensor.state == "covered" for tensor in self.tensors)
        return f"<Coverage: {covered} of {len(self.tensors)} tensors covered, {len(self.unused)} unused entries>"

    @property
    def complete(self) -> bool:
        """Whether every tensor is covered."""
        return all(tensor.state == "covered" for tensor in self.tensors)


def coverage_of(tensors: Iterable[gguf.TensorInfo], architecture: str, imatrix: ImportanceMatrix) -> Coverage:
    """Compare an importance matrix with the tensors of a GGUF model of this architecture."""
    found: list[TensorCoverage] = []
    used: set[str] = set()
    for name, info in arrange(list(tensors), ())[0]:
        dims = trimmed(info.dims)
        used.add(name)
        if kept_because(name, dims, architecture) is None:
            found.append(_of_tensor(name, dims, imatrix))
    return Coverage(tuple(found), tuple(name for name in imatrix if name not in used))


def _of_tensor(name: str, dims: tuple[int, ...], imatrix: ImportanceMatrix) -> TensorCoverage:
    n_cols, n_experts = dims[0], dims[2] if len(dims) > 2 else 1
    if name not in imatrix:
        return TensorCoverage(name, "no entry", n_experts)
    if imatrix.n_values(name) != n_cols * n_experts:
        return TensorCoverage(name, "wrong length", n_experts)
    rows = imatrix[name].reshape(n_experts, n_cols)
    dead = ~rows.any(axis=1)
    counts = imatrix.counts(name)
    if counts is not None and len(counts) == n_experts:
        dead |= np.array(counts) == 0
    alive = rows[~dead]
    zero_columns = float((alive == 0).mean()) if alive.size else 0.0
    state = "partly" if dead.any() or zero_columns else "covered"
    return TensorCoverage(name, state, n_experts, tuple(map(int, np.flatnonzero(dead))), zero_columns)
