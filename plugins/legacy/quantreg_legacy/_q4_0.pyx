# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q4_0: blocks of 32 weights with one scale. 4.5 bits per weight.

    bytes 0-1   d  float16         x = d * (q - 8)
    bytes 2-17  q: byte 2 + j holds weight j (low nibble) and weight 16 + j (high nibble)
"""

from libc.stdint cimport uint8_t

from quantreg_kernels.abi cimport IMPORTANCE_NONE, DecodeArgs, DotArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.dot cimport dot_each
from quantreg_legacy._blocks cimport encode_in_groups
from quantreg_legacy._nibbles cimport decode_blocks, dot_nibbles, encode_group, encode_weighted, score_blocks

cdef enum:
    TYPE_ID = 2
    BLOCK = 32
    BYTES = 18
    BITS = 4
    MINIMUM = 0


cdef unsigned int encode_plain(const float *x, uint8_t *y) noexcept nogil:
    return encode_group(x, y, BITS, MINIMUM)


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    if a.importance_kind == IMPORTANCE_NONE:
        return encode_in_groups(a, BYTES, encode_plain)
    return encode_weighted(a, BITS, MINIMUM)


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    return decode_blocks(a, BITS, MINIMUM)


cdef float dot_row(const uint8_t *block, const float *x, Py_ssize_t n_cols) noexcept nogil:
    return dot_nibbles(block, x, n_cols, MINIMUM)


cdef Py_ssize_t dot_rows(const RowCodec *codec, const DotArgs *a) noexcept nogil:
    return dot_each(codec, a, dot_row, decode_rows)


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks(s)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
row_codec.takes_nonfinite = True
row_codec.dot_rows = dot_rows
