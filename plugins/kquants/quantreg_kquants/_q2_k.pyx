# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q2_K: super-blocks of 256 weights, 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit min. 2.625 bits per weight.

    bytes 0-15   byte j: scale[j] (low nibble), min[j]     x = d * scale[j] * q - dmin * min[j]
    bytes 16-79  q: byte 16 + 32 * c + l holds weights 128 * c + l, + 32, + 64 and + 96, from the low bits up
    bytes 80-81  d     float16
    bytes 82-83  dmin  float16
"""

from libc.stdint cimport uint8_t

from quantreg_kernels.abi cimport DecodeArgs, DotArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.dot cimport dot_decoded
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store_bytes, lanes_store_u16, vb, vb_load, vf, vf_from_f16, vf_from_vi, vf_set1_f16,
    vf_store, vi, vi_load_u8,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kquants._search cimport (
    MinSearch, Searched, requantize_above_min, score_super_blocks, search_scales_mins, store_2bit,
)
from quantreg_kquants._unpack cimport field, put_above_min

cdef enum:
    TYPE_ID = 10
    BLOCK = 256
    BYTES = 84


cdef inline MinSearch search() noexcept nogil:
    return MinSearch(sub=16, nmax=3, top=15, variance=1, first=<float>-0.5, step=<float>0.1, n_steps=15, absolute=True)


cdef struct Scratch:
    Searched searched
    vi out[BLOCK]


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef MinSearch p = search()
    cdef Group g
    cdef Scratch *scratch = <Scratch *>a.scratch
    cdef Searched *s = &scratch.searched
    cdef vi *out = scratch.out
    cdef vi scales[16]
    cdef vi mins[16]
    cdef vi d, dmin
    cdef vf df, mf
    cdef Py_ssize_t start = 0, bad
    cdef int j
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(s.x, g.src, 0, BLOCK)
        search_scales_mins(a, &g, s, &p, &d, &dmin, scales, mins)
        bad = keep_finite_rows(&g, d, dmin)
        df = vf_from_f16(d)
        mf = vf_from_f16(dmin)
        for j in range(16):
            scales[j] = (scales[j] | (mins[j] << 4)) & 255
            requantize_above_min(s.x + 16 * j, s.q + 16 * j, 16, df * vf_from_vi(scales[j] & 15),
                                 mf * vf_from_vi(scales[j] >> 4), 3, out + 16 * j)
        lanes_store_bytes(g.dst, 0, scales, 16, g.live)
        store_2bit(&g, 16, out)
        lanes_store_u16(g.dst, 80, d, g.live)
        lanes_store_u16(g.dst, 82, dmin, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef float scale[16]
    cdef float low[16]
    cdef vf d, dmin
    cdef vi s
    cdef vb b
    cdef int c, i, j, l
    cdef const uint8_t *block
    cdef float *out
    cdef Py_ssize_t row, _k
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = vf_set1_f16(block + 80)
            dmin = vf_set1_f16(block + 82)
            for i in range(16 // LANES):
                s = vi_load_u8(block + i * LANES)
                vf_store(scale + i * LANES, d * vf_from_vi(s & 15))
                vf_store(low + i * LANES, dmin * vf_from_vi(s >> 4))
            for c in range(2):
                for l in range(2):
                    b = vb_load(block + 16 + 32 * c + 16 * l)
                    for j in range(4):
                        i = 8 * c + 2 * j + l
                        put_above_min(out + 16 * i, field(b, 2 * j, 2, 0), scale[i], low[i])
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t dot_rows(const RowCodec *codec, const DotArgs *a) noexcept nogil:
    return dot_decoded(codec, a, decode_rows)


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_super_blocks(s, search().variance)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
row_codec.dot_rows = dot_rows
row_codec.scratch_size = sizeof(Scratch)
