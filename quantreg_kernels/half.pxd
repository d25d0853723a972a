# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Scalar conversions between float32 and the small float formats, bit-exact. The lane versions are in lanes.h."""

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
    """Two bytes, little-endian, at any alignment."""
    return <uint16_t>(p[0] | (p[1] << 8))


cdef inline void store_u16(uint8_t *p, uint16_t v) noexcept nogil:
    p[0] = <uint8_t>(v & 0xff)
    p[1] = <uint8_t>(v >> 8)


cdef inline float f16_to_f32(uint16_t h) noexcept nogil:
    """IEEE 754 binary16. A subnormal is the mantissa of a number from 0.5 on, minus 0.5: to rescale it as a float would be
    to multiply a subnormal, which takes many times longer on most processors."""
    cdef uint32_t sign = <uint32_t>(h & 0x8000) << 16
    cdef uint32_t a = h & 0x7fff
    if a >= 0x7c00:  # infinity, or a NaN, which becomes quiet
        return float_from_bits(sign | 0x7f800000 | (a << 13) | (0x400000 if a > 0x7c00 else 0))
    if a < 0x0400:
        return float_from_bits(sign | bits_from_float(float_from_bits(0x3f000000 | a) - <float>0.5))
    return float_from_bits(sign | ((a << 13) + (<uint32_t>112 << 23)))


cdef inline uint16_t f32_to_f16(float f) noexcept nogil:
    """To nearest, ties to even; 65520 and beyond becomes infinity, any NaN 0x7e00 with its sign."""
    cdef uint32_t bits = bits_from_float(f)
    cdef uint32_t sign = (bits >> 16) & 0x8000
    cdef uint32_t a = bits & 0x7fffffff
    if a > 0x7f800000:
        return <uint16_t>(sign | 0x7e00)
    if a >= <uint32_t>143 << 23:  # 2^16 and more
        return <uint16_t>(sign | 0x7c00)
    if a < <uint32_t>113 << 23:  # subnormal or zero: adding 0.5 shifts and rounds
        return <uint16_t>(sign | (bits_from_float(float_from_bits(a) + <float>0.5) - bits_from_float(<float>0.5)))
    return <uint16_t>(sign | (((a + 0xfff + ((a >> 13) & 1)) >> 13) - ((127 - 15) << 10)))


cdef inline float load_f16(const uint8_t *p) noexcept nogil:
    return f16_to_f32(load_u16(p))


cdef inline bint f16_is_finite(uint16_t h) noexcept nogil:
    return (h & 0x7c00) != 0x7c00


cdef inline float bf16_to_f32(uint16_t h) noexcept nogil:
    """The upper half of a float32."""
    return float_from_bits(<uint32_t>h << 16)


cdef inline uint16_t f32_to_bf16(float f) noexcept nogil:
    """To nearest, ties to even; a NaN keeps its upper bits and becomes quiet."""
    cdef uint32_t bits = bits_from_float(f)
    if (bits & 0x7fffffff) > 0x7f800000:
        return <uint16_t>((bits >> 16) | 64)
    return <uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)


cdef inline float half_e8m0_to_f32(uint8_t e) noexcept nogil:
    """2^(e - 128), half of what e8m0 stands for, so that 255 fits. No value is a NaN here."""
    return float_from_bits(<uint32_t>(e - 1) << 23 if e > 1 else <uint32_t>0x00200000 << e)


cdef inline float ue4m3_to_f32(uint8_t e) noexcept nogil:
    """Four bits of exponent, three of mantissa, placed where float32 has them. A subnormal gets a leading one, which is
    subtracted again: arithmetic on float32's own subnormals is slow. The sign bit is ignored. As ggml reads them 127, the
    format's NaN, is 0, and 255 is 480."""
    cdef uint32_t bits = e & 127
    cdef bint subnormal = bits < 8
    if e == 127:
        return 0
    return float_from_bits((bits << 20) + ((<uint32_t>120 + subnormal) << 23)) - (<float>0.015625 if subnormal else <float>0)
