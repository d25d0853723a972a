"""Quantize and dequantize whole arrays: find the codec of a type, and split the rows over threads."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

import numpy as np

from quantreg.arrays import as_array, as_dtype, check_holds_weights, check_numbers, exact_bytes
from quantreg.errors import CodecError, LossWarning, QuantregError, ShapeError, UnknownTypeError
from quantreg.faults import PLUGIN_ERRORS, codec_error, row_error, unknown_elsewhere
from quantreg.ggml import EXACT_TYPES, TypeLayout
from quantreg.loss import Loss, explain, has_limit, is_lost, measured
from quantreg.parameters import TensorContext
from quantreg.qtype import QuantType
from quantreg.registry import registry, types
from quantreg.scores import are_foreign, ask_scorer, check_codec_scores, check_importance

if TYPE_CHECKING:
    from typing import SupportsIndex

    from numpy.typing import ArrayLike, DTypeLike, NDArray
    from typing_extensions import Buffer

    from quantreg.codec import RowCodec
    from quantreg.parameters import Fitted

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
    parameters: "Fitted | None" = None,
    executor: Executor | None = None,
) -> "NDArray[np.uint8]":
    """Encode an array of weights and return its bytes: uint8 of shape (..., bytes per row).

    - ``x``: float32, float16, bfloat16, float8, float64 or integers, of shape (..., cols), in any memory layout: a
      NumPy array, a torch tensor on the CPU, a list, or a QuantizedTensor, which is decoded.
    - ``qtype``: the name, the GGUF type id, or the QuantType.
    - ``importance``: None; column statistics, of shape (cols,), or x.shape[:-2] + (cols,) with one row per expert; or
      error weights, of the shape of x. Converted to float32. Ones are used, with a RuntimeWarning, for a row that is
      all zeros: it says nothing, and most types would lose the weights.
    - ``threads``: how many threads encode; by default as many as processors. The bytes do not depend on it.
    - ``tensor``: the name that codecs, the hook score_importance and error messages get.
    - ``parameters``: what `quantreg.fit` returned, for a type that fits parameters to the tensor; else None.
    - ``executor``: any `concurrent.futures.Executor`; by default a pool of threads. With processes, a codec in Python
      uses all processors. The processes get copies of the rows, and find the type by its name.

    Raises UnknownTypeError; ShapeError for a wrong shape or dtype; CodecError if the type has no encoder, or needs
    importance or parameters and has none; NonFiniteError, with the row, for NaN, infinity, or values that overflow the
    scales of the type. Warns with LossWarning if the type cannot hold the weights, so that nearly all is lost.
    """
    check_executor(executor)
    found = types[qtype]
    if tensor is None and hasattr(x, "type_name"):
        tensor = getattr(x, "name", None)  # of a QuantizedTensor
    x = as_array(x, "x")
    if x.ndim == 0:
        raise ShapeError("x must have at least one dimension, the weights of a row: pass x.reshape(1), for example")
    check_numbers(x, "x")
    if not found.codec.can_encode:
        raise CodecError(f"{found.name} can only be decoded: choose another type")
    row_bytes = found.row_bytes(x.shape[-1])
    if importance is None and parameters is None and (exact := exact_bytes(x, EXACT_TYPES.get(found.name))) is not None:
        return exact
    out = np.empty((*x.shape[:-1], row_bytes), np.uint8)
    if found.requires_importance and importance is None:
        raise CodecError(
            f"{found.name} cannot be encoded without importance: pass importance=, column statistics of shape "
            f"({x.shape[-1]},) as llama-imatrix collects them"
        )
    if x.size == 0:
        out[...] = 0  # rows without weights may still have headers
        return out
    given = None if importance is None else check_importance(x, importance, found, tensor)
    scorer = registry.scorer(found) if given is None or given[1] == "columns" else None
    by_matrix = x.ndim > 1 and ((given is not None and given[1] == "columns") or found.by_matrix)
    slabs = x.reshape(-1, x.shape[-2] if by_matrix else _rows(x), x.shape[-1])
    flat = out.reshape(slabs.shape[0], slabs.shape[1], row_bytes)
    codecs = _codecs(found, tensor, x.shape, slabs.shape[0], parameters)

    step = rows_per_slab(x.shape[-1], SLAB_WEIGHTS)
    losses: list[Loss] = []

    def importance_of(matrix: int, first: int, last: int) -> "NDArray[np.float32] | None":
        if given is None:
            return None
        values, kind = given
        if kind == "columns":
            return values[matrix]
        return np.require(values.reshape(slabs.shape)[matrix, first:last], np.float32, _PLAIN)

    def encode(matrix: int, first: int, last: int) -> None:
        weights, rows = importance_of(matrix, first, last), float32_rows(slabs[matrix, first:last])
        if executor is not None:
            context = TensorContext(tensor, x.shape, expert=matrix)
            work = (found.name, found.layout, rows, weights, parameters, context, matrix * slabs.shape[1] + first)
            flat[matrix, first:last], loss = _result(executor.submit(_encode_elsewhere, *work))
            losses.append(loss)
            return
        encode_slab(
            found,
            rows,
            flat[matrix, first:last],
            weights,
            scorer=scorer,
            first_row=matrix * slabs.shape[1] + first,
            tensor=tensor,
            codec=codecs[matrix],
        )
        if first // step % 4 == 0 or has_limit(codecs[matrix]):
            losses.append(measured(codecs[matrix], rows, flat[matrix, first:last]))

    _run(encode, slabs.shape, threads, SLAB_WEIGHTS)
    share = reduce(Loss.plus, losses, Loss()).share
    if share is not None and is_lost(share):
        warnings.warn(explain(tensor, found.name, share), LossWarning, stacklevel=2)
    return out


@overload
def dequantize(
    data: "Buffer | ArrayLike",
    qtype: "TypeKey",
    dtype: type[np.float32] = ...,
    out: None = None,
    threads: int | None = None,
    *,
    tensor: str | None = None,
    parameters: "Fitted | None" = None,
) -> "NDArray[np.float32]": ...
@overload
def dequantize(
    data: "Buffer | ArrayLike",
    qtype: "TypeKey",
    dtype: "DTypeLike" = ...,
    *,
    out: "NDArray[Scalar]",
    threads: int | None = None,
    tensor: str | None = None,
    parameters: "Fitted | None" = None,
) -> "NDArray[Scalar]": ...
@overload
def dequantize(
    data: "Buffer | ArrayLike",
    qtype: "TypeKey",
    dtype: "DTypeLike" = ...,
    out: "NDArray[Any] | None" = None,
    threads: int | None = None,
    *,
    tensor: str | None = None,
    parameters: "Fitted | None" = None,
) -> "NDArray[Any]": ...
def dequantize(
    data: "Buffer | ArrayLike",
    qtype: "TypeKey",
    dtype: "DTypeLike" = np.float32,
    out: "NDArray[Any] | None" = None,
    threads: int | None = None,
    *,
    tensor: str | None = None,
    parameters: "Fitted | None" = None,
) -> "NDArray[Any]":
    """Decode bytes and return the weights: an array of shape (..., cols).

    - ``data``: uint8 of shape (..., bytes per row), or a bytes-like object that holds one row.
    - ``qtype``: the name, the GGUF type id, or the QuantType.
    - ``dtype``: of the result: a float dtype or, for types that store integers, an integer dtype. Ignored if ``out``
      is given.
    - ``out``: an array of shape (..., cols), of such a dtype and any memory layout, to fill and return.
    - ``threads``: how many threads decode; by default as many as processors.
    - ``tensor``: the name that codecs and error messages get.
    - ``parameters``: what `quantreg.fit` returned for the tensor, if its type has parameters.

    Raises UnknownTypeError, ShapeError for a wrong shape or dtype, and CodecError if the type needs parameters.
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
        out = np.empty(shape, np.float32 if dtype is None else as_dtype(dtype))
    elif out.shape != shape:
        raise ShapeError(
            f"out has shape {out.shape}, but the data decodes to shape {shape}: pass an array of that shape"
        )
    exact_dtype = EXACT_TYPES.get(found.name)
    check_holds_weights(out.dtype, found.name, np.dtype(exact_dtype or np.float32))
    if out.size == 0:
        return out
    if exact_dtype and out.dtype != np.float32 and parameters is None:
        out[...] = np.ascontiguousarray(source).view(np.dtype(exact_dtype).newbyteorder("<"))
        return out
    rows = source.view(np.uint8) if source.dtype != np.uint8 else source
    rows = rows.reshape(-1, rows.shape[-2] if found.by_matrix and rows.ndim > 1 else _rows(rows), rows.shape[-1])
    codecs = _codecs(found, tensor, shape, rows.shape[0], parameters)
    target = out.reshape(*rows.shape[:2], cols) if out.dtype == np.float32 and out.flags.carray else None

    def decode(matrix: int, first: int, last: int) -> None:
        slab = np.ascontiguousarray(rows[matrix, first:last])
        if target is not None:
            decode_slab(
                found, codecs[matrix], slab, target[matrix, first:last], out.nbytes >= STREAM_BYTES, tensor=tensor
            )
            return
        decoded = np.empty((last - first, cols), np.float32)
        decode_slab(found, codecs[matrix], slab, decoded, tensor=tensor)
        _assign(out, matrix * rows.shape[1] + first, decoded)

    _run(decode, (*rows.shape[:2], cols), threads, DECODE_SLAB_WEIGHTS)
    return out


# ---- slabs, also used by the jobs on files ----


def check_executor(executor: object) -> None:
    """Raise TypeError if a caller's executor is not one, before any work is done."""
    if executor is not None and (isinstance(executor, type) or not hasattr(executor, "submit")):
        raise TypeError(
            f"executor is {executor!r:.60}: pass a concurrent.futures.Executor, as in ThreadPoolExecutor(4)"
        )


def _result(future: "Future[Any]") -> Any:
    try:
        return future.result()
    except BrokenExecutor as error:
        raise QuantregError(
            f"a worker of the executor died ({error}): try again without executor=, to see what ends it"
        ) from error


def _encode_elsewhere(
    name: str,
    layout: TypeLayout,
    rows: "NDArray[np.float32]",
    importance: "NDArray[np.float32] | None",
    parameters: "Fitted | None",
    context: TensorContext,
    first_row: int,
) -> "tuple[NDArray[np.uint8], Loss]":
    """Encode a slab for an executor whose workers may be other processes. They know types by name only."""
    try:
        qtype = types[name]
    except UnknownTypeError as error:
        raise unknown_elsewhere(error) from None
    if qtype.layout != layout:
        raise CodecError(f"a worker of the executor knows another type {name}: install the same plugins everywhere")
    out = np.empty((len(rows), qtype.row_bytes(rows.shape[1])), np.uint8)
    by_columns = importance is None or importance.ndim == 1
    codec = qtype.codec_for(parameters, context if qtype.by_matrix else None)
    scorer = registry.scorer(qtype) if by_columns else None
    encode_slab(qtype, rows, out, importance, scorer=scorer, first_row=first_row, tensor=context.name, codec=codec)
    return out, measured(codec, rows, out)


def encode_slab(
    qtype: QuantType,
    rows: "NDArray[np.float32]",
    out: "NDArray[np.uint8]",
    importance: "NDArray[np.float32] | None" = None,
    *,
    scorer: "Callable[..., Any] | None" = None,
    first_row: int = 0,
    tensor: str | None = None,
    codec: "RowCodec | None" = None,
) -> None:
    """Encode rows, float32 (rows, cols), into out, uint8 (rows, bytes per row).

    ``importance`` is None, column statistics (cols,) or error weights (rows, cols). ``scorer`` is the hook
    score_importance, which may replace it (see `Registry.scorer`). ``codec`` is what `QuantType.codec_for` returned, by
    default the type's own. Raises NonFiniteError, which names ``tensor`` and the row, counted from ``first_row``;
    PluginError if the scorer fails; ShapeError if its result has a wrong shape; CodecError, which names ``tensor``, if
    the codec fails, or scores weights with NaN, infinity or negative values.
    """
    if rows.size == 0:
        out[...] = 0
        return
    if scorer is not None:
        importance = ask_scorer(scorer, qtype, tensor, rows, importance)
    if importance is not None and importance.ndim == 1 and are_foreign(qtype):
        check_codec_scores(qtype, rows, importance, tensor)
    try:
        (codec or qtype.codec).encode_rows(rows, out, importance, first_row)
    except PLUGIN_ERRORS as error:
        if hasattr(error, "row"):
            raise row_error(error, qtype.name, tensor) from None
        raise codec_error(error, "encoding", qtype.name, tensor) from error


def decode_slab(
    qtype: QuantType,
    codec: "RowCodec",
    data: "NDArray[np.uint8]",
    out: "NDArray[np.float32]",
    stream: bool = False,
    *,
    tensor: str | None = None,
) -> None:
    """Decode data, uint8 (rows, bytes per row), into out, float32 (rows, cols); ``stream`` writes around the caches.

    ``codec`` is what `QuantType.codec_for` returned. Raises CodecError, which names ``tensor``, if it fails.
    """
    try:
        codec.decode_rows(data, out, stream)
    except PLUGIN_ERRORS as error:
        raise codec_error(error, "decoding", qtype.name, tensor) from error


# ---- matrices and rows ----


def _codecs(
    qtype: QuantType, tensor: str | None, shape: tuple[int, ...], count: int, parameters: "Fitted | None"
) -> "list[RowCodec]":
    """The codec of each of ``count`` matrices of an array."""
    if parameters is None and not qtype.by_matrix:
        return [qtype.codec_for(None)] * count
    if parameters is not None and qtype.parameters is not None:
        parameters = qtype.parameters.checked(qtype.name, parameters, TensorContext(tensor, shape))
    return [qtype.codec_for(parameters, TensorContext(tensor, shape, expert=i)) for i in range(count)]


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


def float32_rows(rows: "NDArray[Any]") -> "NDArray[np.float32]":
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
