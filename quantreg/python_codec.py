"""PythonCodec: a quant format in plain NumPy, with the interface of a compiled codec."""

import inspect
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.arrays import read_only
from quantreg.errors import CodecError
from quantreg.faults import PLUGIN_ERRORS, describe
from quantreg.qtype import QuantType
from quantreg_kernels._run import RowError, first_nonfinite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.parameters import Fitted, TensorContext

__all__ = ["PythonCodec"]

EXTRAS: tuple[str, ...] = ("parameters", "context")  # keyword-only arguments that the functions may ask for


class PythonCodec:
    """A codec made of two NumPy functions: the way to try an idea in 30 lines before writing it in Cython.

    - ``encode(rows, importance)`` gets finite float32 rows of shape (rows, cols), where cols is a multiple of the block
      size, and the importance: float32 error weights of shape (rows, cols), or None. It returns uint8 of shape
      (rows, bytes per row). For a type that does not read importance write ``encode(rows)``; for a type that only
      decodes pass None.
    - ``decode(blocks)`` gets uint8 of shape (rows, bytes per row), with any bytes in it, and returns float32 of shape
      (rows, cols).
    - ``score(rows, columns)`` is optional. It turns column statistics of shape (cols,) into error weights of shape
      (rows, cols). Without it, each row uses the statistics as its error weights.

    A row consists of ``row_header_size`` bytes and then its blocks. The rows come in slabs of any number, so encode
    each row by itself. The arguments are contiguous and read-only, and floating-point warnings are off inside the
    functions::

        Q3 = quantreg.QuantType("MY_Q3", type_id=1042, block_size=32, type_size=14,
                                codec=lambda: quantreg.PythonCodec(Q3, encode, decode))

    ``encode``, ``decode`` and ``score`` may have keyword-only arguments: ``parameters``, which receives what the type
    fitted to the tensor (see `quantreg.Parameters`), and ``context``, which receives a `quantreg.TensorContext`. Both
    may be None.

    A row that decodes to NaN or infinity, because a scale overflows, is refused with its number. A function that fails
    or returns another shape or dtype raises CodecError.

    Python runs one thread at a time, so threads hardly help. To use all processors, pass ``executor=`` a
    ``ProcessPoolExecutor`` (`quantreg.quantize`, `quantreg.quantize_file`), or ``--processes`` to the command.

    The methods take arrays whose columns are contiguous. Rows may lie apart, as in ``x[::2]`` or ``x[:, 256:512]``.
    """

    level: str = "python"
    built: tuple[str, ...] = ("python",)
    abi: int | None = None

    def __init__(
        self,
        qtype: QuantType,
        encode: "Callable[..., NDArray[np.uint8]] | None",
        decode: "Callable[[NDArray[np.uint8]], NDArray[np.float32]]",
        score: "Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[Any]] | None" = None,
    ) -> None:
        self.qtype: QuantType = qtype
        self.type_id: int = qtype.type_id
        self.block_size: int = qtype.block_size
        self.type_size: int = qtype.type_size
        self.row_header_size: int = qtype.row_header_size
        self._encode, self._decode, self._score = encode, decode, score
        for name, function in (("encode", encode), ("decode", decode), ("score", score)):
            _check_arguments(qtype.name, name, function)
        self._weighted = encode is not None and _count_positional(encode) > 1
        functions = (encode, decode, score)
        self._extras = [() if f is None else tuple(n for n in EXTRAS if n in _keywords(f)) for f in functions]
        if any(self._extras):
            self._encode, self._decode, self._score = self._bound(functions, {})

    def bind(self, parameters: "Fitted | None", context: "TensorContext | None") -> "PythonCodec":
        """The codec for one matrix: its functions receive these parameters and this context, if they ask for them."""
        if not any(self._extras):
            return self
        bound = copy(self)
        fixed = None if parameters is None else {name: read_only(values) for name, values in parameters.items()}
        given = {"parameters": fixed, "context": context}
        bound._encode, bound._decode, bound._score = self._bound((self._encode, self._decode, self._score), given)
        return bound

    def _bound(self, functions: Sequence[Any], given: dict[str, Any]) -> list[Any]:
        return [
            partial(function, **{name: given.get(name) for name in extras}) if extras else function
            for function, extras in zip(functions, self._extras, strict=True)
        ]

    @property
    def wants_context(self) -> bool:
        """Whether a function asks for ``context``, and so needs to know which tensor and matrix its rows belong to."""
        return any("context" in extras for extras in self._extras)

    @property
    def can_encode(self) -> bool:
        """Whether there is an ``encode`` function."""
        return self._encode is not None

    @property
    def has_scorer(self) -> bool:
        """Whether ``encode`` takes importance."""
        return self._weighted

    def row_bytes(self, n_cols: int) -> int:
        """Bytes per row of n_cols weights. Raises ShapeError if n_cols is not a multiple of the block size."""
        return self.qtype.row_bytes(n_cols)

    def encode_rows(
        self,
        x: "NDArray[np.float32]",
        out: "NDArray[np.uint8]",
        importance: "NDArray[np.float32] | None" = None,
        first_row: int = 0,
    ) -> None:
        """Encode x, float32 (rows, cols), into out, uint8 (rows, bytes per row).

        ``importance`` is None, column statistics (cols,) or error weights (rows, cols), all float32. Raises RowError,
        whose row counts from ``first_row``, for NaN, infinity or an overflow; ValueError for a wrong shape or dtype,
        columns that are not contiguous, or rows of out that overlap; CodecError if a function fails; TypeError if there
        is no ``encode``.
        """
        if not self.can_encode:
            raise TypeError("this codec can only decode: give PythonCodec an encode function")
        _check(x, np.float32, "x")
        _check_written(out, np.uint8, "out")
        if out.shape != (x.shape[0], self.row_bytes(x.shape[1])):
            expected = (x.shape[0], self.row_bytes(x.shape[1]))
            raise ValueError(f"out has shape {out.shape}, expected {expected} for x of shape {x.shape}")
        if importance is not None:
            _check(importance, np.float32, "importance", importance.ndim)
            if importance.shape not in (x.shape[1:], x.shape):
                raise ValueError(f"importance has shape {importance.shape}, expected {x.shape[1:]} or {x.shape}")
        if x.size == 0:
            return
        bad = first_nonfinite(x)
        if bad >= 0:
            raise RowError(first_row + bad // x.shape[1], bad % x.shape[1])
        x = np.ascontiguousarray(x)
        if importance is not None:
            importance = np.ascontiguousarray(importance)
        if self._weighted and importance is not None and importance.ndim == 1:
            columns, importance = (
                importance,
                self._call("score", self._weights, (x, importance), first_row, x.shape, np.float32),
            )
            self._check_scores(importance, columns, first_row)
        data = self._call("encode", self._encode_once, (x, importance), first_row, out.shape, np.uint8)
        back = self._call("decode", self._decode_once, (data,), first_row, x.shape, np.float32)
        bad = first_nonfinite(np.require(back, requirements=["C", "A"]))
        if bad >= 0:
            raise RowError(first_row + bad // x.shape[1], None)
        out[...] = data

    def decode_rows(self, data: "NDArray[np.uint8]", out: "NDArray[np.float32]", stream: bool = False) -> None:
        """Decode data, uint8 (rows, bytes per row), into out, float32 (rows, cols). ``stream`` has no effect.

        Raises ValueError for a wrong shape or dtype, columns that are not contiguous, or rows of out that overlap;
        CodecError if ``decode`` fails.
        """
        _check(data, np.uint8, "data")
        _check_written(out, np.float32, "out")
        if data.shape != (out.shape[0], self.row_bytes(out.shape[1])):
            expected = (out.shape[0], self.row_bytes(out.shape[1]))
            raise ValueError(f"data has shape {data.shape}, expected {expected} for out of shape {out.shape}")
        if out.size:
            arrays = (np.ascontiguousarray(data),)
            out[...] = self._call("decode", self._decode_once, arrays, None, out.shape, np.float32)

    def score_rows(self, x: "NDArray[np.float32]", columns: "NDArray[np.float32]", out: "NDArray[np.float32]") -> None:
        """Write the error weights of the encoder to out: x and out float32 (rows, cols), columns float32 (cols,).

        Raises ValueError for a wrong shape or dtype, columns that are not contiguous, or rows of out that overlap;
        TypeError if ``encode`` takes no importance; CodecError if ``score`` fails.
        """
        if not self.has_scorer:
            raise TypeError("this type does not read importance: give PythonCodec an encode(rows, importance) function")
        _check(x, np.float32, "x")
        _check(columns, np.float32, "columns", 1)
        _check_written(out, np.float32, "out")
        if out.shape != x.shape or columns.shape != x.shape[1:]:
            raise ValueError(
                f"columns has shape {columns.shape} and out {out.shape}, expected {x.shape[1:]} and {x.shape}"
            )
        if x.size:
            arrays = (np.ascontiguousarray(x), np.ascontiguousarray(columns))
            out[...] = self._call("score", self._weights, arrays, None, x.shape, np.float32)

    def _check_scores(self, scores: "NDArray[np.float32]", columns: "NDArray[np.float32]", first_row: int) -> None:
        """Raise CodecError for scores that are negative or not finite, unless the statistics are so themselves."""
        bad = ~np.isfinite(scores) | (scores < 0)
        if bad.any() and np.isfinite(columns).all() and (columns >= 0).all():
            row, column = np.argwhere(bad)[0]
            raise CodecError(
                f"score of {self.qtype.name} returned {scores[row, column]} for row {first_row + row}, column "
                f"{column}: scores must be finite and not negative, so correct the function"
            )

    def _encode_once(
        self, rows: "NDArray[np.float32]", importance: "NDArray[np.float32] | None"
    ) -> "NDArray[np.uint8]":
        assert self._encode is not None  # encode_rows has checked it
        if not self._weighted:
            return self._encode(read_only(rows))
        return self._encode(read_only(rows), None if importance is None else read_only(importance))

    def _decode_once(self, data: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        return self._decode(read_only(data))

    def _weights(self, rows: "NDArray[np.float32]", columns: "NDArray[np.float32]") -> "NDArray[np.float32]":
        if self._score is None:
            return np.ascontiguousarray(np.broadcast_to(columns, rows.shape))
        return np.ascontiguousarray(self._score(read_only(rows), read_only(columns)), np.float32)

    def _call(
        self,
        name: str,
        function: Callable[..., object],
        arrays: Sequence[Any],
        first_row: int | None,
        shape: tuple[int, ...],
        dtype: type[np.generic],
    ) -> "NDArray[Any]":
        """Return function(*arrays) and check it. If it raises, name the first row that raises on its own.

        ``first_row`` is the number of the first row in its tensor, or None if the caller does not know it.
        """
        with np.errstate(all="ignore"):
            try:
                result = function(*arrays)
            except PLUGIN_ERRORS as error:
                row, count = self._failing_row(function, arrays), len(arrays[0])
                if row is None:
                    where = f" for {count} rows, though not for any of them alone" if count > 1 else ""
                elif first_row is None:
                    where = f" at row {row} of the {count} rows given" if count > 1 else ""
                else:
                    where = f" at row {first_row + row}"
                raise CodecError(f"{name} of {self.qtype.name} failed{where}: {describe(error)}") from error
            try:
                found = None if result is None else np.asarray(result)
            except PLUGIN_ERRORS as error:
                kind = type(result).__name__
                raise CodecError(
                    f"{name} of {self.qtype.name} returned a {kind} that is not an array of {np.dtype(dtype)} {shape}: "
                    f"{describe(error)}"
                ) from error
        if found is None or found.shape != shape or found.dtype != dtype:
            returned = "None" if found is None else f"{found.dtype} {found.shape}"
            expected = f"{np.dtype(dtype)} {shape}"
            raise CodecError(
                f"{name} of {self.qtype.name} returned {returned}, expected {expected}: correct the function"
            )
        return found

    @staticmethod
    def _failing_row(function: Callable[..., object], arrays: Sequence[Any]) -> int | None:
        rows = len(arrays[0])
        for row in range(rows):
            try:
                function(*(a[row : row + 1] if getattr(a, "ndim", 0) == 2 else a for a in arrays))
            except PLUGIN_ERRORS:
                return row
        return None


def _count_positional(function: Callable[..., object]) -> int:
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return sum(p.kind not in kinds for p in inspect.signature(function).parameters.values())


# How many positional arguments each function takes.
_SIGNATURES = {
    "encode": ((1, 2), "encode(rows) or encode(rows, importance)"),
    "decode": ((1,), "decode(blocks)"),
    "score": ((2,), "score(rows, columns)"),
}


def _check_arguments(type_name: str, name: str, function: Callable[..., object] | None) -> None:
    """Raise CodecError for a function that cannot be called with the arguments that quantreg gives it."""
    counts, words = _SIGNATURES[name]
    if function is None and name != "decode":
        return
    who = f"{name} of {type_name}"
    if not callable(function):
        raise CodecError(f"{who} is {function!r}, expected a function: write {words}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some compiled functions have no signature
        return
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    extras = f"write {words}, and after a * what else it needs: {' or '.join(EXTRAS)}"
    for p in positional:
        if p.name in EXTRAS:
            raise CodecError(f"{who} takes {p.name} by position: {extras}")
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and p.name not in EXTRAS and (p.default is p.empty or _near(p.name)):
            raise CodecError(f"{who} asks for {p.name}, which quantreg does not know: {extras}")
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if not any(required <= n and (several or n <= len(positional)) for n in counts):
        raise CodecError(f"{who} takes {required} arguments by position: {extras}")


def _near(name: str) -> bool:
    from difflib import get_close_matches  # slow to load

    return bool(get_close_matches(name, EXTRAS, n=1, cutoff=0.8))


def _keywords(function: Callable[..., object]) -> set[str]:
    """The names of the keyword-only arguments."""
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


def _check(array: "NDArray[Any]", dtype: type[np.generic], name: str, ndim: int = 2) -> None:
    """Raise ValueError unless the array has this dtype, this number of dimensions and contiguous columns."""
    contiguous = array.size == 0 or array.shape[-1] == 1 or array.strides[-1] == array.itemsize
    if array.ndim != ndim or array.dtype != dtype or not contiguous:
        layout = "" if contiguous else "non-contiguous "
        raise ValueError(
            f"{name} is a {layout}{array.dtype} array of shape {array.shape}: pass a contiguous {np.dtype(dtype)} "
            f"array of {ndim} dimensions"
        )


def _check_written(out: "NDArray[Any]", dtype: type[np.generic], name: str) -> None:
    """Raise ValueError for what `_check` refuses and for rows that overlap: they would overwrite each other."""
    _check(out, dtype, name)
    row_nbytes = out.shape[1] * out.itemsize
    if len(out) > 1 and abs(out.strides[0]) < row_nbytes:
        raise ValueError(
            f"rows of {name} overlap: they lie {out.strides[0]} bytes apart and have {row_nbytes} bytes each. "
            "Pass an array whose rows do not share memory"
        )
