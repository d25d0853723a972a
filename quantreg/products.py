"""Products with quantized weights: a tile of rows is decoded into the cache, and multiplied from there."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from quantreg.arrays import as_array
from quantreg.dispatch import cpu_count, decode_slab
from quantreg.errors import ShapeError
from quantreg.parameters import TensorContext
from quantreg.registry import registry, types

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from threadpoolctl import ThreadpoolController

    from quantreg.codec import RowCodec
    from quantreg.dispatch import TypeKey
    from quantreg.parameters import Fitted

__all__ = ["matmul", "one_blas_thread"]

# Weights per tile. A tile for many rows of activations amortizes the work of BLAS before each call; a tile for a few is
# read once after it is decoded, and best stays in the inner cache. The partition depends on nothing else, so neither
# do the results.
MANY, TILE_OF_MANY, TILE_OF_FEW = 8, 1 << 20, 1 << 16


class Weights(Protocol):
    """What `matmul` needs of weights; a QuantizedTensor has it."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type_id(self) -> int: ...
    @property
    def data(self) -> "NDArray[np.uint8]": ...
    @property
    def parameters(self) -> "Fitted | None": ...


def matmul(
    x: "ArrayLike",
    w: "Weights | tuple[ArrayLike, TypeKey]",
    out: "NDArray[np.float32] | None" = None,
    threads: int | None = None,
    *,
    expert: "ArrayLike | None" = None,
) -> "NDArray[np.float32]":
    """Multiply activations by quantized weights: ``x @ w.T``, float32 of shape (..., rows).

    - ``x``: float32 or float16 of shape (..., cols). The activations are not rounded.
    - ``w``: a QuantizedTensor of shape (rows, cols), or (experts, rows, cols) together with ``expert``; or what
      `quantreg.quantize` returns, together with its type: ``(data, "Q4_K")``. It stays encoded: only a tile of it is
      decoded at a time. Every type that decodes works.
    - ``out``: a C-contiguous float32 array of the shape of the result, to fill and return.
    - ``threads``: how many threads work, by default as many as processors. BLAS uses one in each of them.
    - ``expert``: for each row of activations the number of the matrix, or of several: integers of shape x.shape[:-1],
      or x.shape[:-1] + (k,). With k the result has the shape (..., k, rows).

    The result does not depend on the threads. Its last bits depend on the BLAS, the CPU level and the number of rows
    of x, as any sum in float32 does. Raises ShapeError for shapes or dtypes that do not fit, CodecError if the type
    needs parameters that the file lacks, UnknownTypeError.
    """
    w = _Pair(*w) if isinstance(w, tuple) else w
    rows = _activations(x, w)
    chosen = _chosen(rows, w, expert)
    flat = rows.reshape(-1, rows.shape[-1])
    shape = (*(rows.shape[:-1] if chosen is None else chosen.shape), w.shape[-2])
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ShapeError(
            f"out is {out.dtype} of shape {out.shape}: expected a C-contiguous float32 array of shape {shape}"
        )
    if not out.size:
        return out
    if not flat.shape[1]:
        out[...] = 0
        return out
    result = out.reshape(-1, w.shape[-2])
    groups = [(0, flat, result, None)] if chosen is None else list(_by_expert(flat, chosen, result))
    _multiply(w, groups, threads or cpu_count())
    return out


class _Pair:
    """Encoded rows and their type, in the shape of a QuantizedTensor."""

    name = "w"
    parameters = None

    def __init__(self, data: "ArrayLike", type: "TypeKey") -> None:
        qtype = types[type]
        self.type_id = qtype.type_id
        self.data: NDArray[np.uint8] = np.asarray(data)
        if self.data.dtype != np.uint8 or not self.data.ndim:
            raise ShapeError(f"w is {self.data.dtype} of shape {self.data.shape}: pass what quantreg.quantize returns")
        self.shape: tuple[int, ...] = (*self.data.shape[:-1], qtype.row_weights(self.data.shape[-1]))


def _activations(x: "ArrayLike", w: Weights) -> "NDArray[np.float32]":
    rows = as_array(x, "x")
    if rows.dtype.kind not in "fiub" and rows.dtype.name != "bfloat16":
        raise ShapeError(f"x has dtype {rows.dtype}: convert it to float32")
    if len(w.shape) not in (2, 3):
        raise ShapeError(f"{w.name} has shape {w.shape}: expected a matrix (rows, cols), or a stack of them")
    if not rows.ndim or rows.shape[-1] != w.shape[-1]:
        raise ShapeError(
            f"x has shape {rows.shape}, but {w.name} has rows of {w.shape[-1]} weights: expected (..., {w.shape[-1]})"
        )
    return np.ascontiguousarray(rows, np.float32)


def _chosen(rows: "NDArray[np.float32]", w: Weights, expert: "ArrayLike | None") -> "NDArray[np.intp] | None":
    if expert is None:
        if len(w.shape) == 3 and w.shape[0] != 1:
            raise ShapeError(
                f"{w.name} is a stack of {w.shape[0]} matrices: say with expert= which one each row of x gets"
            )
        return None
    count = w.shape[0] if len(w.shape) == 3 else 1
    found = np.asarray(expert)
    if found.dtype.kind not in "iu" or found.shape[: rows.ndim - 1] != rows.shape[:-1] or found.ndim > rows.ndim:
        raise ShapeError(
            f"expert is {found.dtype} of shape {found.shape}: expected integers of shape {rows.shape[:-1]}, or with "
            "one more axis for several experts per row"
        )
    if found.size and (found.min() < 0 or found.max() >= count):
        raise ShapeError(
            f"expert holds {found.min()} to {found.max()}, but {w.name} has {count} matrices, counted from 0"
        )
    return found.astype(np.intp)


def _by_expert(flat, chosen, result):
    """Yield (matrix, its rows of activations, their products, where these go) for each expert that has rows."""
    ids = chosen.reshape(-1)
    source = np.arange(len(ids)) // max(1, len(ids) // len(flat))
    for matrix in np.unique(ids):
        places = np.flatnonzero(ids == matrix)
        yield int(matrix), flat[source[places]], np.empty((len(places), result.shape[1]), np.float32), (result, places)


def _multiply(w: Weights, groups: "list[Any]", threads: int) -> None:
    qtype = registry.get(w.type_id)
    n_rows, cols = w.shape[-2:]
    data = w.data.reshape(-1, n_rows, w.data.shape[-1])
    parameters = w.parameters
    items = []
    for matrix, flat, product, _ in groups:
        codec = qtype.codec_for(parameters, TensorContext(w.name, w.shape, expert=matrix))
        step = max(1, (TILE_OF_MANY if len(flat) >= MANY else TILE_OF_FEW) // cols)
        items += [(codec, data[matrix, a : a + step], flat, product[:, a : a + step]) for a in range(0, n_rows, step)]
    local = threading.local()

    def work(item: "tuple[RowCodec, NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]") -> None:
        codec, encoded, flat, product = item
        tile = _tile(local, len(encoded) * cols).reshape(len(encoded), cols)
        decode_slab(qtype, codec, np.ascontiguousarray(encoded), tile, tensor=w.name)
        np.matmul(flat, tile.T, out=product)

    with one_blas_thread():
        if min(threads, len(items)) == 1:
            for item in items:
                work(item)
        else:
            with ThreadPoolExecutor(min(threads, len(items))) as pool:
                for _ in pool.map(work, items):
                    pass
    for _, _, product, place in groups:
        if place is not None:
            place[0][place[1]] = product


def _tile(local: threading.local, size: int) -> "NDArray[np.float32]":
    have = getattr(local, "tile", None)
    if have is None or len(have) < size:
        have = local.tile = np.empty(size, np.float32)
    return have[:size]


# ---- threads of BLAS ----


@cache
def _blas() -> "ThreadpoolController":
    from threadpoolctl import ThreadpoolController  # slow to load, and reading a file does not need it

    return ThreadpoolController().select(user_api="blas")


_lock = threading.Lock()
_users = 0
_limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread per call while any block of this kind runs; its setting comes back after the last."""
    global _users, _limit
    with _lock:
        if not _users:
            _limit = _blas().limit(limits=1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _limit.restore_original_limits()
