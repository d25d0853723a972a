# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q5_0: blocks of 32 weights with one scale. 5.5 bits per weight.

    bytes 0-1   d  float16         x = d * (q - 16)
    bytes 2-5   32 bits from the low bit of byte 2 up: bit j is the top bit of weight j
    bytes 6-21  byte 6 + j holds the low 4 bits of weight j (low nibble) and of weight 16 + j (high nibble)
"""

from libc.stdint cimport uint8_t

from quantreg_kernels.abi cimport IMPORTANCE_NONE, DecodeArgs, DotArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.dot cimport dot_decoded
from quantreg_legacy._blocks cimport encode_in_groups
from quantreg_legacy._nibbles cimport decode_blocks, encode_group, encode_weighted, score_blocks

cdef enum:
    TYPE_ID = 6
    BLOCK = 32
    BYTES = 22
    BITS = 5
    MINIMUM = 0


cdef unsigned int encode_plain(const float *x, uint8_t *y) noexcept nogil:
    return encode_group(x, y, BITS, MINIMUM)


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    if a.importance_kind == IMPORTANCE_NONE:
        return encode_in_groups(a, BYTES, encode_plain)
    return encode_weighted(a, BITS, MINIMUM)


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    return decode_blocks(a, BITS, MINIMUM)


cdef Py_ssize_t dot_rows(const RowCodec *codec, const DotArgs *a) noexcept nogil:
    return dot_decoded(codec, a, decode_rows)


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks(s)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
row_codec.takes_nonfinite = True
row_codec.dot_rows = dot_rows
