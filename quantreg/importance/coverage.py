"""Which tensors of a model an importance matrix covers, and how well."""

from dataclasses import dataclass

import numpy as np

from quantreg import gguf
from quantreg.importance.matrix import ImportanceMatrix
from quantreg.recipes.keep import kept_because
from quantreg.recipes.order import arrange, trimmed
from quantreg.registry import layout_of

__all__ = ["Coverage", "TensorCoverage", "coverage"]


@dataclass(frozen=True, slots=True)
class TensorCoverage:
    """What the imatrix knows of one tensor.

    ``state``: "covered"; "no entry"; "wrong length" (made for another model); "partly", where some rows or blocks carry
    nothing. ``n_experts`` rows, one for a plain matrix; ``zero_rows`` numbers those that are all zero or were never
    counted: they are taken as ones. ``zero_columns`` is the share of columns in the other rows that are zero.
    """

    name: str
    state: str
    n_experts: int
    zero_rows: tuple[int, ...] = ()
    zero_columns: float = 0.0


@dataclass(frozen=True, slots=True)
class Coverage:
    """``tensors`` that a recipe may quantize, in the order of the output; ``unused`` entries that belong to none."""

    tensors: tuple[TensorCoverage, ...]
    unused: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return all(tensor.state == "covered" for tensor in self.tensors)


def coverage(src, imatrix) -> Coverage:
    """Hold an importance matrix (path or ImportanceMatrix) against the model at src.

    Raises GGUFFormatError, ImportanceError, OSError.
    """
    if not isinstance(imatrix, ImportanceMatrix):
        imatrix = ImportanceMatrix.read(imatrix)
    headers = gguf.read_shards(src, layout=layout_of)
    architecture = str(headers[0].metadata.get("general.architecture", ""))
    found, used = [], set()
    for name, info in arrange([info for header in headers for info in header.tensors], ())[0]:
        dims = trimmed(info.dims)
        used.add(name)
        if kept_because(name, dims, architecture) is None:
            found.append(_of_tensor(name, dims, imatrix))
    return Coverage(tuple(found), tuple(name for name in imatrix.entries if name not in used))


def _of_tensor(name, dims, imatrix):
    n_cols, n_experts = dims[0], dims[2] if len(dims) > 2 else 1
    if name not in imatrix.entries:
        return TensorCoverage(name, "no entry", n_experts)
    if imatrix.n_values(name) != n_cols * n_experts:
        return TensorCoverage(name, "wrong length", n_experts)
    rows = np.asarray(imatrix.entries[name]).reshape(n_experts, n_cols)
    dead = ~rows.any(axis=1)
    counts = imatrix.counts(name)
    if counts is not None and len(counts) == n_experts:
        dead |= np.array(counts) == 0
    alive = rows[~dead]
    zero_columns = float((alive == 0).mean()) if alive.size else 0.0
    state = "partly" if dead.any() or zero_columns else "covered"
    return TensorCoverage(name, state, n_experts, tuple(map(int, np.flatnonzero(dead))), zero_columns)
