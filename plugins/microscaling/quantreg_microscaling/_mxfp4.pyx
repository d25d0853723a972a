# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""MXFP4: blocks of 32 4-bit floats (see _fp4.pxd) with a power of two as scale. 4.25 bits per weight.

    byte  0     e     e8m0            x = 2^(e - 128) * doubled value
    bytes 1-16  code                  byte 1 + j holds weight j (low nibble) and weight 16 + j (high nibble)
"""

from libc.stdint cimport uint8_t

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.half cimport half_e8m0_to_f32
from quantreg_kernels.lanes cimport (
    LANES, lanes_load_ahead, lanes_store_bytes, vf, vf_bits, vf_eq, vf_from_vi, vf_lt, vf_select, vf_set1, vf_store, vi,
    vi_bits, vi_eq, vi_get, vi_gt, vi_load_u8, vi_lt, vi_select, vi_set1, vi_trunc, vm, vm_any,
)
from quantreg_kernels.rows cimport AHEAD, Group, fill_group
from quantreg_microscaling._fp4 cimport magnitude, nearest_fp4, nearest_fp4_as_rounded, value_of, value_table

cdef enum:
    TYPE_ID = 39
    BLOCK = 32
    BYTES = 17
    VECTORS = 4     # 16 / LANES at 4 lanes, the most there can be


cdef inline vi floor_log2(vf a) noexcept nogil:
    """Return floor(log2f(a)) for a > 0, where log2f rounds correctly.

    That is the exponent of a, except just below a power of two 2^n, where the logarithm rounds up to n. For
    a = 2^n * (1 - u / 2^24) the logarithm is n - u / (2^24 * ln 2). It rounds to n if this is within half a unit in the last
    place, that is 2^(e - 24), where e is the exponent of the floats just below n. So it rounds up if u < 2^e * ln 2, which
    is called the reach here and is 88 at most. a lies u floats below 2^n, so adding the reach to the bits of a carries into
    the exponent exactly where the logarithm rounds up.
    """
    cdef vm subnormal = vf_lt(a, vf_bits(vi_set1(1 << 23)))
    cdef vf scaled = vf_select(subnormal, a * vf_set1(<float>16777216), a)
    cdef vi n = (vi_bits(scaled) >> 23) - vi_select(subnormal, vi_set1(126 + 24), vi_set1(126))
    cdef vi next_to = vi_select(vi_gt(n, vi_set1(0)), n - 1, -n)
    cdef vf power = vf_bits(vi_bits(vf_from_vi(next_to)) & 0x7f800000)
    cdef vi reach = vi_trunc(power * vf_set1(<float>0.69314718))
    return n - 1 + (((vi_bits(scaled) & 0x007fffff) + reach) >> 23)


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef vf x[BLOCK]
    cdef vi code[BLOCK]
    cdef vf amax, d
    cdef vi e
    cdef Py_ssize_t start = 0
    cdef int j
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load_ahead(x, g.src, 0, BLOCK, AHEAD)
        amax = magnitude(x, BLOCK)
        # below 2^-125 the reference's byte wraps around: the scale is huge, and all codes are 0
        e = vi_select(vf_eq(amax, vf_set1(0)), vi_set1(0), (floor_log2(amax) + 125) & 255)
        d = vf_bits(vi_select(vi_lt(e, vi_set1(2)), vi_set1(0x00200000) + (e << 21), (e - 1) << 23))
        if vm_any(vi_eq(e, vi_set1(253))):  # the largest values times d overflow
            nearest_fp4_as_rounded(x, BLOCK, d, code)
        else:
            nearest_fp4(x, BLOCK, d, code)
        for j in range(BLOCK // 2):
            code[j] = code[j] | (code[j + BLOCK // 2] << 4)
        for j in range(g.live):
            g.dst[j][0] = <uint8_t>vi_get(e, j)
        lanes_store_bytes(g.dst, 1, code, BLOCK // 2, g.live)
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const uint8_t *block
    cdef float *out
    cdef vf values[VECTORS]
    cdef vf scaled[VECTORS]
    cdef vf d
    cdef vi b
    cdef Py_ssize_t row, _k
    cdef int i
    value_table(values)
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = vf_set1(half_e8m0_to_f32(block[0]))
            for i in range(16 // LANES):
                scaled[i] = values[i] * d
            for i in range(16 // LANES):
                b = vi_load_u8(block + 1 + LANES * i)
                vf_store(out + LANES * i, value_of(scaled, d, b))
                vf_store(out + 16 + LANES * i, value_of(scaled, d, b >> 4))
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
row_codec.takes_nonfinite = True
