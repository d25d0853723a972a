# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""TQ2_0: blocks of 256 ternary weights of two bits under one scale, the largest magnitude. 2.0625 bits per weight.

    bytes 0-63   q                   byte 32 * c + m holds weights 128 * c + m, + 32, + 64 and + 96, from the low bits up
    bytes 64-65  d     float16       x = d * (q - 1)

q = 3 decodes to 2 * d, but no encoder writes it.
"""

from libc.stdint cimport uint8_t

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.half cimport f16_is_finite, f32_to_f16, store_u16
from quantreg_kernels.lanes cimport (
    LANES, vf, vf_from_vi, vf_load, vf_lookup4, vf_set1_f16, vf_store, vi, vi_load_u8, vi_shr, vi_store_u8x16,
)
from quantreg_lowbit._ternary_rounding cimport block_magnitude, inverse_magnitude, ternary

cdef enum:
    TYPE_ID = 35
    BLOCK = 256
    BYTES = 66
    VECTORS = 4     # 16 / LANES at 4 lanes, the most there can be


cdef inline void pack_four(const float *x, vf inverse, uint8_t *y) noexcept nogil:
    """Write 16 bytes. Byte m holds weights x[m], x[m + 32], x[m + 64] and x[m + 96], from the low bits up."""
    cdef vi q[VECTORS]
    cdef int i, n
    for i in range(16 // LANES):
        q[i] = ternary(vf_load(x + LANES * i) * inverse)
        for n in range(1, 4):
            q[i] = q[i] | (ternary(vf_load(x + LANES * i + 32 * n) * inverse) << (2 * n))
    vi_store_u8x16(y, q)


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef const float *x
    cdef uint8_t *block
    cdef float d
    cdef vf inverse
    cdef Py_ssize_t row, _k
    for row in range(a.n_rows):
        x = a.src + row * a.src_stride
        block = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = block_magnitude(x, BLOCK)
            inverse = inverse_magnitude(d)
            pack_four(x, inverse, block)
            pack_four(x + 16, inverse, block + 16)
            pack_four(x + 128, inverse, block + 32)
            pack_four(x + 144, inverse, block + 48)
            store_u16(block + 64, f32_to_f16(d))
            if not f16_is_finite(f32_to_f16(d)):
                return row
            x += BLOCK
            block += BYTES
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const uint8_t *block
    cdef float *out
    cdef float levels[LANES]
    cdef vf d, values
    cdef vi b
    cdef Py_ssize_t row, _k
    cdef int c, i, n
    for i in range(LANES):
        levels[i] = <float>(i % 4 - 1)
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = vf_set1_f16(block + 64)
            values = vf_load(levels) * d
            for c in range(2):
                for i in range(32 // LANES):
                    b = vi_load_u8(block + 32 * c + LANES * i)
                    for n in range(4):
                        if LANES == 4:  # a look-up takes more instructions there
                            vf_store(out + 128 * c + LANES * i + 32 * n, vf_from_vi(((b >> (2 * n)) & 3) - 1) * d)
                        else:
                            vf_store(out + 128 * c + LANES * i + 32 * n, vf_lookup4(values, vi_shr(b, 2 * n)))
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
row_codec.takes_nonfinite = True
