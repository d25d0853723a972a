"""The importance of columns, collected while a calibration text runs through a model for something else as well."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantreg.importance import ImportanceMatrix, Sums
from quantreg.inference.model import Model
from quantreg.quality.activations import Activations
from quantreg.recipes import Plan
from quantreg.tuning.calibration import Calibration

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Collected", "foreseen", "kept_matrix"]

_BATCH = 2048  # tokens that go through the model at once


class Collected:
    """Adds up the squares of the inputs of all matrices, over the tokens that fit. A listener of `walk`.

    The sums are the same, bit by bit, whether the text goes through the model layer by layer or batch by batch.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._sums = model, Sums()
        self._overflowed: set[str] = set()
        self._activations = Activations(model, self._sums, overflowed=self._overflowed)

    def observe(self, name: str, x: "NDArray[np.float32]", experts: "NDArray[np.intp] | None") -> None:
        """See the input of a matrix."""
        if name != self._model.output_name:
            self._activations.observe(name, x, experts)
        elif self._model.graph.generates:
            rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
            squares = np.einsum("ij,ij->j", rows, rows)
            if np.isfinite(squares.astype(np.float32)).all():
                self._sums.add(name, squares, np.array([len(rows)], np.int64))
            else:
                self._overflowed.add(name)

    def keep(self) -> None:
        """Add what was seen since the last call to the sums."""
        self._activations.keep()

    def whole_passes(self, calibration: Calibration) -> Iterator[int]:
        """Run the tokens that fit through the model. Yields how many went through, time and again."""
        for ids in calibration.batches("fit", _BATCH):
            states = self._model.states(ids, observe=self._activations.observe)
            self.keep()
            self.observe(self._model.output_name, states, None)
            yield ids.size

    def write(self, path: Path, calibration: Calibration, datasets: Sequence[str]) -> None:
        """Write the importance matrix."""
        sums, n_ctx, chunks = self._sums, calibration.tokens.shape[1], len(calibration.part("fit"))
        entries = {name: sums[name] for name in sums if name not in self._overflowed} if self._overflowed else sums
        ImportanceMatrix(entries, datasets=datasets, chunk_count=chunks, chunk_size=n_ctx).write(path)


def kept_matrix(path: Path, names: Mapping[str, str]) -> ImportanceMatrix:
    """The importance matrix at a path, without the path, because its file is not there for long.

    ``names`` maps names of tensors in the source, which planning and encoding look for, to those in the model.
    """
    found = ImportanceMatrix.read(path)
    old = {new: name for name, new in names.items()}
    entries = {old[name]: np.array(found.entries[name]) for name in found.entries if name in old}
    return ImportanceMatrix(
        entries, datasets=found.datasets, chunk_count=found.chunk_count, chunk_size=found.chunk_size
    )


def foreseen(planned: Plan, model: Model | None = None) -> ImportanceMatrix:
    """An importance matrix like that which calibration will give, before it is known: all columns count the same.

    Plans depend on which tensors have importance, and not on how much. A ``model`` says exactly which ones will have
    it: those of its layers that a product reads, and the output.
    """
    matrices = [tensor for tensor in planned.tensors if len(tensor.dims) > 1]
    if model is None:
        wanted = {
            tensor.name for tensor in matrices if tensor.name.startswith("blk.") or tensor.name == "output.weight"
        }
    else:
        wanted = {name for name in model.matrices if name.startswith("blk.")}
        wanted |= {model.output_name} if model.graph.generates else set()
    sources = [tensor.source for tensor in matrices if tensor.name in wanted]
    return ImportanceMatrix({info.name: np.ones(info.dims[0] * _experts(info.dims), np.float32) for info in sources})


def _experts(dims: Sequence[int]) -> int:
    return dims[2] if len(dims) > 2 else 1
