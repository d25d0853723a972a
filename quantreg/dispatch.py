"""Quantize and dequantize whole arrays: find the codec of a type, and split the rows over threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

import numpy as np

from quantreg.errors import CodecError, NonFiniteError, PluginError, ShapeError
from quantreg.qtype import QuantType
from quantreg.registry import registry, types
from quantreg_kernels._run import first_nonfinite

if TYPE_CHECKING:
    from typing import SupportsIndex

    from numpy.typing import ArrayLike, DTypeLike, NDArray
    from typing_extensions import Buffer

    TypeKey: TypeAlias = str | SupportsIndex | QuantType
    Scalar = TypeVar("Scalar", bound=np.generic)

__all__ = ["cpu_count", "dequantize", "quantize"]

SLAB_WEIGHTS: int = 1 << 18  # weights per slab of an encoder: 1 MiB of float32 stays in cache until it is encoded
DECODE_SLAB_WEIGHTS: int = 1 << 20  # of a decoder: it writes its output once, so fewer calls are faster
STREAM_BYTES: int = 1 << 25  # results from 32 MiB on are written around the caches, which are too small for them
# The memory layout that compiled codecs accept.
_PLAIN: tuple[Literal["C_CONTIGUOUS"], Literal["ALIGNED"]] = ("C_CONTIGUOUS", "ALIGNED")


def cpu_count() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quantize(
    x: "ArrayLike",
    qtype: "TypeKey",
    importance: "ArrayLike | None" = None,
    threads: int | None = None,
    *,
    tensor: str | None = None,
) -> "NDArray[np.uint8]":
    """Encode an array of weights and return its bytes: uint8 of shape (..., bytes per row).

    - ``x``: float32, float16, bfloat16, float64 or integers, of shape (..., cols), in any memory layout.
    - ``qtype``: the name, the GGUF type id, or the QuantType.
    - ``importance``: None; column statistics, of shape (cols,), or x.shape[:-2] + (cols,) with one row per expert; or
      error weights, of the shape of x. Converted to float32.
    - ``threads``: how many threads encode; by default as many as processors. The bytes do not depend on it.
    - ``tensor``: the name that the hook score_importance and error messages get.

    Raises UnknownTypeError; ShapeError for a wrong shape or dtype; CodecError if the type has no encoder, or needs
    importance and has none; NonFiniteError, with the row, for NaN, infinity, or values that overflow the scales of the
    type.
    """
    found = types[qtype]
    x = np.asarray(x)
    if x.ndim == 0:
        raise ShapeError("x must have at least one dimension: the last one is the weights of a row")
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        raise ShapeError(f"x has dtype {x.dtype}: convert it to a float or integer type")
    if not found.codec.can_encode:
        raise CodecError(f"{found.name} can only be decoded: choose another type")
    row_bytes = found.row_bytes(x.shape[-1])
    out = np.empty((*x.shape[:-1], row_bytes), np.uint8)
    if found.requires_importance and importance is None:
        raise CodecError(
            f"{found.name} cannot be encoded without importance: pass importance=, column statistics of shape "
            f"({x.shape[-1]},) as llama-imatrix collects them"
        )
    if x.size == 0:
        out[...] = 0  # rows without weights may still have headers
        return out
    given = None if importance is None else _check_importance(x, importance)
    scorer = registry.scorer(found) if given is None or given[1] == "columns" else None
    by_matrix = given is not None and given[1] == "columns" and x.ndim > 1
    slabs = x.reshape(-1, x.shape[-2] if by_matrix else _rows(x), x.shape[-1])
    flat = out.reshape(slabs.shape[0], slabs.shape[1], row_bytes)

    def encode(matrix: int, first: int, last: int) -> None:
        weights = None
        if given is not None:
            values, kind = given
            if kind == "columns":
                weights = values[matrix]
            else:
                weights = np.require(values.reshape(slabs.shape)[matrix, first:last], np.float32, _PLAIN)
        encode_slab(
            found,
            _float32(slabs[matrix, first:last]),
            flat[matrix, first:last],
            weights,
            scorer=scorer,
            first_row=matrix * slabs.shape[1] + first,
            tensor=tensor,
        )

    _run(encode, slabs.shape, threads, SLAB_WEIGHTS)
    return out


@overload
def dequantize(
    data: "Buffer | ArrayLike",
    qtype: "TypeKey",
    dtype: type[np.float32] = ...,
    out: None = None,
    threads: int | None = None,
) -> "NDArray[np.float32]": ...
@overload
def dequantize(
    data: "Buffer | ArrayLike",
    qtype: "TypeKey",
    dtype: "DTypeLike" = ...,
    *,
    out: "NDArray[Scalar]",
    threads: int | None = None,
) -> "NDArray[Scalar]": ...
@overload
def dequantize(
    data: "Buffer | ArrayLike",
    qtype: "TypeKey",
    dtype: "DTypeLike" = ...,
    out: "NDArray[Any] | None" = None,
    threads: int | None = None,
) -> "NDArray[Any]": ...
def dequantize(
    data: "Buffer | ArrayLike",
    qtype: "TypeKey",
    dtype: "DTypeLike" = np.float32,
    out: "NDArray[Any] | None" = None,
    threads: int | None = None,
) -> "NDArray[Any]":
    """Decode bytes and return the weights: an array of shape (..., cols).

    - ``data``: uint8 of shape (..., bytes per row), or a bytes-like object that holds one row.
    - ``qtype``: the name, the GGUF type id, or the QuantType.
    - ``dtype``: of the result; ignored if ``out`` is given.
    - ``out``: an array of shape (..., cols), of any float dtype and memory layout, to fill and return.
    - ``threads``: how many threads decode; by default as many as processors.

    Raises UnknownTypeError, and ShapeError for a wrong shape or dtype.
    """
    found = types[qtype]
    source = np.frombuffer(data, np.uint8) if isinstance(data, (bytes, bytearray, memoryview)) else np.asarray(data)
    if source.ndim == 0 or source.dtype.itemsize != 1:
        raise ShapeError(
            f"data must be uint8 of shape (..., bytes per row), not {source.dtype} of shape {source.shape}: pass what "
            "quantreg.quantize returns"
        )
    cols = found.row_weights(source.shape[-1])
    shape = (*source.shape[:-1], cols)
    if out is None:
        out = np.empty(shape, dtype)
    elif out.shape != shape:
        raise ShapeError(
            f"out has shape {out.shape}, but the data decodes to shape {shape}: pass an array of that shape"
        )
    if out.size == 0:
        return out
    rows = (source.view(np.uint8) if source.dtype != np.uint8 else source).reshape(1, -1, source.shape[-1])
    target = out.reshape(1, -1, cols) if out.dtype == np.float32 and out.flags.carray else None

    def decode(matrix: int, first: int, last: int) -> None:
        slab = np.ascontiguousarray(rows[matrix, first:last])
        if target is not None:
            decode_slab(found, slab, target[matrix, first:last], stream=out.nbytes >= STREAM_BYTES)
            return
        decoded = np.empty((last - first, cols), np.float32)
        decode_slab(found, slab, decoded)
        _assign(out, first, decoded)

    _run(decode, (1, rows.shape[1], cols), threads, DECODE_SLAB_WEIGHTS)
    return out


# ---- slabs, also used by the jobs on files ----


def encode_slab(
    qtype: QuantType,
    rows: "NDArray[np.float32]",
    out: "NDArray[np.uint8]",
    importance: "NDArray[np.float32] | None" = None,
    *,
    scorer: "Callable[..., Any] | None" = None,
    first_row: int = 0,
    tensor: str | None = None,
) -> None:
    """Encode rows, float32 (rows, cols), into out, uint8 (rows, bytes per row).

    ``importance`` is None, column statistics (cols,) or error weights (rows, cols). ``scorer`` is the hook
    score_importance, which may replace it (see `Registry.scorer`). Raises NonFiniteError, which names ``tensor`` and
    the row, counted from ``first_row``; PluginError if the scorer fails; ShapeError if its result has a wrong shape.
    """
    if rows.size == 0:
        out[...] = 0
        return
    if scorer is not None:
        importance = _ask_scorer(scorer, qtype, tensor, rows, importance)
    try:
        qtype.codec.encode_rows(rows, out, importance, first_row)
    except ValueError as error:
        raise _explain(error, qtype, tensor) from None


def decode_slab(qtype: QuantType, data: "NDArray[np.uint8]", out: "NDArray[np.float32]", stream: bool = False) -> None:
    """Decode data, uint8 (rows, bytes per row), into out, float32 (rows, cols); ``stream`` writes around the caches."""
    qtype.codec.decode_rows(data, out, stream)


# ---- rows ----


def _rows(x: "NDArray[Any]") -> int:
    return int(np.prod(x.shape[:-1], dtype=np.int64)) if x.ndim > 1 else 1


def rows_per_slab(n_cols: int, weights: int) -> int:
    """Return how many rows of n_cols weights make a slab of about this many weights: at least one."""
    return max(1, weights // max(1, n_cols))


def _run(
    work: "Callable[[int, int, int], None]", shape: tuple[int, ...], threads: int | None, slab_weights: int
) -> None:
    """Call work(matrix, first row, last row) for slabs of about slab_weights weights. A slab lies in one matrix."""
    matrices, rows, cols = shape
    step = rows_per_slab(cols, slab_weights)
    items = [(m, r, min(r + step, rows)) for m in range(matrices) for r in range(0, rows, step)]
    threads = min(threads or cpu_count(), len(items))
    if threads <= 1:
        for item in items:
            work(*item)
        return
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, *item) for item in items]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


def _float32(rows: "NDArray[Any]") -> "NDArray[np.float32]":
    if rows.dtype.name == "bfloat16":
        rows = (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if rows.dtype == np.float64:
        with np.errstate(over="ignore"):  # an overflow becomes infinity, which is reported with its row
            rows = rows.astype(np.float32)
    return np.require(rows, np.float32, _PLAIN)


def _assign(out: "NDArray[Any]", first: int, slab: "NDArray[np.float32]") -> None:
    """Assign rows from ``first`` on, counted over all leading axes of out, which may have any layout and dtype."""
    if out.ndim == 1:
        out[...] = slab[0]
        return
    for i, row in enumerate(slab):
        out[np.unravel_index(first + i, out.shape[:-1])] = row


# ---- importance ----


def _check_importance(
    x: "NDArray[Any]", importance: "ArrayLike"
) -> "tuple[NDArray[Any], Literal['columns', 'weights']]":
    """Return (values, kind). Column statistics become float32 (matrices, cols); error weights stay as they are."""
    kind: Literal["columns", "weights"] = "columns"
    given = np.asarray(importance)
    cols = x.shape[-1]
    if given.shape == (cols,) and x.ndim != 1:
        count = int(np.prod(x.shape[:-2], dtype=np.int64))
        values = np.broadcast_to(np.require(given, np.float32, _PLAIN), (count, cols))
    elif x.ndim == 1 and given.shape == x.shape:
        values = np.require(given, np.float32, _PLAIN).reshape(1, cols)
    elif given.shape == (*x.shape[:-2], cols):
        values = np.require(given, np.float32, _PLAIN).reshape(-1, cols)
    elif given.shape == x.shape:
        values, kind = given, "weights"
    else:
        raise ShapeError(
            f"importance has shape {given.shape}, expected ({cols},) or {(*x.shape[:-2], cols)} for column statistics, "
            f"or {x.shape} for error weights"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise NonFiniteError("importance holds NaN, infinity or negative values: replace them, for example by 0")
    return values, kind


def _ask_scorer(
    scorer: "Callable[..., Any]",
    qtype: QuantType,
    tensor: str | None,
    rows: "NDArray[np.float32]",
    columns: "NDArray[np.float32] | None",
) -> "NDArray[np.float32] | None":
    try:
        answer = scorer(qtype=qtype, tensor=tensor, weights=rows, columns=columns)
        if answer is None:
            return columns
        weights = np.require(answer, np.float32, _PLAIN)
    except Exception as error:  # the function belongs to a plugin and may raise anything
        raise PluginError(f"{tensor or 'a tensor'}, {registry.failed('score_importance', error)}") from error
    if weights.shape not in ((rows.shape[1],), rows.shape):
        expected = f"({rows.shape[1]},) or {rows.shape}"
        raise ShapeError(f"score_importance returned shape {weights.shape}, expected {expected}: repair the plugin")
    if first_nonfinite(np.atleast_2d(weights)) >= 0 or weights.min(initial=0) < 0:
        raise NonFiniteError(
            f"{tensor or 'a tensor'}: score_importance returned NaN, infinity or negative values: repair the plugin"
        )
    return weights


def _explain(error: ValueError, qtype: QuantType, tensor: str | None) -> ValueError:
    """Turn a codec's RowError into a NonFiniteError that names the tensor; return any other error as it is."""
    if not hasattr(error, "row"):
        return error
    where = f"{tensor}: row {error.row}" if tensor else f"row {error.row}"
    column = getattr(error, "column", None)
    if column is not None:
        return NonFiniteError(f"{where} holds NaN or infinity at column {column}: repair or replace the weights")
    if qtype.name == "F16":
        return NonFiniteError(f"{where} holds values too large for F16, whose range ends at 65504: choose BF16 or F32")
    return NonFiniteError(
        f"{where} holds values too large for {qtype.name}: a scale overflows half precision; choose another type"
    )
