# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""F16: IEEE 754 binary16. Magnitudes of 65520 and more would round to infinity and are refused."""

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_floats._numbers cimport decode_halves, encode_halves

cdef enum:
    TYPE_ID = 1
    BLOCK = 1
    BYTES = 2


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    return encode_halves(a, False, <float>65520)


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    return decode_halves(a, False)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
row_codec.takes_nonfinite = True
