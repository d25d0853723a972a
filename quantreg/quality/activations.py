"""Sums of squared activations: what goes into each matrix of a model while a text runs through it."""

import math
from typing import TYPE_CHECKING

import numpy as np

from quantreg.errors import ImportanceError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from quantreg.importance import Sums
    from quantreg.inference.model import Model

__all__ = ["Activations", "counted_rows"]

_ROWS = 256  # rows that add up in float32 before their sum joins one in float64
_OUTPUT = "output.weight"
_AT_ONCE, _FEWEST = 512, 16  # tokens that llama-imatrix computes at once, and the fewest that it looks at
_DECODED = 2048  # tokens of a chunk that it computes without a break


class Activations:
    """Adds up the squares of the inputs of each matrix of the layers. `observe` is the callback of a `Model`.

    What was observed joins ``sums`` when `keep` is called, all at once: chunks are counted whole or not at all.

    - ``output``: whether the input of output.weight counts, too.
    - ``overflowed``: None, or a set that takes the names of the matrices with inputs that are not finite or too large
      to be squared. Otherwise these raise ModelError.

    Raises ImportanceError if ``sums`` already has entries, and they are of another model.
    """

    sums: "Sums"

    def __init__(
        self, model: "Model", sums: "Sums", output: bool = False, overflowed: "set[str] | None" = None
    ) -> None:
        self.sums = sums
        self._overflowed = overflowed
        for name in sums:
            if name in model.tensors:
                _check(name, sums.n_values(name), model.tensors[name].shape)
        self._experts = {name: tensor.shape[0] for name, tensor in model.tensors.items() if len(tensor.shape) > 2}
        self._output = output
        self._seen: dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]] = {}
        self._counted: NDArray[np.bool_] | None = None
        self._row = 0  # of output.weight
        self._last: tuple[object, object, NDArray[np.float64], NDArray[np.int64]] | None = None

    def begin(self, sequences: int, n_ctx: int) -> None:
        """Get ready for some chunks. See `counted_rows`."""
        self._counted = counted_rows(sequences, n_ctx)
        self._row = 0

    def observe(self, name: str, x: "NDArray[np.float32]", experts: "NDArray[np.intp] | None") -> None:
        """Take note of the input of a matrix. Raises ModelError if it is not finite or too large to be squared."""
        if not (name.startswith("blk.") or (self._output and name == _OUTPUT)):
            return
        last = self._last  # several matrices have the same input: q, k and v, or gate and up
        if last is not None and last[0] is x and last[1] is experts:
            sums, counts = last[2:]
        elif experts is None or (x.ndim == 3 and "exps" not in name):  # with a matrix for each head, all are used
            rows = self._rows(name, x)
            sums, counts = _squares(rows), np.array([len(rows)], np.int64)
        else:
            sums, counts = _by_expert(x, experts, self._experts[name])
        self._last = x, experts, sums, counts
        if not np.isfinite(sums).all():
            if self._overflowed is not None:
                self._overflowed.add(name)
                return
            raise ModelError(
                f"the input of {name} holds NaN, infinity or numbers above 1e19: check the model with `quantreg "
                "validate`, or quantize it anew"
            )
        if name in self._seen:  # output.weight is multiplied in pieces
            before = self._seen[name]
            sums, counts = before[0] + sums, before[1] + counts
        self._seen[name] = sums, counts

    def _rows(self, name: str, x: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The rows of the input of a matrix that count."""
        if self._counted is None:
            return x
        if name != _OUTPUT:
            return x[self._counted] if len(x) == len(self._counted) else x
        self._row += len(x)
        return x[self._counted[self._row - len(x) : self._row]]

    def keep(self) -> None:
        """Add what was observed since the last call to the sums."""
        for name, (sums, counts) in self._seen.items():
            self.sums.add(name, sums, counts)
        self._seen.clear()
        self._last = None


def counted_rows(sequences: int, n_ctx: int) -> "NDArray[np.bool_] | None":
    """Return which of the tokens of some chunks count, bool (sequences * n_ctx,), or None if all do.

    llama-imatrix computes 512 tokens at once, as many from each chunk, and ignores what is left if that is fewer than
    16 tokens, except for experts. They are left out here, too, so that the counts are the same.
    """
    step = max(1, _AT_ONCE // sequences)
    counted = np.ones((sequences, n_ctx), bool)
    for start in range(0, n_ctx, _DECODED):
        stop = min(start + _DECODED, n_ctx)
        left = (stop - start) % step
        if 0 < left * sequences < _FEWEST:
            counted[:, stop - left : stop] = False
    return None if counted.all() else counted.reshape(-1)


def _check(name: str, n_values: int, shape: tuple[int, ...]) -> None:
    """Raise ImportanceError if sums that were collected before cannot belong to a tensor of this shape."""
    expected = math.prod(shape[:-2]) * shape[-1]
    if n_values != expected:
        raise ImportanceError(
            f"entry {name} of the matrices to add to has {n_values} values, but the tensor of the model has "
            f"{' x '.join(map(str, shape))} weights and needs {expected}: combine matrices of the same model"
        )


def _squares(x: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """The sums of the squares of the columns of x (rows, ...): float64 of shape x.shape[1:]."""
    rows = x.reshape(len(x), -1)
    total = np.zeros(rows.shape[1])
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            total += np.einsum("ij,ij->j", part, part)
    return total.reshape(x.shape[1:])


def _by_expert(
    x: "NDArray[np.float32]", experts: "NDArray[np.intp]", n_experts: int
) -> "tuple[NDArray[np.float64], NDArray[np.int64]]":
    """The same for each expert, over the rows that were routed to it, and their numbers.

    x has the shape (tokens, cols), or (tokens, k, cols) with a row for each of the k experts (tokens, k) of a token.
    """
    each = experts.reshape(len(experts), -1)
    k = each.shape[1]
    rows = x.reshape(-1, x.shape[-1])
    order = np.argsort(each, axis=None, kind="stable")
    places = order if len(rows) == each.size else order // k  # rows of x, by expert
    counts = np.bincount(each.reshape(-1), minlength=n_experts)
    sums = np.zeros((n_experts, rows.shape[1]))
    for expert, part in _parts(counts, places):
        sums[expert] = _squares(rows[part])
    return sums, counts.astype(np.int64)


def _parts(counts: "NDArray[np.intp]", places: "NDArray[np.intp]") -> "Iterator[tuple[int, NDArray[np.intp]]]":
    stop = 0
    for expert, count in enumerate(counts.tolist()):
        start, stop = stop, stop + count
        if count:
            yield expert, places[start:stop]
