# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Where Python hands arrays to compiled codecs.

Checks the ABI and every size, then runs rows without the GIL.
"""

import threading

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from quantreg_kernels.abi cimport (
    ABI_MAJOR, IMPORTANCE_COLUMNS, IMPORTANCE_WEIGHTS, DecodeArgs, EncodeArgs, RowCodec, ScoreArgs,
)
from quantreg_kernels.half cimport bits_from_float

cdef extern from "quantreg_kernels/stream.h" nogil:
    void stream_floats(float *dst, const float *src, Py_ssize_t n)
    void stream_end()

cdef enum:
    PY_SSIZE_MAX_BITS = 62
    CHECKED_WEIGHTS = 1 << 16  # 256 KiB of float32: looked through for NaN, then encoded while in cache
    STREAMED_WEIGHTS = 1 << 9  # decoded to first-level cache, then written around the caches
    STREAMED_MOST = 1 << 13  # 32 KiB on the stack; longer pieces are decoded in place

cdef Py_ssize_t find_nonfinite(const float *x, Py_ssize_t n) noexcept nogil:
    """Index of the first NaN or infinity in x, or -1."""
    cdef const uint32_t *bits = <const uint32_t *>x
    cdef Py_ssize_t i = 0, j, end
    cdef uint32_t bad
    cdef float zero
    while i < n:
        end = i + 1024 if n - i > 1024 else n
        bad = 0
        for j in range(i, end):
            zero = x[j] - x[j]  # or NaN
            bad |= bits_from_float(zero)
        if bad:
            for j in range(i, end):
                if (bits[j] & <uint32_t>0x7f800000) == <uint32_t>0x7f800000:
                    return j
        i = end
    return -1


cdef int check_aligned(const void *floats) except -1:
    """Codecs may use instructions that fault on float32 at an odd address."""
    if <size_t>floats % sizeof(float):
        raise ValueError("float32 that is not aligned in memory: np.require(x, np.float32, ['C', 'A']) copies it")
    return 0


def first_nonfinite(const float[:, ::1] x):
    """Index, counted over all of x, float32 (rows, cols), of the first NaN or infinity, or -1."""
    cdef Py_ssize_t found
    if x.shape[0] == 0 or x.shape[1] == 0:
        return -1
    check_aligned(&x[0, 0])
    with nogil:
        found = find_nonfinite(&x[0, 0], x.shape[0] * x.shape[1])
    return found


class RowError(ValueError):
    """A row that cannot be encoded.

    ``row`` is its index; ``column`` the index of a NaN or infinity, or None if the values are finite but too large for
    the type's scales.
    """

    def __init__(self, row, column):
        self.row = row
        self.column = column
        super().__init__(f"row {row} cannot be encoded")


cdef class Codec:
    """A compiled codec: rows in, rows out. Made by `load_codec`; holds the capsule alive.

    ``type_id``, ``block_size``, ``type_size`` and ``row_header_size`` come from the codec's own struct, so that the
    host can hold them against the plugin's QuantType. ``level`` is the CPU level it was compiled for, ``built`` are all
    levels that there are of it, ``abi`` is the ABI number it was built for. ``lower`` maps "plain" (encoding without
    importance), "weighted" (encoding with it) and "decode" to the Codec of another level that does that work instead.
    """

    cdef object capsule
    cdef const RowCodec *given
    cdef RowCodec c
    cdef object lock
    cdef bint prepared
    cdef readonly str level
    cdef readonly tuple built
    cdef readonly dict lower
    cdef readonly int abi
    cdef readonly int type_id
    cdef readonly Py_ssize_t block_size, type_size, row_header_size

    def __init__(self, capsule, str level="base", tuple built=("base",), dict lower=None):
        if not PyCapsule_IsValid(capsule, "quantreg.RowCodec"):
            raise TypeError("the codec module's `codec` is not a quantreg.RowCodec capsule: end the .pyx with "
                            "codec = codec_capsule(...)")
        self.capsule = capsule
        self.given = <const RowCodec *>PyCapsule_GetPointer(capsule, "quantreg.RowCodec")
        if self.given.abi_major != ABI_MAJOR:
            advice = "rebuild the plugin" if self.given.abi_major < ABI_MAJOR else "upgrade quantreg"
            raise ImportError(
                f"codec was built for quantreg ABI {self.given.abi_major}, this quantreg has ABI {ABI_MAJOR}: {advice}")
        if self.given.struct_size < <Py_ssize_t>(5 * sizeof(Py_ssize_t)):
            raise ImportError("codec struct is too short: rebuild the plugin")
        memset(&self.c, 0, sizeof(RowCodec))
        memcpy(&self.c, self.given, min(self.given.struct_size, <Py_ssize_t>sizeof(RowCodec)))
        if self.c.block_size <= 0 or self.c.type_size <= 0 or self.c.row_header_size < 0:
            raise ValueError("codec has an empty block")
        self.level = level
        self.built = built
        self.lower = {} if lower is None else lower
        self.abi = self.c.abi_major
        self.type_id = self.c.type_id
        self.block_size = self.c.block_size
        self.type_size = self.c.type_size
        self.row_header_size = self.c.row_header_size
        self.lock = threading.Lock()
        self.prepared = self.c.prepare == NULL

    @property
    def can_encode(self):
        return self.c.encode_rows != NULL

    @property
    def whole_rows(self):
        """Whether a row's blocks can only be decoded together."""
        return self.c.whole_rows != 0 or self.c.row_header_size != 0

    @property
    def has_scorer(self):
        """Whether the type reads importance."""
        return self.c.score_rows != NULL

    cdef Py_ssize_t row_bytes(self, Py_ssize_t n_cols) except -1:
        cdef Py_ssize_t blocks = n_cols // self.c.block_size
        if n_cols % self.c.block_size:
            raise ValueError(f"a row of {n_cols} weights does not divide into blocks of {self.c.block_size}")
        if blocks > ((<Py_ssize_t>1 << PY_SSIZE_MAX_BITS) - self.c.row_header_size) // self.c.type_size:
            raise ValueError("row too long")
        return self.c.row_header_size + blocks * self.c.type_size

    def encode_rows(self, const float[:, ::1] x, uint8_t[:, ::1] out, importance=None, Py_ssize_t first_row=0):
        """Encode x, float32 (rows, cols), into out, uint8 (rows, row_bytes).

        importance: None, float32 (cols,) column statistics, or float32 (rows, cols) error weights.
        Raises RowError (with first_row added) for a NaN, an infinity or an overflowing scale; ValueError for wrong
        sizes and for float32 that is not aligned.
        """
        cdef EncodeArgs a
        cdef Py_ssize_t done, column = -1
        cdef const float[::1] columns
        cdef const float[:, ::1] weights
        cdef Codec other = self.lower.get("weighted" if importance is not None and self.c.score_rows != NULL else "plain")
        if other is not None:
            return other.encode_rows(x, out, importance, first_row)
        memset(&a, 0, sizeof(EncodeArgs))
        a.struct_size = sizeof(EncodeArgs)
        if self.c.encode_rows == NULL:
            raise TypeError("this codec only decodes")
        if out.shape[0] != x.shape[0] or out.shape[1] != self.row_bytes(x.shape[1]):
            raise ValueError(
                f"{x.shape[0]} rows of {x.shape[1]} weights do not fit ({out.shape[0]}, {out.shape[1]}) bytes")
        if x.shape[0] == 0 or x.shape[1] == 0:
            return
        if importance is not None and self.c.score_rows != NULL:
            if importance.ndim == 1:
                columns = importance
                if columns.shape[0] != x.shape[1]:
                    raise ValueError(f"{columns.shape[0]} column statistics for {x.shape[1]} columns")
                a.importance = &columns[0]
                a.importance_kind = IMPORTANCE_COLUMNS
            else:
                weights = importance
                if weights.shape[0] != x.shape[0] or weights.shape[1] != x.shape[1]:
                    raise ValueError("importance weights must have the shape of the rows")
                a.importance = &weights[0, 0]
                a.importance_kind = IMPORTANCE_WEIGHTS
                a.importance_stride = x.shape[1]
            check_aligned(a.importance)
        check_aligned(&x[0, 0])
        a.src = &x[0, 0]
        a.dst = &out[0, 0]
        a.n_rows = x.shape[0]
        a.n_cols = x.shape[1]
        a.src_stride = x.shape[1]
        a.dst_stride = out.shape[1]
        self._prepare()
        with nogil:
            done = self._encode(&a, &column)
        if done < x.shape[0]:
            raise RowError(first_row + done, column if column >= 0 else None)

    cdef Py_ssize_t _encode(self, EncodeArgs *a, Py_ssize_t *column) noexcept nogil:
        """Rows done; if fewer than all, column is set where a NaN or infinity stopped it.

        A few rows at a time, so that they are in cache for the second of check and codec.
        """
        cdef Py_ssize_t n_rows = a.n_rows, step = CHECKED_WEIGHTS // a.n_cols, first = 0, few, done
        step = step if step > 0 else 1
        while first < n_rows:
            a.n_rows = few = min(step, n_rows - first)
            done = self._encode_few(a, column)
            if done < few:
                return first + done
            a.src += done * a.src_stride
            a.dst += done * a.dst_stride
            if a.importance_stride:
                a.importance += done * a.importance_stride
            first += done
        return n_rows

    cdef Py_ssize_t _encode_few(self, EncodeArgs *a, Py_ssize_t *column) noexcept nogil:
        """The first bad row counts: what is not finite at all, or too large for the codec."""
        cdef Py_ssize_t done, bad
        if self.c.takes_nonfinite:
            done = self._call_encoder(a)
            bad = find_nonfinite(a.src, min(done + 1, a.n_rows) * a.n_cols)
            if bad >= 0:
                column[0] = bad % a.n_cols
                return bad // a.n_cols
            return done
        bad = find_nonfinite(a.src, a.n_rows * a.n_cols)
        if bad >= 0:
            a.n_rows = bad // a.n_cols
        done = self._call_encoder(a) if a.n_rows else 0
        if bad >= 0 and done == a.n_rows:
            column[0] = bad % a.n_cols
        return done

    cdef Py_ssize_t _call_encoder(self, const EncodeArgs *a) noexcept nogil:
        """Rows done: within what there are, whatever the codec says, so that no row is passed over."""
        return max(0, min(self.c.encode_rows(self.given, a), a.n_rows))

    def decode_rows(self, const uint8_t[:, ::1] data, float[:, ::1] out, bint stream=False):
        """Decode data, uint8 (rows, row_bytes), into out, float32 (rows, cols).

        stream: write around the caches, which is faster where out is larger than they are.
        ValueError for wrong sizes and for float32 that is not aligned.
        """
        cdef DecodeArgs a
        cdef Codec other = self.lower.get("decode")
        if other is not None:
            return other.decode_rows(data, out, stream)
        memset(&a, 0, sizeof(DecodeArgs))
        a.struct_size = sizeof(DecodeArgs)
        if self.c.decode_rows == NULL:
            raise TypeError("this codec does not decode")
        if out.shape[0] != data.shape[0] or data.shape[1] != self.row_bytes(out.shape[1]):
            raise ValueError(f"({data.shape[0]}, {data.shape[1]}) bytes do not decode to {out.shape[0]} rows of "
                             f"{out.shape[1]} weights")
        if out.shape[0] == 0 or out.shape[1] == 0:
            return
        check_aligned(&out[0, 0])
        a.src = &data[0, 0]
        a.dst = &out[0, 0]
        a.n_rows = out.shape[0]
        a.n_cols = out.shape[1]
        a.src_stride = data.shape[1]
        a.dst_stride = out.shape[1]
        with nogil:
            if not stream or not self._decode_streaming(&a):
                self.c.decode_rows(self.given, &a)

    cdef bint _decode_streaming(self, const DecodeArgs *whole) noexcept nogil:
        """A piece at a time to the stack, and from there past the caches: memory is written without being read first.

        A piece is some rows, or some blocks where the format allows it. Returns whether one fits.
        """
        cdef float room[STREAMED_MOST + 16]
        cdef float *piece = room + (-<size_t>room % 64) // sizeof(float)  # stores across two cache lines are slow
        cdef DecodeArgs a = whole[0]
        cdef bint cut = self.c.whole_rows == 0 and self.c.row_header_size == 0
        cdef Py_ssize_t unit = self.c.block_size if cut else whole.n_cols
        cdef Py_ssize_t nbytes = self.c.type_size if cut else whole.src_stride
        cdef Py_ssize_t left = whole.n_rows * (whole.n_cols // unit), step = 1
        cdef float *dst = whole.dst
        if unit > STREAMED_MOST:
            return False
        if unit < STREAMED_WEIGHTS:
            step = STREAMED_WEIGHTS // unit
        a.dst = piece
        while left > 0:
            step = step if step < left else left
            a.n_rows = 1 if cut else step
            a.n_cols = a.dst_stride = step * unit if cut else unit
            self.c.decode_rows(self.given, &a)
            stream_floats(dst, piece, step * unit)
            dst += step * unit
            a.src += step * nbytes
            left -= step
        stream_end()
        return True

    def score_rows(self, const float[:, ::1] x, const float[::1] columns, float[:, ::1] out):
        """The encoder's error weights, to out: x and out float32 (rows, cols), columns float32 (cols,).

        ValueError for wrong sizes and for float32 that is not aligned.
        """
        cdef ScoreArgs a
        memset(&a, 0, sizeof(ScoreArgs))
        a.struct_size = sizeof(ScoreArgs)
        if self.c.score_rows == NULL:
            raise TypeError("this type reads no importance")
        self.row_bytes(x.shape[1])
        if out.shape[0] != x.shape[0] or out.shape[1] != x.shape[1] or columns.shape[0] != x.shape[1]:
            raise ValueError("rows, columns and out must agree in shape")
        if x.shape[0] == 0 or x.shape[1] == 0:
            return
        check_aligned(&x[0, 0])
        a.src = &x[0, 0]
        a.dst = &out[0, 0]
        a.n_rows = x.shape[0]
        a.n_cols = x.shape[1]
        a.src_stride = x.shape[1]
        a.dst_stride = out.shape[1]
        check_aligned(&columns[0])
        check_aligned(&out[0, 0])
        a.columns = &columns[0]
        with nogil:
            self.c.score_rows(self.given, &a)

    def _prepare(self):
        if not self.prepared:
            with self.lock:
                if not self.prepared:
                    with nogil:
                        self.c.prepare()
                    self.prepared = True
