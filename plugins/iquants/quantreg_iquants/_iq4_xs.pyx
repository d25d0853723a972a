# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ4_XS: super-blocks of 256 weights, 8 sub-blocks of 32 with a 6-bit scale each. 4.25 bits per weight.

Each weight is on one of the 16 uneven levels of IQ4_NL.

    bytes 0-1    d  float16                        x = d * (scale[j] - 32) * value[q]
    bytes 2-3    upper two bits of the scales: bits 2 * j and 2 * j + 1 belong to sub-block j
    bytes 4-7    lower four bits of the scales: byte 4 + j holds sub-block 2 * j (low nibble) and 2 * j + 1 (high nibble)
    bytes 8-135  q: byte 8 + 16 * j + l holds weight 32 * j + l (low nibble) and 32 * j + 16 + l (high nibble)
"""

from libc.stdint cimport uint8_t

from quantreg_iquants._iq4 cimport Choice, Levels, decode_levels, fill_levels, search_levels, store_levels
from quantreg_iquants._score cimport block_sigma2, error_weights, score_blocks
from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16, load_u16
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store_bytes, lanes_store_u16, vf, vf_abs, vf_from_vi, vf_gt, vf_ne, vf_select, vf_set1, vi, vi_clamp,
    vi_f16, vi_nearest, vi_set1, vm,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows

cdef enum:
    TYPE_ID = 23
    BLOCK = 256
    BYTES = 136


cdef inline vf inverse_or_zero(vf v) noexcept nogil:
    return vf_select(vf_ne(v, vf_set1(0)), vf_set1(1) / v, vf_set1(0))


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Levels levels
    cdef Group g
    cdef Choice choice[32]
    cdef vf x[BLOCK]
    cdef vf w[32]
    cdef vf scales[8]
    cdef vi packed[16]
    cdef vi level[8]
    cdef vi low[4]
    cdef vf sigma2, peak, amax, d, inverse
    cdef vi half, high
    cdef vm greater
    cdef Py_ssize_t start = 0, bad
    cdef int j
    fill_levels(&levels)
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        sigma2 = block_sigma2(x, BLOCK)
        peak = vf_set1(0)
        amax = vf_set1(0)
        for j in range(8):
            error_weights(a, &g, x + 32 * j, sigma2, 32 * j, 32, w)
            scales[j] = search_levels(&levels, x + 32 * j, w, choice)
            greater = vf_gt(vf_abs(scales[j]), amax)
            peak = vf_select(greater, scales[j], peak)
            amax = vf_select(greater, vf_abs(scales[j]), amax)
        d = -peak / vf_set1(32)
        half = vi_f16(d)
        bad = keep_finite_rows(&g, half, half)
        lanes_store_u16(g.dst, 0, half, g.live)
        inverse = inverse_or_zero(d)
        high = vi_set1(0)
        for j in range(8):
            level[j] = vi_clamp(vi_nearest(inverse * scales[j]), -32, 31)
            store_levels(&levels, x + 32 * j, inverse_or_zero(d * vf_from_vi(level[j])), packed)
            lanes_store_bytes(g.dst, 8 + 16 * j, packed, 16, g.live)
            level[j] = level[j] + 32
            high = high | ((level[j] >> 4) << (2 * j))
        for j in range(4):
            low[j] = (level[2 * j] & 15) | ((level[2 * j + 1] & 15) << 4)
        lanes_store_u16(g.dst, 2, high, g.live)
        lanes_store_bytes(g.dst, 4, low, 4, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef Levels levels
    cdef const uint8_t *block
    cdef float *out
    cdef float d
    cdef Py_ssize_t row, _k
    cdef int high, scale, j
    fill_levels(&levels)
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = load_f16(block)
            high = load_u16(block + 2)
            for j in range(8):
                scale = ((block[4 + j // 2] >> (4 * (j % 2))) & 15) | (((high >> (2 * j)) & 3) << 4)
                decode_levels(&levels, block + 8 + 16 * j, d * <float>(scale - 32), out + 32 * j)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks(s, BLOCK)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
