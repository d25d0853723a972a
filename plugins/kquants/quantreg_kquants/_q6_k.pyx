# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q6_K: super-blocks of 256 weights, 16 sub-blocks of 16, each with a signed 8-bit scale. 6.5625 bits per weight.

    bytes 0-127   bits 0-3 of q: byte 64 * c + l holds weights 128 * c + l (low nibble) and + 64, for l in 0..63
    bytes 128-191 bits 4-5 of q: byte 128 + 32 * c + l holds weights 128 * c + l, + 32, + 64 and + 96, from the low bits up
    bytes 192-207 scale[j], int8                          x = d * scale[j] * (q - 32)
    bytes 208-209 d  float16
"""

from libc.stdint cimport int8_t, uint8_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport IMPORTANCE_NONE, DecodeArgs, DotArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.dot cimport (
    Sum, add_product, dot_each, end_sum, keep_stored, prefetch_block, start_sum, vf_fma, vf_from_vq, vf_near_two, vq, vq_and,
    vq_load, vq_load_twice, vq_merge, vq_shift,
)
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store_bytes, lanes_store_u16, vb, vb_load, vf, vf_from_f16, vf_from_vi, vf_lt, vf_set1,
    vf_set1_f16, vf_store, vi, vi_f16, vi_load_i8, vi_min, vi_nearest, vi_select, vi_set1, vm, vm_any,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kernels.search cimport largest, search_symmetric
from quantreg_kquants._search cimport requantize, store_2bit
from quantreg_kquants._unpack cimport field, put_centred

cdef enum:
    TYPE_ID = 14
    BLOCK = 256
    BYTES = 210


cdef inline void search_scales(const EncodeArgs *a, const Group *g, const vf *x, vf *q, vf *scale) noexcept nogil:
    """Find q in 0..63 and a float scale for each sub-block. The error weight is the importance itself; without any, x^2."""
    cdef vf w[16]
    cdef int i, j
    for j in range(0, BLOCK, 16):
        if a.importance_kind == IMPORTANCE_NONE:
            for i in range(16):
                w[i] = x[j + i] * x[j + i]
        else:
            lanes_load(w, g.importance, j, 16)
        scale[j // 16] = search_symmetric(x + j, w, q + j, 16, 32)


cdef struct Scratch:
    vf x[BLOCK]
    vf q[BLOCK]
    vi out[BLOCK]


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef Scratch *s = <Scratch *>a.scratch
    cdef vf *x = s.x
    cdef vf *q = s.q
    cdef vi *out = s.out
    cdef vi low[64]
    cdef vf scale[16]
    cdef vi scales[16]
    cdef vi d
    cdef vf df, peak, amax, inverse
    cdef vm zero
    cdef Py_ssize_t start = 0, bad
    cdef int c, j, l
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        search_scales(a, &g, x, q, scale)
        largest(scale, 16, &peak, &amax)
        zero = vf_lt(amax, vf_set1(<float>1e-15))  # the reference fills such a block with zero bytes, though q = 32 is 0
        inverse = vf_set1(-128) / peak
        d = vi_select(zero, vi_set1(0), vi_f16(vf_set1(1) / inverse))
        bad = keep_finite_rows(&g, d, d)
        df = vf_from_f16(d)
        for j in range(16):
            scales[j] = (vi_min(vi_nearest(inverse * scale[j]), vi_set1(127)) << 24) >> 24
            scales[j] = vi_select(zero, vi_set1(0), scales[j])
            requantize(x + 16 * j, q + 16 * j, 16, df * vf_from_vi(scales[j]), -32, 31, out + 16 * j)
        if vm_any(zero):
            for j in range(BLOCK):
                out[j] = vi_select(zero, vi_set1(0), out[j])
        for c in range(2):
            for l in range(64):
                low[l] = (out[128 * c + l] & 15) | ((out[128 * c + 64 + l] & 15) << 4)
            lanes_store_bytes(g.dst, 64 * c, low, 64, g.live)
        for j in range(BLOCK):
            out[j] = out[j] >> 4
        store_2bit(&g, 128, out)
        for j in range(16):
            scales[j] = scales[j] & 255
        lanes_store_bytes(g.dst, 192, scales, 16, g.live)
        lanes_store_u16(g.dst, 208, d, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef float scales[16]
    cdef const float *scale
    cdef float *to
    cdef vf d
    cdef vb b0, b1, high
    cdef int c, i, l
    cdef const uint8_t *block
    cdef float *out
    cdef Py_ssize_t row, _k
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = vf_set1_f16(block + 208)
            for i in range(16 // LANES):
                vf_store(scales + i * LANES, d * vf_from_vi(vi_load_i8(<const int8_t *>block + 192 + i * LANES)))
            for c in range(2):
                for l in range(2):
                    b0 = vb_load(block + 64 * c + 16 * l)
                    b1 = vb_load(block + 64 * c + 32 + 16 * l)
                    high = vb_load(block + 128 + 32 * c + 16 * l)
                    scale = scales + 8 * c + l
                    to = out + 128 * c + 16 * l
                    put_centred(to, field(b0, 0, 4, 0) | field(high, 0, 2, 4), 32, scale[0])
                    put_centred(to + 32, field(b1, 0, 4, 0) | field(high, 2, 2, 4), 32, scale[2])
                    put_centred(to + 64, field(b0, 4, 4, 0) | field(high, 4, 2, 4), 32, scale[4])
                    put_centred(to + 96, field(b1, 4, 4, 0) | field(high, 6, 2, 4), 32, scale[6])
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef inline void add_64(Sum *s, vq q, const float *scale, const float *x) noexcept nogil:
    """Add the products of 64 weights. With 16 lanes both fused steps are exact: scale * 160 and scale * q fit 24 bits."""
    cdef vf w
    cdef int i, j
    for i in range(64 // LANES):
        j = i * LANES
        if LANES == 16:
            w = vf_fma(vf_set1(scale[j // 16]), vf_near_two(q, j // LANES), vf_set1(scale[16 + j // 16]))
        else:
            w = vf_set1(scale[j // 16]) * (vf_from_vq(q, j // LANES) - vf_set1(32))
        add_product(s, j, w, x)


cdef float dot_row(const uint8_t *block, const float *x, Py_ssize_t n_cols) noexcept nogil:
    cdef float scales[32]
    cdef vf d, v
    cdef vq low, high
    cdef Sum s
    cdef int c, i
    cdef Py_ssize_t _k
    start_sum(&s)
    for _k in range(n_cols // BLOCK):
        prefetch_block(block, BYTES)
        d = vf_set1_f16(block + 208)
        for i in range(16 // LANES):
            v = d * vf_from_vi(vi_load_i8(<const int8_t *>block + 192 + i * LANES))
            if LANES == 16:  # x = 64 * scale * (2 + q / 64) - 160 * scale
                vf_store(scales, v * vf_set1(64))
                vf_store(scales + 16, v * vf_set1(-160))
            else:
                vf_store(scales + i * LANES, v)
        keep_stored(scales)
        for c in range(2):
            low = vq_load(block + 64 * c)
            high = vq_load_twice(block + 128 + 32 * c)
            add_64(&s, vq_merge(15, low, vq_and(vq_shift(high, -4, -2), 48)), scales + 8 * c, x + 128 * c)
            add_64(&s, vq_merge(15, vq_shift(low, 4, 4), vq_and(vq_shift(high, 0, 2), 48)), scales + 8 * c + 4,
                   x + 128 * c + 64)
        block += BYTES
        x += BLOCK
    return end_sum(&s)


cdef Py_ssize_t dot_rows(const RowCodec *codec, const DotArgs *a) noexcept nogil:
    return dot_each(codec, a, dot_row, decode_rows)


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(s.n_rows):
        memcpy(s.dst + row * s.dst_stride, s.columns, s.n_cols * sizeof(float))
    return s.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
row_codec.dot_rows = dot_rows
row_codec.scratch_size = sizeof(Scratch)
