# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q8_0: blocks of 32 weights with one scale. 8.5 bits per weight. Importance is ignored.

    bytes 0-1   d  float16         x = d * q
    bytes 2-33  q  signed bytes
"""

from libc.stdint cimport uint8_t

from quantreg_kernels.abi cimport DecodeArgs, DotArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.dot cimport dot_each
from quantreg_legacy._blocks cimport encode_in_groups
from quantreg_legacy._q8 cimport decode_q8_blocks, dot_q8, encode_q8_group

cdef enum:
    TYPE_ID = 8
    BLOCK = 32
    BYTES = 34


cdef unsigned int encode_group(const float *x, uint8_t *y) noexcept nogil:
    return encode_q8_group(x, y, False)


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    return encode_in_groups(a, BYTES, encode_group)


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    return decode_q8_blocks(a, False)


cdef float dot_row(const uint8_t *block, const float *x, Py_ssize_t n_cols) noexcept nogil:
    return dot_q8(block, x, n_cols)


cdef Py_ssize_t dot_rows(const RowCodec *codec, const DotArgs *a) noexcept nogil:
    return dot_each(codec, a, dot_row, decode_rows)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
row_codec.takes_nonfinite = True
row_codec.dot_rows = dot_rows
