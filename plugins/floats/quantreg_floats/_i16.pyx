# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""I16: signed integers of 16 bits. Encoding rounds to nearest even and refuses what does not fit."""

from libc.stdint cimport int16_t

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_floats._numbers cimport decode_numbers, encode_integers

cdef enum:
    TYPE_ID = 25
    BLOCK = 1
    BYTES = 2


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    return encode_integers(a, <int16_t>0)


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    return decode_numbers(a, <int16_t>0)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
