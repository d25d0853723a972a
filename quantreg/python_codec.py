"""PythonCodec: a quant format in plain NumPy, with the interface of a compiled codec."""

import inspect

import numpy as np

from quantreg.errors import CodecError
from quantreg_kernels._run import RowError, first_nonfinite

__all__ = ["PythonCodec"]


class PythonCodec:
    """A codec of two functions: the way to try an idea in 30 lines before it earns its Cython.

    ``encode(rows, importance)`` gets float32 (rows, cols), finite and read-only, with cols a multiple of the block
    size, and ``importance``, float32 (rows, cols) error weights or None; it returns uint8 (rows, row_bytes). An
    ``encode(rows)`` makes a type that reads no importance. ``decode(blocks)`` gets uint8 (rows, row_bytes), any bytes,
    read-only; it returns float32 (rows, cols). A row's bytes are ``row_header_size`` bytes of its own, then its blocks.
    ``score(rows, columns)`` makes error weights (rows, cols) of column statistics (cols,); without it every row takes
    the statistics as they are. Each row must be encoded by itself: the rows come in slabs of any number.

        Q3 = quantreg.QuantType("MY_Q3", type_id=1042, block_size=32, type_size=14,
                                codec=lambda: quantreg.PythonCodec(Q3, encode, decode))

    A row that decodes to NaN or infinity, because a scale overflows, is refused by its number. Floating-point warnings
    are off inside the functions. CodecError if a function fails or returns another shape or dtype.
    """

    level = "python"
    built = ("python",)
    abi = None

    def __init__(self, qtype, encode, decode, score=None):
        self.qtype, self._encode, self._decode, self._score = qtype, encode, decode, score
        self.type_id, self.block_size, self.type_size = qtype.type_id, qtype.block_size, qtype.type_size
        self.row_header_size = qtype.row_header_size
        self._weighted = encode is not None and len(inspect.signature(encode).parameters) > 1

    @property
    def can_encode(self) -> bool:
        return self._encode is not None

    @property
    def has_scorer(self) -> bool:
        return self._weighted

    def row_bytes(self, n_cols: int) -> int:
        """Bytes of a row of n_cols weights; ShapeError if it does not divide into blocks."""
        return self.qtype.row_bytes(n_cols)

    def encode_rows(self, x, out, importance=None, first_row=0) -> None:
        """Encode x, float32 (rows, cols), into out, uint8 (rows, row_bytes).

        importance: None, float32 (cols,) column statistics, or float32 (rows, cols) error weights.
        Raises RowError (with first_row added) for NaN, infinity or an overflow; ShapeError, a ValueError, for sizes.
        """
        if not self.can_encode:
            raise TypeError("this codec only decodes")
        _check(x, np.float32, "x")
        _check(out, np.uint8, "out")
        if out.shape != (x.shape[0], self.row_bytes(x.shape[1])):
            raise ValueError(f"{x.shape[0]} rows of {x.shape[1]} weights do not fit {out.shape} bytes")
        if importance is not None:
            _check(importance, np.float32, "importance", importance.ndim)
            if importance.shape not in (x.shape[1:], x.shape):
                raise ValueError(f"importance of shape {importance.shape} for rows of shape {x.shape}")
        if x.size == 0:
            return
        bad = first_nonfinite(x)
        if bad >= 0:
            raise RowError(first_row + bad // x.shape[1], bad % x.shape[1])
        if self._weighted and importance is not None and importance.ndim == 1:
            importance = self._call("score", self._weights, (x, importance), first_row, x.shape, np.float32)
        data = self._call("encode", self._encode_once, (x, importance), first_row, out.shape, np.uint8)
        back = self._call("decode", self._decode_once, (data,), first_row, x.shape, np.float32)
        bad = first_nonfinite(np.ascontiguousarray(back))
        if bad >= 0:
            raise RowError(first_row + bad // x.shape[1], None)
        out[...] = data

    def decode_rows(self, data, out, stream=False) -> None:
        """Decode data, uint8 (rows, row_bytes), into out, float32 (rows, cols). ValueError for wrong sizes."""
        _check(data, np.uint8, "data")
        _check(out, np.float32, "out")
        if data.shape != (out.shape[0], self.row_bytes(out.shape[1])):
            raise ValueError(f"{data.shape} bytes do not decode to {out.shape[0]} rows of {out.shape[1]} weights")
        if out.size:
            out[...] = self._call("decode", self._decode_once, (data,), 0, out.shape, np.float32)

    def score_rows(self, x, columns, out) -> None:
        """The encoder's error weights, to out: x and out float32 (rows, cols), columns float32 (cols,)."""
        if not self.has_scorer:
            raise TypeError("this type reads no importance")
        if out.shape != x.shape or columns.shape != x.shape[1:]:
            raise ValueError("rows, columns and out must agree in shape")
        if x.size:
            out[...] = self._call("score", self._weights, (x, columns), 0, x.shape, np.float32)

    def _encode_once(self, rows, importance):
        if not self._weighted:
            return self._encode(_read_only(rows))
        return self._encode(_read_only(rows), None if importance is None else _read_only(importance))

    def _decode_once(self, data):
        return self._decode(_read_only(data))

    def _weights(self, rows, columns):
        if self._score is None:
            return np.ascontiguousarray(np.broadcast_to(columns, rows.shape))
        return np.ascontiguousarray(self._score(_read_only(rows), _read_only(columns)), np.float32)

    def _call(self, name, function, arrays, first_row, shape, dtype):
        """function(*arrays), checked; an exception names the first row that raises it alone."""
        with np.errstate(all="ignore"):
            try:
                result = function(*arrays)
                result = result if result is None else np.asarray(result)
            except Exception as error:  # the function is the user's: anything may come out of it
                row = self._failing_row(function, arrays)
                where = "" if row is None else f" at row {first_row + row}"
                problem = f"{type(error).__name__}: {error}"
                raise CodecError(f"{name} of {self.qtype.name} failed{where}: {problem}") from error
        if result is None or result.shape != shape or result.dtype != dtype:
            found = "None" if result is None else f"{result.dtype} {result.shape}"
            expected = f"{np.dtype(dtype)} {shape}"
            raise CodecError(f"{name} of {self.qtype.name} returned {found}, expected {expected}")
        return result

    @staticmethod
    def _failing_row(function, arrays):
        rows = len(arrays[0])
        for row in range(rows):
            try:
                function(*(a[row : row + 1] if getattr(a, "ndim", 0) == 2 else a for a in arrays))
            except Exception:  # as above
                return row
        return None


def _check(array, dtype, name, ndim=2):
    if array.ndim != ndim or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"{name} must be a contiguous {np.dtype(dtype)} array of {ndim} dimensions")


def _read_only(array):
    view = array.view()
    view.flags.writeable = False
    return view
