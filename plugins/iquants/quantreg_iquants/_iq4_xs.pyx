# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ4_XS: super-blocks of 256 weights, 8 sub-blocks of 32 with a 6-bit scale each. 4.25 bits per weight.

Each weight is on one of the 16 uneven levels of IQ4_NL.

    bytes 0-1    d  float16                        x = d * (scale[j] - 32) * value[q]
    bytes 2-3    upper two bits of the scales: bits 2 * j and 2 * j + 1 belong to sub-block j
    bytes 4-7    lower four bits of the scales: byte 4 + j holds sub-block 2 * j (low nibble) and 2 * j + 1 (high nibble)
    bytes 8-135  q: byte 8 + 16 * j + l holds weight 32 * j + l (low nibble) and 32 * j + 16 + l (high nibble)
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from quantreg_iquants._iq4 cimport Choice, Levels, decode_levels, fill_levels, search_levels, store_levels
from quantreg_iquants._score cimport block_sigma2, error_weights, score_blocks
from quantreg_kernels.abi cimport DecodeArgs, DotArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.dot cimport Sum, add_product, dot_each, end_sum, keep_stored, prefetch_block, start_sum, vi_spread4
from quantreg_kernels.half cimport load_f16, load_u16
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store_bytes, lanes_store_u16, vf, vf_abs, vf_from_vi, vf_gt, vf_load, vf_lookup16, vf_ne,
    vf_select, vf_set1, vf_store, vi, vi_clamp, vi_f16, vi_load_u8, vi_nearest, vi_set1, vi_shr, vi_spread2, vm,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows

cdef enum:
    TYPE_ID = 23
    BLOCK = 256
    BYTES = 136


cdef inline vf inverse_or_zero(vf v) noexcept nogil:
    return vf_select(vf_ne(v, vf_set1(0)), vf_set1(1) / v, vf_set1(0))


cdef struct Scratch:
    vf x[BLOCK]


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Levels levels
    cdef Group g
    cdef Choice choice[32]
    cdef vf *x = (<Scratch *>a.scratch).x
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


cdef inline int scale_of(const uint8_t *block, int high, int j) noexcept nogil:
    return (((block[4 + j // 2] >> (4 * (j % 2))) & 15) | (((high >> (2 * j)) & 3) << 4)) - 32


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef Levels levels
    cdef const uint8_t *block
    cdef float *out
    cdef float d
    cdef Py_ssize_t row, _k
    cdef int high, j
    fill_levels(&levels)
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = load_f16(block)
            high = load_u16(block + 2)
            for j in range(8):
                decode_levels(&levels, block + 8 + 16 * j, d * <float>scale_of(block, high, j), out + 32 * j)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef float dot_row(const uint8_t *block, const float *x, Py_ssize_t n_cols) noexcept nogil:
    cdef Levels levels
    cdef float scales[16]
    cdef float out[32]
    cdef vf table
    cdef vi b
    cdef float d
    cdef uint32_t low
    cdef Sum s
    cdef Py_ssize_t _k
    cdef int high, i, j, k, l
    fill_levels(&levels)
    start_sum(&s)
    for _k in range(n_cols // BLOCK):
        prefetch_block(block, BYTES)
        d = load_f16(block)
        high = load_u16(block + 2)
        if LANES == 16:
            memcpy(&low, block + 4, 4)
            vf_store(scales, vf_set1(d) * vf_from_vi((vi_spread4(low) | (vi_spread2(high) << 4)) - 32))
            keep_stored(scales)
        for i in range(0, 8, 2):
            for j in range(2):  # the compiler has to know which part of the sum is whose
                if LANES == 16:  # the 16 weights that there can be, looked up
                    table = vf_set1(scales[i + j]) * levels.value[0]
                    b = vi_load_u8(block + 8 + 16 * (i + j))
                    add_product(&s, 32 * j, vf_lookup16(&table, b), x + 32 * i)
                    add_product(&s, 32 * j + 16, vf_lookup16(&table, vi_shr(b, 4)), x + 32 * i)
                else:
                    decode_levels(&levels, block + 8 + 16 * (i + j), d * <float>scale_of(block, high, i + j), out)
                    for k in range(32 // LANES):
                        l = k * LANES
                        add_product(&s, 32 * j + l, vf_load(out + l), x + 32 * i)
        block += BYTES
        x += BLOCK
    return end_sum(&s)


cdef Py_ssize_t dot_rows(const RowCodec *codec, const DotArgs *a) noexcept nogil:
    return dot_each(codec, a, dot_row, decode_rows)


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks(s, BLOCK)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
row_codec.dot_rows = dot_rows
row_codec.scratch_size = sizeof(Scratch)
