"""Comparing two models: metadata, shapes, types, bytes, numeric error."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple

import numpy as np

from quantreg.dispatch import cpu_count, rows_per_slab
from quantreg.gguf import SPLIT_KEYS, Value
from quantreg.html import table
from quantreg.jobs.adapted import adapt
from quantreg.jobs.inputs import open_source
from quantreg.jobs.slabs import SLAB_BYTES
from quantreg.jobs.source import Source
from quantreg.jobs.verify import on_threads, thread_buffer
from quantreg.loss import is_lost
from quantreg.registry import types

__all__ = ["Comparison", "MetadataDifference", "TensorDifference", "compare"]


class MetadataDifference(NamedTuple):
    """A metadata key with its values in A and B; None where a model lacks the key."""

    key: str
    a: Value | None
    b: Value | None


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How a tensor differs between two models.

    ``what`` is "only in A", "only in B", "shape", "type" or "bytes"; ``a`` and ``b`` are the two shapes or types.
    Where both can be decoded, ``rmse`` is the root mean square of the differences as a share of that of A's values, and
    ``largest`` is the largest difference; else they are None.
    """

    name: str
    what: str
    a: str | tuple[int, ...] | None = None
    b: str | tuple[int, ...] | None = None
    rmse: float | None = None
    largest: float | None = None

    @property
    def lost(self) -> bool:
        """Whether B holds next to nothing of A's weights: their difference is as large as the weights themselves."""
        return is_lost(self.rmse)


@dataclass(frozen=True)
class Comparison(Mapping[str, TensorDifference]):
    """What differs between two models: ``metadata`` and ``tensors``, of the ``n_tensors`` that either holds.

    A mapping of the names of tensors that differ to their TensorDifferences.
    """

    metadata: tuple[MetadataDifference, ...]
    tensors: tuple[TensorDifference, ...]
    n_tensors: int

    def __repr__(self) -> str:
        return f"<Comparison: {len(self.tensors)} of {self.n_tensors} tensors and {len(self.metadata)} keys differ>"

    @property
    def same(self) -> bool:
        """Whether metadata and tensors are equal. The order of tensors and the split into files do not matter."""
        return not self.metadata and not self.tensors

    def __getitem__(self, name: str) -> TensorDifference:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (tensor.name for tensor in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def _repr_html_(self) -> str:
        if self.same:
            return f"<p>The models have the same metadata and the same {self.n_tensors} tensors.</p>"
        rows: list[tuple[object, ...]] = [(key, "metadata", a or "", b or "", "", "") for key, a, b in self.metadata]
        for t in self.tensors:
            a, b, rmse, largest = ("" if value is None else value for value in (t.a, t.b, t.rmse, t.largest))
            rows.append((t.name, t.what, a, b, rmse, largest))
        caption = f"{len(self.metadata)} keys and {len(self.tensors)} of {self.n_tensors} tensors differ"
        return table(caption, ("name", "differs in", "A", "B", "RMSE / RMS of A", "largest difference"), rows)


def compare(
    a: str | bytes | PathLike[str], b: str | bytes | PathLike[str], *, threads: int | None = None
) -> Comparison:
    """Compare two models: metadata by type and value, tensors by shape, type and bytes, or by numeric error.

    Either may be GGUF, safetensors, or a published folder, which is compared as the GGUF model that it becomes.
    Safetensors files alone have no metadata, so metadata is compared only between the others.
    Raises GGUFFormatError, SafetensorsError, OSError.
    """
    first, second = (adapt(open_source(path, any_type=True)) for path in (a, b))
    with first, second:
        both = first.is_described and second.is_described
        return Comparison(
            tuple(_metadata_differences(first.metadata, second.metadata)) if both else (),
            tuple(_tensor_differences(first, second, threads or cpu_count())),
            len({info.name for info in (*first.tensors, *second.tensors)}),
        )


def _metadata_differences(a, b):
    for key in dict.fromkeys((*a, *b)):
        if key in SPLIT_KEYS:
            continue
        x, y = (m.value(key) if key in m else None for m in (a, b))
        if x != y:
            yield MetadataDifference(key, x, y)


def _tensor_differences(a: Source, b: Source, threads: int) -> Iterator[TensorDifference]:
    left, right = ({info.name: info for info in source.tensors} for source in (a, b))
    pairs = [(x, right[x.name]) for x in left.values() if x.name in right and x.shape == right[x.name].shape]
    same = {x.name: x.type_id == y.type_id and x.nbytes == y.nbytes for x, y in pairs}
    ranges = (
        (x, y, start, min(SLAB_BYTES, x.nbytes - start))
        for x, y in pairs
        if same[x.name]
        for start in range(0, x.nbytes, SLAB_BYTES)
    )
    for (x, *_), equal in on_threads(ranges, lambda item: _equal(a, b, *item), threads):
        same[x.name] = same[x.name] and equal
    readable = [pair for pair in pairs if not same[pair[0].name] and all(types.get(i.type_id) for i in pair)]
    rows = (
        (x, y, row, min(step, x.n_rows - row))
        for x, y in readable
        for step in (rows_per_slab(x.n_cols, SLAB_BYTES // 8),)  # as float64
        for row in range(0, x.n_rows, step)
    )
    sums = {x.name: np.zeros(3) for x, _ in readable}  # of squared differences, of A's squares; the largest difference
    for (x, *_), (error, power, largest) in on_threads(rows, lambda item: _errors(a, b, *item), threads):
        found = sums[x.name]
        found[:] = found[0] + error, found[1] + power, max(found[2], largest)
    part_of_others = a.parameter_names() | b.parameter_names()  # decoding has taken these into account
    for name in dict.fromkeys((*left, *right)):
        x, y = left.get(name), right.get(name)
        if x is None or y is None:
            if name in part_of_others:
                continue
            yield TensorDifference(name, "only in B" if x is None else "only in A")
        elif x.shape != y.shape:
            yield TensorDifference(name, "shape", x.shape, y.shape)
        elif not same[name]:
            rmse = largest = None
            if name in sums:
                error, power, largest = map(float, sums[name])
                rmse = (error / power) ** 0.5 if power else float("inf") if error else 0.0
            what = "bytes" if x.type_id == y.type_id else "type"
            yield TensorDifference(name, what, x.type_name, y.type_name, rmse, largest)


def _equal(a, b, x, y, start, count):
    left, right = thread_buffer("a")[:count], thread_buffer("b")[:count]
    a.read_into(x, start, left)
    b.read_into(y, start, right)
    return np.array_equal(left, right)


def _errors(a, b, x, y, row, n_rows):
    p, q = (source.decode(info, row, n_rows).astype(np.float64) for source, info in ((a, x), (b, y)))
    with np.errstate(invalid="ignore"):
        delta = q - p
        return float((delta**2).sum()), float((p**2).sum()), float(np.abs(delta).max(initial=0.0))
