# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The door between Python and compiled codecs.

It checks the ABI number, every size and every stride, and then runs the codec's functions without the GIL.
"""

import threading

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from quantreg_kernels._arrays cimport check_aligned, find_nonfinite_in_rows, row_stride
from quantreg_kernels.abi cimport (
    ABI_MAJOR, IMPORTANCE_COLUMNS, IMPORTANCE_WEIGHTS, DecodeArgs, DotArgs, EncodeArgs, RowCodec, ScoreArgs,
)

cdef extern from "quantreg_kernels/stream.h" nogil:
    void stream_floats(float *dst, const float *src, Py_ssize_t n)
    void stream_end()

cdef enum:
    MOST_BYTES_BITS = 62  # a row has fewer than 2^62 bytes
    CHECKED_WEIGHTS = 1 << 16  # 256 KiB of float32: checked and encoded in one go, while they are in the cache
    STREAMED_WEIGHTS = 1 << 9  # decoded into the first-level cache, then written around the caches
    STREAMED_MOST = 1 << 12  # 16 KiB on the stack; longer pieces are decoded in place

# Capsules whose prepare() has run. A codec may be loaded more than once, and its tables belong to its module.
cdef set PREPARED = set()
cdef object PREPARING = threading.Lock()


def first_nonfinite(const float[:, :] x):
    """Return row * cols + column of the first NaN or infinity in x, float32 (rows, cols), or -1.

    Raise ValueError for columns that are not contiguous and for float32 that is not aligned.
    """
    cdef Py_ssize_t found, stride
    if x.shape[0] == 0 or x.shape[1] == 0:
        return -1
    stride = row_stride("x", x.shape, x.strides, sizeof(float))
    check_aligned("x", &x[0, 0], stride)
    with nogil:
        found = find_nonfinite_in_rows(&x[0, 0], x.shape[0], x.shape[1], stride // <Py_ssize_t>sizeof(float))
    return found


class RowError(ValueError):
    """A row that cannot be encoded.

    ``row`` is its index. ``column`` is the index of a NaN or infinity, or None if the values are finite but too large
    for the type's scales.
    """

    def __init__(self, row, column):
        self.row = row
        self.column = column
        what = "values that are too large for the type's scales" if column is None else f"NaN or infinity at column {column}"
        super().__init__(f"row {row} cannot be encoded: it holds {what}")


# ---- codecs ----

cdef class Codec:
    """A compiled codec, which encodes and decodes rows. `load_codec` makes it; it keeps the capsule alive.

    ``type_id``, ``block_size``, ``type_size`` and ``row_header_size`` come from the codec's own struct, so that the
    host can compare them with the plugin's QuantType. ``level`` is the CPU level that it was compiled for, ``built``
    lists all levels at which it was built, and ``abi`` is the ABI number that it was built for. ``lower`` maps "plain"
    (encoding without importance), "weighted" (encoding with it) and "decode" to the Codec of another level that does
    this work instead.

    In every array the columns must be contiguous, but rows may lie apart: ``x[:, 256:512]`` and ``out[::2]`` are read
    and written in place.
    """

    cdef object capsule
    cdef const RowCodec *given
    cdef RowCodec c
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
            raise ImportError(f"the codec was built for quantreg ABI {self.given.abi_major}, but this quantreg has ABI "
                              f"{ABI_MAJOR}: {advice}")
        if self.given.struct_size < <Py_ssize_t>(5 * sizeof(Py_ssize_t)):
            raise ImportError(f"the codec's struct is too short ({self.given.struct_size} bytes): rebuild the plugin")
        memset(&self.c, 0, sizeof(RowCodec))
        memcpy(&self.c, self.given, min(self.given.struct_size, <Py_ssize_t>sizeof(RowCodec)))
        if self.c.block_size <= 0 or self.c.type_size <= 0 or self.c.row_header_size < 0:
            raise ValueError(f"the codec has an empty block: {self.c.block_size} weights in {self.c.type_size} bytes, "
                             f"row header of {self.c.row_header_size} bytes. Correct its call of codec_capsule")
        if not 0 <= self.c.scratch_size <= 1 << 30:
            raise ValueError(f"the codec asks for {self.c.scratch_size} bytes of scratch: set scratch_size to sizeof(a struct)")
        self.level = level
        self.built = built
        self.lower = {} if lower is None else lower
        self.abi = self.c.abi_major
        self.type_id = self.c.type_id
        self.block_size = self.c.block_size
        self.type_size = self.c.type_size
        self.row_header_size = self.c.row_header_size

    @property
    def can_encode(self):
        return self.c.encode_rows != NULL

    @property
    def whole_rows(self):
        """Whether the blocks of a row can only be decoded together."""
        return self.c.whole_rows != 0 or self.c.row_header_size != 0

    @property
    def has_scorer(self):
        """Whether the type reads importance."""
        return self.c.score_rows != NULL

    @property
    def has_dot(self):
        """Whether the codec has a product with a few rows of activations of its own."""
        return self.c.dot_rows != NULL

    cdef Py_ssize_t row_bytes(self, Py_ssize_t n_cols) except -1:
        cdef Py_ssize_t blocks = n_cols // self.c.block_size
        if n_cols % self.c.block_size:
            raise ValueError(f"a row of {n_cols} weights does not divide into blocks of {self.c.block_size}")
        if blocks > ((<Py_ssize_t>1 << MOST_BYTES_BITS) - self.c.row_header_size) // self.c.type_size:
            raise ValueError(f"a row of {n_cols} weights takes more than 2^{MOST_BYTES_BITS} bytes")
        return self.c.row_header_size + blocks * self.c.type_size

    # ---- encode ----

    def encode_rows(self, const float[:, :] x, uint8_t[:, :] out, importance=None, Py_ssize_t first_row=0):
        """Encode x, float32 (rows, cols), into out, uint8 (rows, row_bytes).

        importance: None, float32 (cols,) column statistics, or float32 (rows, cols) error weights.
        Raise RowError (with first_row added) for a NaN, an infinity or an overflowing scale. Raise ValueError for wrong
        sizes, for columns that are not contiguous, for rows of out that overlap, and for float32 that is not aligned.
        """
        cdef EncodeArgs a
        cdef void *room = NULL
        cdef Py_ssize_t done, column = -1, nbytes, stride
        cdef const float[::1] columns
        cdef const float[:, :] weights
        cdef Codec other = self.lower.get("weighted" if importance is not None and self.c.score_rows != NULL else "plain")
        if other is not None:
            return other.encode_rows(x, out, importance, first_row)
        memset(&a, 0, sizeof(EncodeArgs))
        a.struct_size = sizeof(EncodeArgs)
        if self.c.encode_rows == NULL:
            raise TypeError("this codec only decodes")
        nbytes = self.row_bytes(x.shape[1])
        if out.shape[0] != x.shape[0] or out.shape[1] != nbytes:
            raise ValueError(f"{x.shape[0]} rows of {x.shape[1]} weights encode to ({x.shape[0]}, {nbytes}) bytes, but "
                             f"out has the shape ({out.shape[0]}, {out.shape[1]})")
        if x.shape[0] == 0 or x.shape[1] == 0:
            return
        if importance is not None and self.c.score_rows != NULL:
            if importance.ndim == 1:
                columns = importance
                if columns.shape[0] != x.shape[1]:
                    raise ValueError(f"importance holds {columns.shape[0]} column statistics for {x.shape[1]} columns")
                check_aligned("importance", &columns[0])
                a.importance = &columns[0]
                a.importance_kind = IMPORTANCE_COLUMNS
            else:
                weights = importance
                if weights.shape[0] != x.shape[0] or weights.shape[1] != x.shape[1]:
                    raise ValueError(f"importance holds ({weights.shape[0]}, {weights.shape[1]}) error weights for "
                                     f"({x.shape[0]}, {x.shape[1]}) weights")
                stride = row_stride("importance", weights.shape, weights.strides, sizeof(float))
                check_aligned("importance", &weights[0, 0], stride)
                a.importance = &weights[0, 0]
                a.importance_kind = IMPORTANCE_WEIGHTS
                a.importance_stride = stride // <Py_ssize_t>sizeof(float)
        stride = row_stride("x", x.shape, x.strides, sizeof(float))
        check_aligned("x", &x[0, 0], stride)
        a.src = &x[0, 0]
        a.dst = &out[0, 0]
        a.n_rows = x.shape[0]
        a.n_cols = x.shape[1]
        a.src_stride = stride // <Py_ssize_t>sizeof(float)
        a.dst_stride = row_stride("out", out.shape, out.strides, 1, written=True)
        self._prepare()
        if self.c.scratch_size:
            room = malloc(self.c.scratch_size + 64)
            if room == NULL:
                raise MemoryError(f"no memory for the {self.c.scratch_size} bytes that the codec works with")
            a.scratch = <uint8_t *>room + (-<size_t>room) % 64
        with nogil:
            done = self._encode(&a, &column)
            free(room)
        if done < x.shape[0]:
            raise RowError(first_row + done, column if column >= 0 else None)

    cdef int _prepare(self) except -1:
        """Run the codec's prepare(), once in this process. The lock also makes its tables visible to this thread."""
        if self.c.prepare == NULL:
            return 0
        with PREPARING:
            if self.capsule not in PREPARED:
                with nogil:
                    self.c.prepare()
                PREPARED.add(self.capsule)
        return 0

    cdef Py_ssize_t _encode(self, EncodeArgs *a, Py_ssize_t *column) noexcept nogil:
        """Return the number of rows done. If that is not all, a NaN or infinity sets `column`.

        A few rows at a time: the NaN check and the codec both read them, and the second finds them in the cache.
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
            if a.importance != NULL:
                a.importance += done * a.importance_stride
            first += done
        return n_rows

    cdef Py_ssize_t _encode_few(self, EncodeArgs *a, Py_ssize_t *column) noexcept nogil:
        """Stop at the first bad row, whether it holds a NaN or infinity or values too large for the codec."""
        cdef Py_ssize_t done, bad
        if self.c.takes_nonfinite:
            done = self._call_encoder(a)
            bad = find_nonfinite_in_rows(a.src, min(done + 1, a.n_rows), a.n_cols, a.src_stride)
            if bad >= 0:
                column[0] = bad % a.n_cols
                return bad // a.n_cols
            return done
        bad = find_nonfinite_in_rows(a.src, a.n_rows, a.n_cols, a.src_stride)
        if bad >= 0:
            a.n_rows = bad // a.n_cols
        done = self._call_encoder(a) if a.n_rows else 0
        if bad >= 0 and done == a.n_rows:
            column[0] = bad % a.n_cols
        return done

    cdef Py_ssize_t _call_encoder(self, const EncodeArgs *a) noexcept nogil:
        """Return the number of rows done, limited to 0..n_rows: a wrong count must not skip a row."""
        return max(0, min(self.c.encode_rows(self.given, a), a.n_rows))

    # ---- decode ----

    def decode_rows(self, const uint8_t[:, :] data, float[:, :] out, bint stream=False):
        """Decode data, uint8 (rows, row_bytes), into out, float32 (rows, cols).

        stream: write around the caches, which is faster if out does not fit into them.
        Raise ValueError for wrong sizes, for columns that are not contiguous, for rows of out that overlap, and for
        float32 that is not aligned.
        """
        cdef DecodeArgs a
        cdef Py_ssize_t nbytes, stride
        cdef Codec other = self.lower.get("decode")
        if other is not None:
            return other.decode_rows(data, out, stream)
        memset(&a, 0, sizeof(DecodeArgs))
        a.struct_size = sizeof(DecodeArgs)
        if self.c.decode_rows == NULL:
            raise TypeError("this codec does not decode")
        nbytes = self.row_bytes(out.shape[1])
        if out.shape[0] != data.shape[0] or data.shape[1] != nbytes:
            raise ValueError(f"{out.shape[0]} rows of {out.shape[1]} weights decode from ({out.shape[0]}, {nbytes}) bytes, "
                             f"but data has the shape ({data.shape[0]}, {data.shape[1]})")
        if out.shape[0] == 0 or out.shape[1] == 0:
            return
        stride = row_stride("out", out.shape, out.strides, sizeof(float), written=True)
        check_aligned("out", &out[0, 0], stride)
        a.src = &data[0, 0]
        a.dst = &out[0, 0]
        a.n_rows = out.shape[0]
        a.n_cols = out.shape[1]
        a.src_stride = row_stride("data", data.shape, data.strides, 1)
        a.dst_stride = stride // <Py_ssize_t>sizeof(float)
        with nogil:
            if not stream or not self._decode_streaming(&a, nbytes):
                self.c.decode_rows(self.given, &a)

    cdef bint _decode_streaming(self, const DecodeArgs *whole, Py_ssize_t row_bytes) noexcept nogil:
        """Decode a piece at a time to the stack and copy it around the caches, which reads no memory before writing it.

        A piece is some blocks if the format allows that, else some rows. Return False if a piece does not fit.
        """
        cdef float room[STREAMED_MOST + 16]
        cdef float *piece = room + (-<size_t>room % 64) // sizeof(float)  # stores across two cache lines are slow
        cdef DecodeArgs a = whole[0]
        cdef bint cut = self.c.whole_rows == 0 and self.c.row_header_size == 0
        cdef Py_ssize_t n_rows = whole.n_rows, n_cols = whole.n_cols, rows = 1, blocks, row = 0, column, i
        if (self.c.block_size if cut else n_cols) > STREAMED_MOST:
            return False
        if cut:
            if whole.src_stride == row_bytes and whole.dst_stride == n_cols:  # one long row
                n_cols *= n_rows
                n_rows = 1
            blocks = max(1, STREAMED_WEIGHTS // self.c.block_size)
        else:
            rows = max(1, STREAMED_WEIGHTS // n_cols)
            blocks = n_cols // self.c.block_size
        a.dst = piece
        while row < n_rows:
            a.n_rows = min(rows, n_rows - row)
            a.src = whole.src + row * whole.src_stride
            column = 0
            while column < n_cols:
                a.n_cols = a.dst_stride = min(blocks * self.c.block_size, n_cols - column)
                self.c.decode_rows(self.given, &a)
                for i in range(a.n_rows):
                    stream_floats(whole.dst + (row + i) * whole.dst_stride + column, piece + i * a.n_cols, a.n_cols)
                a.src += blocks * self.c.type_size
                column += a.n_cols
            row += a.n_rows
        stream_end()
        return True

    # ---- products ----

    def dot_rows(self, const uint8_t[:, :] data, const float[:, :] x, float[:, :] out):
        """Multiply the weights of data, uint8 (rows, row_bytes), by x, float32 (n, cols), into out, float32 (n, rows).

        Raise TypeError if the codec has no such product; ValueError for wrong sizes, for columns that are not
        contiguous, for rows of out that overlap, and for float32 that is not aligned.
        """
        cdef DotArgs a
        cdef Py_ssize_t nbytes, x_stride, dst_stride
        if self.c.dot_rows == NULL:
            raise TypeError("this codec has no product of its own")
        nbytes = self.row_bytes(x.shape[1])
        if data.shape[1] != nbytes or out.shape[0] != x.shape[0] or out.shape[1] != data.shape[0]:
            raise ValueError(f"{x.shape[0]} rows of {x.shape[1]} activations times {data.shape[0]} rows of {nbytes} bytes "
                             f"make ({x.shape[0]}, {data.shape[0]}) products, but data has the shape ({data.shape[0]}, "
                             f"{data.shape[1]}) and out ({out.shape[0]}, {out.shape[1]})")
        if out.shape[0] == 0 or out.shape[1] == 0:
            return
        if x.shape[1] == 0:
            out[:, :] = 0
            return
        memset(&a, 0, sizeof(DotArgs))
        x_stride = row_stride("x", x.shape, x.strides, sizeof(float))
        dst_stride = row_stride("out", out.shape, out.strides, sizeof(float), written=True)
        check_aligned("x", &x[0, 0], x_stride)
        check_aligned("out", &out[0, 0], dst_stride)
        a.struct_size = sizeof(DotArgs)
        a.src = &data[0, 0]
        a.x = &x[0, 0]
        a.dst = &out[0, 0]
        a.n_rows = data.shape[0]
        a.n_cols = x.shape[1]
        a.n_x = x.shape[0]
        a.src_stride = row_stride("data", data.shape, data.strides, 1)
        a.x_stride = x_stride // <Py_ssize_t>sizeof(float)
        a.dst_stride = dst_stride // <Py_ssize_t>sizeof(float)
        with nogil:
            self.c.dot_rows(self.given, &a)

    # ---- score ----

    def score_rows(self, const float[:, :] x, const float[::1] columns, float[:, :] out):
        """Write the encoder's error weights to out: x and out are float32 (rows, cols), columns float32 (cols,).

        Raise ValueError for wrong sizes, for columns that are not contiguous, for rows of out that overlap, and for
        float32 that is not aligned.
        """
        cdef ScoreArgs a
        cdef Py_ssize_t src_stride, dst_stride
        memset(&a, 0, sizeof(ScoreArgs))
        a.struct_size = sizeof(ScoreArgs)
        if self.c.score_rows == NULL:
            raise TypeError("this type reads no importance")
        self.row_bytes(x.shape[1])
        if out.shape[0] != x.shape[0] or out.shape[1] != x.shape[1] or columns.shape[0] != x.shape[1]:
            raise ValueError(f"x, columns and out must agree in shape: they are ({x.shape[0]}, {x.shape[1]}), "
                             f"({columns.shape[0]},) and ({out.shape[0]}, {out.shape[1]})")
        if x.shape[0] == 0 or x.shape[1] == 0:
            return
        src_stride = row_stride("x", x.shape, x.strides, sizeof(float))
        dst_stride = row_stride("out", out.shape, out.strides, sizeof(float), written=True)
        check_aligned("x", &x[0, 0], src_stride)
        check_aligned("columns", &columns[0])
        check_aligned("out", &out[0, 0], dst_stride)
        a.src = &x[0, 0]
        a.dst = &out[0, 0]
        a.columns = &columns[0]
        a.n_rows = x.shape[0]
        a.n_cols = x.shape[1]
        a.src_stride = src_stride // <Py_ssize_t>sizeof(float)
        a.dst_stride = dst_stride // <Py_ssize_t>sizeof(float)
        with nogil:
            self.c.score_rows(self.given, &a)
