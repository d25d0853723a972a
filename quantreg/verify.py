"""Looking at whole files: are their blocks sound, are two the same, what are the digests of their tensors."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from quantreg import work
from quantreg.dispatch import cpu_count, decode_slab
from quantreg.errors import NonFiniteError
from quantreg.gguf import SPLIT_KEYS
from quantreg.registry import types
from quantreg.source import Source

__all__ = ["Comparison", "TensorDifference", "compare", "hash_tensors", "validate"]

READ = 1 << 22


def validate(path, *, threads=None) -> list[str]:
    """What is wrong with the tensors of a GGUF model (all its shards): sentences, empty if nothing.

    Every block is decoded: NaN and infinity, in scales or weights, are reported once a tensor, with their place.
    Raises GGUFFormatError for a damaged header.
    """
    problems = []
    for info, problem in _validated(Source(path), threads or cpu_count()):
        if problem is not None:
            problems.append(problem)
        elif types.get(info.type_id) is None:
            problems.append(f"{info.name}: no installed plugin reads {info.type_name}: not checked")
    return problems


def _validated(source, threads):
    with source:
        worker = work.Worker(lambda path, stamp: source.file(path))

        def look(item):
            info, start, nbytes = item
            qtype = types.get(info.type_id)
            if qtype is None or not info.known:
                return None
            shard, position = source.place(info)
            path = os.path.abspath(source.paths[shard])
            slab = work.Slab(info.name, path, (), position + start, nbytes, qtype.name, None, info.n_cols, start)
            try:
                worker.run(slab)
            except NonFiniteError as error:
                return str(error)
            return None

        found = {}
        for (info, start, nbytes), problem in _each(_ranges(source), look, threads):
            found.setdefault(info.name, problem)
            found[info.name] = found[info.name] or problem
            if start + nbytes >= info.nbytes:
                yield info, found[info.name]


def _ranges(source):
    """(TensorInfo, first byte, bytes) of pieces that hold whole rows, or whole blocks where rows are long."""
    for info in source.tensors:
        qtype = types.get(info.type_id)
        unit = 1 if qtype is None else info.row_bytes if qtype.row_header_size else qtype.type_size
        step = max(1, READ // max(1, unit)) * max(1, unit)
        for start in range(0, max(1, info.nbytes), step):
            yield info, start, min(step, info.nbytes - start)


def _each(items, function, threads):
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="quantreg") as pool,
        closing(work.in_order(items, lambda item: pool.submit(function, item), threads)) as done,
    ):
        yield from done


# ---- digests ----


def hash_tensors(path, *, threads=None) -> dict[str, str]:
    """Name -> SHA-256 (hex) of a tensor's bytes, without padding, in file order.

    Order, offsets, alignment and shards do not matter: the same tensors give the same digests.
    """
    source = Source(path)
    with source:

        def digest(info):
            state = hashlib.sha256()
            buffer = _buffer()
            for start in range(0, info.nbytes, READ):
                piece = buffer[: min(READ, info.nbytes - start)]
                source.read_into(info, start, piece)
                state.update(piece)
            return state.hexdigest()

        return {info.name: found for info, found in _each(source.tensors, digest, threads or cpu_count())}


_local = threading.local()


def _buffer(name="a"):
    if not hasattr(_local, name):
        setattr(_local, name, np.empty(READ, np.uint8))
    return getattr(_local, name)


# ---- two files ----


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How a tensor differs between two models.

    ``what`` is "only in A", "only in B", "shape", "type" or "bytes"; ``a`` and ``b`` are the two shapes or types.
    Where both can be decoded: ``rmse``, the root mean square of the differences as a share of that of A's values, and
    ``largest``, the largest difference; else None.
    """

    name: str
    what: str
    a: object = None
    b: object = None
    rmse: float | None = None
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two models: ``metadata`` as (key, value in A or None, value in B or None), ``tensors``."""

    metadata: tuple[tuple[str, object, object], ...]
    tensors: tuple[TensorDifference, ...]
    n_tensors: int

    @property
    def same(self) -> bool:
        """Whether metadata and tensors are equal; their order, and how they are split into files, do not matter."""
        return not self.metadata and not self.tensors


def compare(a, b, *, threads=None) -> Comparison:
    """Compare two GGUF models: metadata by type and value, tensors by shape, type and bytes, or by numeric error."""
    first, second = Source(a), Source(b)
    with first, second:
        return Comparison(
            tuple(_metadata_differences(first.metadata, second.metadata)),
            tuple(_tensor_differences(first, second, threads or cpu_count())),
            len({info.name for info in (*first.tensors, *second.tensors)}),
        )


def _metadata_differences(a, b):
    for key in dict.fromkeys((*a, *b)):
        if key in SPLIT_KEYS:
            continue
        x, y = (m.value(key) if key in m else None for m in (a, b))
        if x != y:
            yield key, x, y


def _tensor_differences(a, b, threads) -> Iterator[TensorDifference]:
    left, right = ({info.name: info for info in source.tensors} for source in (a, b))
    pairs = [(x, right[x.name]) for x in left.values() if x.name in right and x.shape == right[x.name].shape]
    same = {x.name: x.type_id == y.type_id and x.nbytes == y.nbytes for x, y in pairs}
    ranges = (
        (x, y, start, min(READ, x.nbytes - start))
        for x, y in pairs
        if same[x.name]
        for start in range(0, x.nbytes, READ)
    )
    for (x, *_), equal in _each(ranges, lambda item: _equal(a, b, *item), threads):
        same[x.name] = same[x.name] and equal
    readable = [pair for pair in pairs if not same[pair[0].name] and all(types.get(i.type_id) for i in pair)]
    rows = (
        (x, y, row, min(step, x.n_rows - row))
        for x, y in readable
        for step in (max(1, READ // 8 // max(1, x.n_cols)),)
        for row in range(0, x.n_rows, step)
    )
    sums = {x.name: np.zeros(3) for x, _ in readable}  # of squared differences, of A's squares; the largest difference
    for (x, *_), (error, power, largest) in _each(rows, lambda item: _errors(a, b, *item), threads):
        found = sums[x.name]
        found[:] = found[0] + error, found[1] + power, max(found[2], largest)
    for name in dict.fromkeys((*left, *right)):
        x, y = left.get(name), right.get(name)
        if x is None or y is None:
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
    left, right = _buffer("a")[:count], _buffer("b")[:count]
    a.read_into(x, start, left)
    b.read_into(y, start, right)
    return np.array_equal(left, right)


def _errors(a, b, x, y, row, n_rows):
    p, q = (_decoded(source, info, row, n_rows).astype(np.float64) for source, info in ((a, x), (b, y)))
    with np.errstate(invalid="ignore"):
        delta = q - p
        return float((delta**2).sum()), float((p**2).sum()), float(np.abs(delta).max(initial=0.0))


def _decoded(source, info, row, n_rows):
    raw = np.empty((n_rows, info.row_bytes), np.uint8)
    source.read_into(info, row * info.row_bytes, raw.reshape(-1))
    out = np.empty((n_rows, info.n_cols), np.float32)
    decode_slab(types[info.type_id], raw, out)
    return out
