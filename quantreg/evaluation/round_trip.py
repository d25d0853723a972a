"""Encode rows of a tensor and decode them again, with the parameters that `quantize_file` would fit and store."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from quantreg.dispatch import SLAB_WEIGHTS, decode_slab, encode_slab, rows_per_slab
from quantreg.fitting import fit_samples
from quantreg.parameters import Sample, TensorContext
from quantreg.qtype import QuantType
from quantreg.registry import registry, types
from quantreg.tensor import QuantizedTensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.parameters import Fitted

__all__ = ["Matrices", "RoundTrip", "fit_model", "parameter_bytes", "round_trip", "warm_up"]


@dataclass(frozen=True)
class Matrices:
    """A tensor of the model: a matrix, or the matrices of its experts, with the importance of their columns.

    ``importance`` is float32 (experts, cols), or None. ``context`` describes the whole tensor.
    """

    tensor: QuantizedTensor
    context: TensorContext
    importance: "NDArray[np.float32] | None" = None

    def rows(self, numbers: "NDArray[np.int64]") -> "NDArray[np.float32]":
        """Decode the rows with these numbers, counted over all experts: float32 (rows, cols)."""
        tensor, qtype = self.tensor, types[self.tensor.type_id]
        data = tensor.data.reshape(-1, tensor.data.shape[-1])
        parameters = tensor.parameters
        rows = np.empty((len(numbers), tensor.shape[-1]), np.float32)
        for part, expert in self.by_expert(numbers):
            codec = qtype.codec_for(parameters, replace(self.context, expert=expert))
            decode_slab(qtype, codec, data[numbers[part]], rows[part], tensor=self.context.name)
        return rows

    def by_expert(self, numbers: "NDArray[np.int64]") -> "Iterator[tuple[slice, int]]":
        """Yield (slice of the numbers, expert) for each expert that has any of these rows. The numbers are sorted."""
        experts = numbers // self.tensor.shape[-2]
        starts = np.flatnonzero(np.r_[True, experts[1:] != experts[:-1]])
        for first, last in zip(starts, [*starts[1:], len(numbers)], strict=True):
            yield slice(first, last), int(experts[first])

    def columns(self, expert: int) -> "NDArray[np.float32] | None":
        """The importance of the columns of one expert: float32 (cols,), or None."""
        return None if self.importance is None else self.importance[expert]

    def weights_of_errors(self, numbers: "NDArray[np.int64]") -> "NDArray[np.float32] | None":
        """The importance of these rows, float32 (cols,) or (rows, cols); None without importance."""
        if self.importance is None or len(self.importance) == 1:
            return None if self.importance is None else self.importance[0]
        return self.importance[numbers // self.tensor.shape[-2]]

    def samples(self, with_importance: bool) -> "Iterator[Sample]":
        """Yield all rows, in slabs, for a type to fit its parameters."""
        height, cols = self.tensor.shape[-2:]
        step = rows_per_slab(cols, SLAB_WEIGHTS)
        for expert in range(self.context.n_experts):
            columns = self.columns(expert) if with_importance else None
            for first in range(0, height, step):
                numbers = np.arange(first, min(first + step, height)) + expert * height
                yield Sample(self.rows(numbers), columns, replace(self.context, expert=expert))

    def fit(self, qtype: QuantType, with_importance: bool) -> "Fitted":
        """Fit the parameters of a type to all rows of the tensor. Raises CodecError if the plugin fails."""
        return fit_samples(qtype, self.samples(with_importance), self.context)


class RoundTrip(NamedTuple):
    """Decoded rows, the size of the encoded ones in bytes, and the seconds that encoding and decoding took."""

    decoded: "NDArray[np.float32]"
    nbytes: int
    encoding: float
    decoding: float


def round_trip(
    qtype: QuantType,
    matrices: Matrices,
    numbers: "NDArray[np.int64]",
    x: "NDArray[np.float32]",
    with_importance: bool,
    parameters: "Fitted | None",
) -> RoundTrip:
    """Encode and decode rows of one tensor, in one thread. Every measurement passes through this function.

    ``x`` holds the rows with these numbers. Raises what the codec raises.
    """
    name = matrices.context.name
    decoded = np.empty(x.shape, np.float32)
    encoding = decoding = 0.0
    nbytes, row_bytes = 0, qtype.row_bytes(x.shape[1])
    step = rows_per_slab(x.shape[1], SLAB_WEIGHTS)
    for part, expert in matrices.by_expert(numbers):
        columns = matrices.columns(expert) if with_importance else None
        codec = qtype.codec_for(parameters, replace(matrices.context, expert=expert))
        scorer = registry.scorer(qtype)
        for first in range(part.start, part.stop, step):
            rows = slice(first, min(first + step, part.stop))
            data = np.empty((rows.stop - rows.start, row_bytes), np.uint8)
            begun = time.perf_counter()
            encode_slab(
                qtype, x[rows], data, columns, scorer=scorer, first_row=int(numbers[first]), tensor=name, codec=codec
            )
            encoded = time.perf_counter()
            codec.decode_rows(data, decoded[rows])
            encoding, decoding = encoding + encoded - begun, decoding + time.perf_counter() - encoded
            nbytes += data.size
    return RoundTrip(decoded, nbytes, encoding, decoding)


def warm_up(qtype: QuantType) -> None:
    """Load the codec and let it build its tables. Raises what the codec raises."""
    if qtype.parameters is not None and qtype.parameters.required:
        _ = qtype.codec  # loads it; without its parameters it encodes nothing
        return
    x = np.ones((1, qtype.block_size), np.float32)
    data = np.empty((1, qtype.row_bytes(qtype.block_size)), np.uint8)
    codec = qtype.codec_for(None, TensorContext(None, x.shape, expert=0))
    encode_slab(qtype, x, data, x[0], codec=codec)
    codec.decode_rows(data, x)


def parameter_bytes(parameters: "Fitted | None") -> int:
    """The size of the parameters in a file."""
    return sum(array.nbytes for array in (parameters or {}).values())


def fit_model(qtype: QuantType, tensors: "Iterable[tuple[Matrices, bool]]", context: TensorContext) -> "Fitted":
    """Fit the parameters that a type has once per model to the tensors that get it, each with or without importance."""
    samples = (sample for matrices, importance in tensors for sample in matrices.samples(importance))
    return fit_samples(qtype, samples, context)
