# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""MY_Q3, compiled. The codec in NumPy of NUMPY_PROJECT defines the format.

This file has the layout of the format and the loops over rows and blocks. What a block holds is for you to write: so far
each block is zero bytes and comes back as zeros, and the check `twin` of `quantreg plugins check MY_Q3` says where that
differs from NUMPY_PROJECT. docs/lanes.md in quantreg's repository shows how to encode many blocks at once.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from quantreg_kernels.abi cimport IMPORTANCE_NONE, DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule

cdef enum:
    TYPE_ID = 4242
    HEADER = 4848  # bytes at the start of each row
    BLOCK = 32  # weights in a block
    BYTES = 1414  # bytes in a block


cdef void encode_block(const float *x, const float *weights, uint8_t *out) noexcept nogil:
    """Encode BLOCK weights to BYTES bytes. `weights` holds their error weights, or is NULL without importance."""
    memset(out, 0, BYTES)


cdef void decode_block(const uint8_t *block, float *out) noexcept nogil:
    """Decode BYTES bytes, which may be any bytes, to BLOCK weights."""
    memset(out, 0, BLOCK * sizeof(float))


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    """Return the number of rows that were encoded. Fewer than all means that the next row cannot be represented."""
    cdef const float *x
    cdef const float *weights = NULL
    cdef uint8_t *out
    cdef Py_ssize_t row, k
    for row in range(a.n_rows):
        x = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        if a.importance_kind != IMPORTANCE_NONE:
            weights = a.importance + row * a.importance_stride
        memset(out, 0, HEADER)
        out += HEADER
        for k in range(a.n_cols // BLOCK):
            encode_block(x + k * BLOCK, NULL if weights == NULL else weights + k * BLOCK, out + k * BYTES)
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const uint8_t *blocks
    cdef float *out
    cdef Py_ssize_t row, k
    for row in range(a.n_rows):
        blocks = a.src + row * a.src_stride + HEADER
        out = a.dst + row * a.dst_stride
        for k in range(a.n_cols // BLOCK):
            decode_block(blocks + k * BYTES, out + k * BLOCK)
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    """Return the column statistics as the error weights."""
    cdef Py_ssize_t row
    for row in range(s.n_rows):
        memcpy(s.dst + row * s.dst_stride, s.columns, s.n_cols * sizeof(float))
    return s.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows, NULL, HEADER)
