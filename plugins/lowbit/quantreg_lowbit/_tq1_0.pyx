# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""TQ1_0: blocks of 256 ternary weights, five per byte, under one scale, the largest magnitude. 1.6875 bits per weight.

    bytes 0-31   digit n of byte m is weight m + 32 * n             x = d * (digit - 1)
    bytes 32-47  digit n of byte 32 + m is weight 160 + m + 16 * n
    bytes 48-51  digit n of byte 48 + m is weight 240 + m + 4 * n; the fifth digit is 0
    bytes 52-53  d     float16

The five digits of a byte, each 0, 1 or 2, form a number t in base 3, the first digit being the most significant. The byte
is ceil(256 * t / 243), that is the fraction t / 3^5 in 8 bits. Multiplied by 3, the fraction carries its first digit into
bit 8 and leaves the fraction of the remaining digits, so decoding needs no division.
"""

from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.half cimport f16_is_finite, f32_to_f16, store_u16
from quantreg_kernels.lanes cimport (
    LANES, vf, vf_from_vi, vf_load, vf_set1_f16, vf_store, vi, vi_load, vi_load_u8, vi_store_u8x16,
)
from quantreg_lowbit._ternary_rounding cimport block_magnitude, inverse_magnitude, ternary

cdef enum:
    TYPE_ID = 34
    BLOCK = 256
    BYTES = 54
    VECTORS = 4     # 16 / LANES at 4 lanes, the most there can be


cdef inline vi as_fraction(vi t) noexcept nogil:
    """Return ceil(256 * t / 243), for t up to 242."""
    return (t * 69042 + 65535) >> 16


cdef inline void pack_five(const float *x, int stride, vf inverse, uint8_t *y) noexcept nogil:
    """Write 16 bytes. Digit n of byte m is weight x[m + stride * n]."""
    cdef vi t[VECTORS]
    cdef vi digit
    cdef int i, n
    for i in range(16 // LANES):
        t[i] = ternary(vf_load(x + LANES * i) * inverse)
        for n in range(1, 5):
            digit = ternary(vf_load(x + LANES * i + stride * n) * inverse)
            t[i] = t[i] + t[i] + t[i] + digit
        t[i] = as_fraction(t[i])
    vi_store_u8x16(y, t)


cdef inline void pack_four(const float *x, vf inverse, uint8_t *y) noexcept nogil:
    """Write the last 4 bytes, from 16 weights. Digit n of byte m is weight x[m + 4 * n]."""
    cdef vi digits[VECTORS]
    cdef uint8_t q[16]
    cdef int i, m
    for i in range(16 // LANES):
        digits[i] = ternary(vf_load(x + LANES * i) * inverse)
    vi_store_u8x16(q, digits)
    for m in range(4):
        y[m] = <uint8_t>((((q[m] * 81 + q[m + 4] * 27 + q[m + 8] * 9 + q[m + 12] * 3) * 256) + 242) // 243)


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
            pack_five(x, 32, inverse, block)
            pack_five(x + 16, 32, inverse, block + 16)
            pack_five(x + 160, 16, inverse, block + 32)
            pack_four(x + 240, inverse, block + 48)
            store_u16(block + 52, f32_to_f16(d))
            if not f16_is_finite(f32_to_f16(d)):
                return row
            x += BLOCK
            block += BYTES
    return a.n_rows


cdef inline void store_digit(float *out, vi fraction, vf d) noexcept nogil:
    """Write the weights that the first digits of the fractions stand for."""
    vf_store(out, vf_from_vi(((fraction + fraction + fraction) >> 8) - 1) * d)


cdef inline void unpack_five(const uint8_t *p, float *out, int stride, vf d) noexcept nogil:
    """Undo pack_five."""
    cdef vi fraction
    cdef int i, n
    for i in range(16 // LANES):
        fraction = vi_load_u8(p + LANES * i)
        for n in range(5):
            store_digit(out + LANES * i + stride * n, fraction, d)
            fraction = (fraction + fraction + fraction) & 255


cdef inline void unpack_two_fives(const uint8_t *p, int count, float *out, int stride, vf d) noexcept nogil:
    """Undo pack_five for 2 * count bytes. Bytes i and count + i share a lane, with 16 bits each."""
    cdef vi both
    cdef int i, n
    for i in range(count // LANES):
        both = vi_load_u8(p + LANES * i) | (vi_load_u8(p + count + LANES * i) << 16)
        for n in range(5):
            both = both + both + both
            vf_store(out + LANES * i + stride * n, vf_from_vi(((both >> 8) & 3) - 1) * d)
            vf_store(out + count + LANES * i + stride * n, vf_from_vi((both >> 24) - 1) * d)
            both = both & 0x00ff00ff


cdef inline void unpack_four(const uint8_t *p, float *out, vf d) noexcept nogil:
    """Undo pack_four. A byte times 1, 3, 9 or 27 has digit 0, 1, 2 or 3 in front."""
    cdef int32_t power[16]
    cdef uint8_t bytes[16]
    cdef int i
    for i in range(4):
        memcpy(bytes + 4 * i, p, 4)
        power[i] = 1
        power[i + 4] = 3
        power[i + 8] = 9
        power[i + 12] = 27
    for i in range(16 // LANES):
        store_digit(out + LANES * i, (vi_load_u8(bytes + LANES * i) * vi_load(power + LANES * i)) & 255, d)


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const uint8_t *block
    cdef float *out
    cdef vf d
    cdef Py_ssize_t row, _k
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = vf_set1_f16(block + 52)
            unpack_two_fives(block, 16, out, 32, d)
            if LANES <= 8:
                unpack_two_fives(block + 32, 8, out + 160, 16, d)
            else:
                unpack_five(block + 32, out + 160, 16, d)
            unpack_four(block + 48, out + 240, d)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
row_codec.takes_nonfinite = True
