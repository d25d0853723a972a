"""Products with quantized weights: few rows of activations at once with the encoded bytes, many with decoded tiles."""

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.arrays import as_array
from quantreg.dispatch import cpu_count, decode_slab
from quantreg.errors import ShapeError
from quantreg.parameters import TensorContext
from quantreg.products import crew
from quantreg.products.blas import one_blas_thread
from quantreg.products.weights import Pair, prepared

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from quantreg.dispatch import TypeKey
    from quantreg.products.weights import Prepared, Weights

__all__ = ["matmul"]

# From so many rows of activations on, decoded tiles go to BLAS. For fewer, a codec that can multiplies encoded rows.
MANY = 8
# Weights per tile. BLAS copies the activations once for each tile, so a tile for many rows is large; but there is one
# for each processor, if the matrix is not small. A tile for a few rows is read once after it is decoded, and best stays
# in the inner cache. The partition depends on the shapes and the machine, so the results do not depend on the threads.
TILE_OF_MANY, TILE_OF_FEW = 1 << 23, 1 << 16
LEAST_ROWS = 256
# Weights times rows of activations that are worth a thread: it takes longer to wake it than to multiply fewer.
PER_THREAD = 1 << 17


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
    if isinstance(w, tuple):
        w = Pair(*w)
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
    _multiply(prepared(w), w.name, groups, threads or cpu_count())
    return out


def _activations(x: "ArrayLike", w: "Weights") -> "NDArray[np.float32]":
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


def _chosen(rows: "NDArray[np.float32]", w: "Weights", expert: "ArrayLike | None") -> "NDArray[np.intp] | None":
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


def _multiply(w: "Prepared", name: str, groups: "list[Any]", threads: int) -> None:
    dots: list[Any] = []
    tiles: list[Any] = []
    for matrix, flat, product, _ in groups:
        codec = w.codec or w.qtype.codec_for(w.parameters, TensorContext(name, w.shape, expert=matrix))
        data, n_rows = w.data[matrix], w.shape[-2]
        if len(flat) < MANY and w.floats is None and getattr(codec, "has_dot", False):
            work = n_rows * flat.size
            step = n_rows if threads == 1 or work < 2 * PER_THREAD else _step(n_rows, work, threads)
            x = _aligned(flat)
            dots += [(codec, data, x, product, a, a + step) for a in range(0, n_rows, step)]
        else:
            step = _rows_per_tile(len(flat), n_rows, w.shape[-1])
            floats = None if w.floats is None else w.floats[matrix]
            tiles += [(codec, data, floats, flat, product, a, a + step) for a in range(0, n_rows, step)]

    def multiply(item: Any) -> None:
        codec, data, floats, flat, product, first, last = item
        if floats is None:
            encoded = np.ascontiguousarray(data[first:last])
            tile = _tile(encoded.shape[0], flat.shape[1])
            decode_slab(w.qtype, codec, encoded, tile, tensor=name)
        else:
            tile = floats[first:last]
        np.matmul(flat, tile.T, out=product[:, first:last])

    if dots:
        crew.run(_dot, dots, threads)
    if tiles:
        with one_blas_thread():
            crew.run(multiply, tiles, threads)
    for _, _, product, place in groups:
        if place is not None:
            place[0][place[1]] = product


def _dot(item: Any) -> None:
    codec, data, flat, product, first, last = item
    codec.dot_rows(data[first:last], flat, product[:, first:last])


def _step(n_rows: int, work: int, threads: int) -> int:
    """Rows per call of dot_rows: a few calls for each thread, because one may be slower than another."""
    calls = min(4 * threads, max(1, work // PER_THREAD))
    return -(-n_rows // calls)


def _rows_per_tile(n_x: int, n_rows: int, cols: int) -> int:
    if n_x < MANY:
        return max(1, TILE_OF_FEW // cols)
    processors = cpu_count()
    most = max(1, TILE_OF_MANY // cols)
    tiles = -(-n_rows // (most * processors)) * processors  # as many for each of them
    return min(most, max(LEAST_ROWS, -(-n_rows // tiles)))


def _aligned(x: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Activations that begin with a cache line: a codec reads them once for each row of weights."""
    if x.__array_interface__["data"][0] % 64 == 0:
        return x
    copy = _room(x.size).reshape(x.shape)
    copy[...] = x
    return copy


def _room(size: int) -> "NDArray[np.float32]":
    """New memory that begins with a cache line: loads and stores across two lines are slow."""
    room = np.empty(size + 16, np.float32)
    start = -room.__array_interface__["data"][0] % 64 // 4
    return room[start : start + size]


_local = threading.local()


def _tile(rows: int, cols: int) -> "NDArray[np.float32]":
    """Room for a tile. Each thread keeps its own: new memory of this size would cost a tenth of the time."""
    have: NDArray[np.float32] | None = getattr(_local, "tile", None)
    if have is None or len(have) < rows * cols:
        have = _room(rows * cols)
        if len(have) <= TILE_OF_MANY:
            _local.tile = have
    return have[: rows * cols].reshape(rows, cols)
