# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bit-exact conversions of single numbers between float32 and small float formats. lanes.h converts whole vectors."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy


cdef inline float float_from_bits(uint32_t bits) noexcept nogil:
    cdef float f
    memcpy(&f, &bits, 4)
    return f


cdef inline uint32_t bits_from_float(float f) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, &f, 4)
    return bits


cdef inline uint16_t load_u16(const uint8_t *p) noexcept nogil:
    """Load two little-endian bytes at any alignment."""
    return <uint16_t>(p[0] | (p[1] << 8))


cdef inline void store_u16(uint8_t *p, uint16_t v) noexcept nogil:
    p[0] = <uint8_t>(v & 0xff)
    p[1] = <uint8_t>(v >> 8)


cdef inline float f16_to_f32(uint16_t h) noexcept nogil:
    """Convert IEEE 754 binary16; a NaN becomes quiet.

    A subnormal is read as 0.5 plus its value, minus 0.5. Scaling it as a float32 would multiply a float32 subnormal,
    which takes many times longer on most processors.
    """
    cdef uint32_t sign = <uint32_t>(h & 0x8000) << 16
    cdef uint32_t a = h & 0x7fff
    if a >= 0x7c00:  # infinity or NaN
        return float_from_bits(sign | 0x7f800000 | (a << 13) | (0x400000 if a > 0x7c00 else 0))
    if a < 0x0400:
        return float_from_bits(sign | bits_from_float(float_from_bits(0x3f000000 | a) - <float>0.5))
    return float_from_bits(sign | ((a << 13) + (<uint32_t>112 << 23)))


cdef inline uint16_t f32_to_f16(float f) noexcept nogil:
    """Round to nearest, ties to even. 65520 and more becomes infinity, and a NaN becomes 0x7e00 with its sign."""
    cdef uint32_t bits = bits_from_float(f)
    cdef uint32_t sign = (bits >> 16) & 0x8000
    cdef uint32_t a = bits & 0x7fffffff
    if a > 0x7f800000:
        return <uint16_t>(sign | 0x7e00)
    if a >= <uint32_t>143 << 23:  # 2^16 and more
        return <uint16_t>(sign | 0x7c00)
    if a < <uint32_t>113 << 23:  # subnormal or zero: adding 0.5 shifts the bits and rounds them
        return <uint16_t>(sign | (bits_from_float(float_from_bits(a) + <float>0.5) - bits_from_float(<float>0.5)))
    return <uint16_t>(sign | (((a + 0xfff + ((a >> 13) & 1)) >> 13) - ((127 - 15) << 10)))


cdef inline float load_f16(const uint8_t *p) noexcept nogil:
    return f16_to_f32(load_u16(p))


cdef inline bint f16_is_finite(uint16_t h) noexcept nogil:
    return (h & 0x7c00) != 0x7c00


cdef inline float half_e8m0_to_f32(uint8_t e) noexcept nogil:
    """Return 2^(e - 128), which is half of the e8m0 value, so that 255 fits. No value of e is a NaN."""
    return float_from_bits(<uint32_t>(e - 1) << 23 if e > 1 else <uint32_t>0x00200000 << e)


cdef inline float ue4m3_to_f32(uint8_t e) noexcept nogil:
    """Convert a float of four exponent bits and three mantissa bits; the sign bit is ignored.

    As in ggml, 127 (the format's NaN) is 0 and 255 is 480. A subnormal gets a leading one that is subtracted again,
    because arithmetic on subnormals of float32 is slow.
    """
    cdef uint32_t bits = e & 127
    cdef bint subnormal = bits < 8
    if e == 127:
        return 0
    return float_from_bits((bits << 20) + ((<uint32_t>120 + subnormal) << 23)) - (<float>0.015625 if subnormal else <float>0)
