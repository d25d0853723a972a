# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""NVFP4: blocks of 64 4-bit floats (see _fp4.pxd), four sub-blocks of 16 with an 8-bit float scale each. 4.5 bits per weight.

    bytes 0-3   scale  ue4m3          x = scale[s] / 2 * doubled value
    bytes 4-35  code                  byte 4 + 8 * s + j holds weight 16 * s + j (low nibble) and 16 * s + 8 + j (high nibble)

The largest scale is 448 and the largest magnitude 6, so weights beyond 2688 are clamped.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.half cimport ue4m3_to_f32
from quantreg_kernels.lanes cimport (
    LANES, lanes_load_ahead, lanes_store_bytes, vf, vf_bits, vf_gt, vf_lt, vf_min, vf_select, vf_set1, vf_store, vi,
    vi_bits, vi_eq, vi_gt, vi_load_u8, vi_min, vi_select, vi_set1, vi_trunc, vm_any,
)
from quantreg_kernels.rows cimport AHEAD, Group, fill_group
from quantreg_microscaling._fp4 cimport magnitude, nearest_fp4, nearest_fp4_as_rounded, value_of, value_table

cdef enum:
    TYPE_ID = 40
    BLOCK = 64
    BYTES = 36
    SUB = 16
    VECTORS = 4     # 16 / LANES at 4 lanes, the most there can be


cdef inline vi nearest_ue4m3(vf a) noexcept nogil:
    """Round to ue4m3 as ggml does: halves up, and everything from 248 up to 448."""
    cdef vi normal = ((vi_bits(a) + (1 << 19)) >> 20) - ((127 - 7) << 3)
    cdef vi subnormal = vi_trunc(vf_min(a, vf_set1(1)) * vf_set1(512) + vf_set1(<float>0.5))
    normal = vi_select(vi_gt(normal, vi_set1((15 << 3) - 1)), vi_set1(126), normal)
    return vi_select(vf_lt(a, vf_set1(<float>0.015625)), vi_min(subnormal, vi_set1(7)), normal)


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef vf x[SUB]
    cdef vi code[SUB]
    cdef vi scales[4]
    cdef vi bytes[32]
    cdef vf amax, d
    cdef Py_ssize_t start = 0
    cdef int s, j
    while fill_group(&g, a, start, BLOCK, BYTES):
        for s in range(4):
            lanes_load_ahead(x, g.src, SUB * s, SUB, AHEAD)
            amax = magnitude(x, SUB)
            scales[s] = nearest_ue4m3(amax / vf_set1(6))
            d = vf_bits(scales[s] << 20) * vf_bits(vi_set1((127 + 119) << 23))
            d = vf_select(vi_eq(scales[s], vi_set1(0)), vf_set1(INFINITY), d)  # all codes are 0
            if vm_any(vf_gt(amax, vf_set1(<float>1e9))):
                nearest_fp4_as_rounded(x, SUB, d, code)
            else:
                nearest_fp4(x, SUB, d, code)
            for j in range(SUB // 2):
                bytes[SUB // 2 * s + j] = code[j] | (code[j + SUB // 2] << 4)
        lanes_store_bytes(g.dst, 0, scales, 4, g.live)
        lanes_store_bytes(g.dst, 4, bytes, BLOCK // 2, g.live)
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const uint8_t *block
    cdef float *out
    cdef uint64_t codes[2]
    cdef vf values[VECTORS]
    cdef vf scaled[VECTORS]
    cdef vf d
    cdef vi b
    cdef Py_ssize_t row, _k
    cdef int i, s
    value_table(values)
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            for s in range(4):
                d = vf_set1(ue4m3_to_f32(block[s]) * <float>0.5)
                for i in range(16 // LANES):
                    scaled[i] = values[i] * d
                if LANES <= 8:
                    for i in range(8 // LANES):
                        b = vi_load_u8(block + 4 + 8 * s + LANES * i)
                        vf_store(out + LANES * i, value_of(scaled, d, b))
                        vf_store(out + 8 + LANES * i, value_of(scaled, d, b >> 4))
                else:
                    memcpy(codes, block + 4 + 8 * s, 8)
                    codes[1] = codes[0] >> 4  # the high nibbles in the low ones
                    vf_store(out, value_of(scaled, d, vi_load_u8(<const uint8_t *>codes)))
                out += SUB
            block += BYTES
    return a.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
row_codec.takes_nonfinite = True
