# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q4_K: super-blocks of 256 weights, 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit min. 4.5 bits per weight.

    bytes 0-1    d     float16                    x = d * scale[j] * q - dmin * min[j]
    bytes 2-3    dmin  float16
    bytes 4-15   8 scales and 8 mins of 6 bits: pack_k4 in _search.pxd draws them
    bytes 16-143 q: byte 16 + 32 * c + l holds weight 64 * c + l (low nibble) and weight 64 * c + 32 + l (high nibble)
"""

from libc.stdint cimport uint8_t

from quantreg_kernels.abi cimport DecodeArgs, DotArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.dot cimport Sum, dot_each, end_sum, prefetch_block, start_sum
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store_bytes, lanes_store_u16, vb, vb_load, vf, vf_from_f16, vf_from_vi, vi,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kquants._search cimport (
    MinSearch, Searched, pack_k4, requantize_above_min, score_super_blocks, search_scales_mins, unpack_k4,
)
from quantreg_kquants._unpack cimport K4, add_nibbles, field, fill_k4, k4_dot_steps, k4_steps, put_above_min

cdef enum:
    TYPE_ID = 12
    BLOCK = 256
    BYTES = 144


cdef inline MinSearch search() noexcept nogil:
    return MinSearch(sub=32, nmax=15, top=63, variance=2, first=-1, step=<float>0.1, n_steps=20, absolute=False)


cdef struct Scratch:
    Searched searched
    vi out[64]


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef MinSearch p = search()
    cdef Group g
    cdef Scratch *scratch = <Scratch *>a.scratch
    cdef Searched *s = &scratch.searched
    cdef vi *out = scratch.out
    cdef vi scales[8]
    cdef vi mins[8]
    cdef vi packed[12]
    cdef vi d, dmin
    cdef vf df, mf
    cdef Py_ssize_t start = 0, bad
    cdef int c, i, l
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(s.x, g.src, 0, BLOCK)
        search_scales_mins(a, &g, s, &p, &d, &dmin, scales, mins)
        bad = keep_finite_rows(&g, d, dmin)
        pack_k4(scales, mins, packed)
        unpack_k4(packed, scales, mins)
        lanes_store_u16(g.dst, 0, d, g.live)
        lanes_store_u16(g.dst, 2, dmin, g.live)
        lanes_store_bytes(g.dst, 4, packed, 12, g.live)
        df = vf_from_f16(d)
        mf = vf_from_f16(dmin)
        for c in range(4):
            for i in range(2):
                requantize_above_min(s.x + 64 * c + 32 * i, s.q + 64 * c + 32 * i, 32, df * vf_from_vi(scales[2 * c + i]),
                                     mf * vf_from_vi(mins[2 * c + i]), 15, out + 32 * i)
            for l in range(32):
                out[l] = out[l] | (out[l + 32] << 4)
            lanes_store_bytes(g.dst, 16 + 32 * c, out, 32, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef float steps[16]
    cdef vb b
    cdef int c, l
    cdef const uint8_t *block
    cdef float *out
    cdef Py_ssize_t row, _k
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            k4_steps(block, steps)
            for c in range(4):
                for l in range(0, 32, 16):
                    b = vb_load(block + 16 + 32 * c + l)
                    put_above_min(out + 64 * c + l, field(b, 0, 4, 0), steps[2 * c], steps[2 * c + 8])
                    put_above_min(out + 64 * c + 32 + l, field(b, 4, 4, 0), steps[2 * c + 1], steps[2 * c + 9])
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef float dot_row(const uint8_t *block, const float *x, Py_ssize_t n_cols) noexcept nogil:
    cdef K4 k4
    cdef float steps[16]
    cdef Sum s
    cdef int c
    cdef Py_ssize_t _k
    fill_k4(&k4)
    start_sum(&s)
    for _k in range(n_cols // BLOCK):
        prefetch_block(block, BYTES)
        k4_dot_steps(&k4, block, steps)
        for c in range(4):
            add_nibbles(&s, block + 16 + 32 * c, steps + 2 * c, x + 64 * c)
        block += BYTES
        x += BLOCK
    return end_sum(&s)


cdef Py_ssize_t dot_rows(const RowCodec *codec, const DotArgs *a) noexcept nogil:
    return dot_each(codec, a, dot_row, decode_rows)


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_super_blocks(s, search().variance)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
row_codec.dot_rows = dot_rows
row_codec.scratch_size = sizeof(Scratch)
