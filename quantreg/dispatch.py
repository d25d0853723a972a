"""Whole arrays: any shape and dtype in, type id -> QuantType -> codec, rows split over threads."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from quantreg.errors import CodecError, NonFiniteError, PluginError, ShapeError
from quantreg.registry import registry, types
from quantreg_kernels._run import first_nonfinite

__all__ = ["cpu_count", "dequantize", "quantize"]

SLAB_WEIGHTS = 1 << 18  # weights an encoder's work item: 1 MiB of float32 stays in cache from conversion to encoding
DECODE_SLAB_WEIGHTS = 1 << 20  # a decoder's: its output is written once, so that fewer calls win
STREAM_BYTES = 1 << 25  # results of 32 MiB and more are written past the caches, which would not hold them
PLAIN = ("C_CONTIGUOUS", "ALIGNED")  # what compiled codecs take


def cpu_count() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quantize(x, qtype, importance=None, threads=None, *, tensor=None) -> np.ndarray:
    """Encode an array of weights; returns its bytes.

    x: array of shape (..., cols), float32, float16, bfloat16 or float64 (integers are converted), any memory layout.
    qtype: name, GGUF type id or QuantType. importance: None; column statistics, float32 (cols,) or x.shape[:-2] +
    (cols,) for experts; or the error weights themselves, of x.shape. threads: default all processors. tensor: name
    handed to the score_importance hook. Returns uint8 (..., row_bytes): the last axis in weights becomes bytes. The
    bytes do not depend on threads. Raises UnknownTypeError; ShapeError for sizes; CodecError if the type needs
    importance and has none; NonFiniteError, naming the row, for NaN, infinity, or values that overflow the type's
    scales.
    """
    qtype = types[qtype]
    x = np.asarray(x)
    if x.ndim == 0:
        raise ShapeError("x must have at least one dimension: the last one holds the rows of weights")
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        raise ShapeError(f"x has dtype {x.dtype}, expected a float or integer type")
    codec = qtype.codec
    if not codec.can_encode:
        raise CodecError(f"{qtype.name} can only be decoded")
    row_bytes = qtype.row_bytes(x.shape[-1])
    out = np.empty((*x.shape[:-1], row_bytes), np.uint8)
    if qtype.requires_importance and importance is None:
        raise CodecError(
            f"{qtype.name} cannot be encoded without importance: pass importance=, column statistics of shape "
            f"({x.shape[-1]},) as llama-imatrix collects them"
        )
    if x.size == 0:
        out[...] = 0  # row headers may be left
        return out
    matrices, kind = _split_importance(x, importance)
    scorer = registry.scorer(qtype) if kind != "weights" else None
    x = x.reshape(-1, x.shape[-2] if kind == "columns" and x.ndim > 1 else _rows(x), x.shape[-1])
    flat = out.reshape(x.shape[0], x.shape[1], row_bytes)

    def encode(matrix, first, last):
        weights = None
        if kind == "columns":
            weights = matrices[matrix]
        elif kind == "weights":
            weights = np.require(matrices.reshape(x.shape)[matrix, first:last], np.float32, PLAIN)
        rows = _float32(x[matrix, first:last])
        first_row = matrix * x.shape[1] + first
        encode_slab(
            qtype,
            rows,
            flat[matrix, first:last],
            weights,
            scorer=scorer,
            first_row=first_row,
            tensor=tensor,
        )

    _run(encode, x.shape, threads, SLAB_WEIGHTS)
    return out


def dequantize(data, qtype, dtype=np.float32, out=None, threads=None) -> np.ndarray:
    """Decode bytes; returns weights.

    data: uint8 (..., row_bytes), or any bytes-like object, taken as one row. qtype: name, GGUF type id or QuantType.
    dtype: of the result. out: array of shape (..., cols) to fill instead, of any float dtype. threads: default all
    processors. Raises UnknownTypeError; ShapeError for sizes.
    """
    qtype = types[qtype]
    if not isinstance(data, np.ndarray):
        data = np.frombuffer(data, np.uint8) if isinstance(data, (bytes, bytearray, memoryview)) else np.asarray(data)
    if data.ndim == 0 or data.dtype.itemsize != 1:
        raise ShapeError(f"data must be uint8 of shape (..., row_bytes), not {data.dtype} of shape {data.shape}")
    cols = qtype.row_weights(data.shape[-1])
    shape = (*data.shape[:-1], cols)
    if out is None:
        out = np.empty(shape, dtype)
    elif out.shape != shape:
        raise ShapeError(f"out has shape {out.shape}, the data decodes to {shape}")
    if out.size == 0:
        return out
    source = data.view(np.uint8) if data.dtype != np.uint8 else data
    source = source.reshape(1, -1, data.shape[-1])
    in_place = out.dtype == np.float32 and out.flags.carray
    target = out.reshape(1, -1, cols) if in_place else None

    def decode(matrix, first, last):
        rows = np.ascontiguousarray(source[matrix, first:last])
        if in_place:
            decode_slab(qtype, rows, target[matrix, first:last], stream=out.nbytes >= STREAM_BYTES)
            return
        slab = np.empty((last - first, cols), np.float32)
        decode_slab(qtype, rows, slab)
        _assign(out, first, slab)

    _run(decode, (1, source.shape[1], cols), threads, DECODE_SLAB_WEIGHTS)
    return out


# ---- slabs: what the pipeline shares ----


def encode_slab(qtype, rows, out, importance=None, *, scorer=None, first_row=0, tensor=None) -> None:
    """Encode float32 (rows, cols) into uint8 (rows, row_bytes).

    importance: None, column statistics (cols,) or error weights (rows, cols). scorer: the score_importance hook that
    may give others (see `Registry.scorer`). NonFiniteError names ``tensor`` and the row, counted from first_row.
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


def decode_slab(qtype, data, out, stream=False) -> None:
    """Decode uint8 (rows, row_bytes) into float32 (rows, cols); stream: past the caches."""
    qtype.codec.decode_rows(data, out, stream)


# ---- rows ----


def _rows(x):
    return int(np.prod(x.shape[:-1], dtype=np.int64)) if x.ndim > 1 else 1


def rows_per_slab(n_cols: int, weights: int) -> int:
    """How many rows of n_cols weights make a slab of about this many weights; at least one."""
    return max(1, weights // max(1, n_cols))


def _run(work, shape, threads, slab):
    """Call work(matrix, first row, last row) for slabs of about `slab` weights that never cross a matrix."""
    matrices, rows, cols = shape
    step = rows_per_slab(cols, slab)
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


def _float32(rows):
    if rows.dtype.name == "bfloat16":
        rows = (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if rows.dtype == np.float64:
        with np.errstate(over="ignore"):  # what overflows is reported as infinity, with its row
            rows = rows.astype(np.float32)
    return np.require(rows, np.float32, PLAIN)


def _assign(out, first, slab):
    """Rows from `first` on, counted over all leading axes, of an array of any layout and dtype."""
    if out.ndim == 1:
        out[...] = slab[0]
        return
    for i, row in enumerate(slab):
        out[np.unravel_index(first + i, out.shape[:-1])] = row


# ---- importance ----


def _split_importance(x, importance):
    """(float32 array, "columns" | "weights" | None); columns are (matrices, cols)."""
    if importance is None:
        return None, None
    importance = np.asarray(importance)
    cols = x.shape[-1]
    if importance.shape == (cols,) and x.ndim != 1:
        count = int(np.prod(x.shape[:-2], dtype=np.int64))
        values, kind = np.broadcast_to(np.require(importance, np.float32, PLAIN), (count, cols)), "columns"
    elif x.ndim == 1 and importance.shape == x.shape:
        values, kind = np.require(importance, np.float32, PLAIN).reshape(1, cols), "columns"
    elif importance.shape == (*x.shape[:-2], cols):
        values, kind = np.require(importance, np.float32, PLAIN).reshape(-1, cols), "columns"
    elif importance.shape == x.shape:
        values, kind = importance, "weights"
    else:
        raise ShapeError(
            f"importance has shape {importance.shape}, expected ({cols},) or {(*x.shape[:-2], cols)} (column "
            f"statistics) or {x.shape} (error weights)"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise NonFiniteError("importance holds NaN, infinity or negative values")
    return values, kind


def _ask_scorer(scorer, qtype, tensor, rows, columns):
    try:
        weights = scorer(qtype=qtype, tensor=tensor, weights=rows, columns=columns)
        if weights is None:
            return columns
        weights = np.require(weights, np.float32, PLAIN)
    except Exception as error:  # the function is a plugin's: anything may come out of it
        raise PluginError(f"{tensor or 'a tensor'}, {registry.failed('score_importance', error)}") from error
    if weights.shape not in ((rows.shape[1],), rows.shape):
        expected = f"({rows.shape[1]},) or {rows.shape}"
        raise ShapeError(f"score_importance returned shape {weights.shape}, expected {expected}")
    if first_nonfinite(np.atleast_2d(weights)) >= 0 or weights.min(initial=0) < 0:
        raise NonFiniteError(f"{tensor or 'a tensor'}: score_importance returned NaN, infinity or negative values")
    return weights


def _explain(error, qtype, tensor):
    if not hasattr(error, "row"):
        return error
    where = f"{tensor}: row {error.row}" if tensor else f"row {error.row}"
    if error.column is not None:
        return NonFiniteError(f"{where} holds NaN or infinity at column {error.column}")
    return NonFiniteError(f"{where} holds values too large for {qtype.name}: a scale overflows half precision")
