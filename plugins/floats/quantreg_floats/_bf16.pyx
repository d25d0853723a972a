# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""BF16: the upper half of an IEEE 754 binary32, rounded to nearest even.

Magnitudes of 0x1.ff p127 and more would round to infinity and are refused.
"""

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.half cimport float_from_bits
from quantreg_floats._numbers cimport decode_halves, encode_halves

cdef enum:
    TYPE_ID = 30
    BLOCK = 1
    BYTES = 2


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    return encode_halves(a, True, float_from_bits(0x7f7f8000))


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    return decode_halves(a, True)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
row_codec.takes_nonfinite = True
