# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q5_K: super-blocks of 256 weights, 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum. 5.5 bits a weight.

    bytes 0-1    d     float16                    x = d * scale[j] * q - dmin * min[j]
    bytes 2-3    dmin  float16
    bytes 4-15   8 scales and 8 minimums of 6 bits: see pack_k4
    bytes 16-47  bit 4 of q: bit j of byte l belongs to weight 32 * j + l
    bytes 48-175 bits 0-3: byte 32 * c + l holds weight 64 * c + l (low nibble) and weight 64 * c + 32 + l (high nibble)
"""

from libc.stdint cimport uint8_t

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store_bytes, lanes_store_u16, vf, vf_from_f16, vf_from_vi, vf_set1, vf_store, vi, vi_load_u8,
    vi_min, vi_set1,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kquants._search cimport (
    MinSearch, pack_k4, requantize, score_super_blocks, search_scales_mins, unpack_k4, unpack_k4_scalar,
)

cdef enum:
    TYPE_ID = 13
    BLOCK = 256
    BYTES = 176


cdef inline MinSearch search() noexcept nogil:
    return MinSearch(sub=32, nmax=31, top=63, variance=2, first=<float>-0.5, step=<float>0.1, n_steps=15, absolute=False)


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef MinSearch p = search()
    cdef Group g
    cdef vf x[BLOCK]
    cdef vf q[BLOCK]
    cdef vi out[64]
    cdef vi high[32]
    cdef vi scales[8]
    cdef vi mins[8]
    cdef vi packed[12]
    cdef vi d, dmin
    cdef vf df, mf
    cdef Py_ssize_t start = 0, bad
    cdef int c, i, j, l
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        search_scales_mins(a, &g, x, q, &p, &d, &dmin, scales, mins)
        bad = keep_finite_rows(&g, d, dmin)
        for j in range(8):  # a negative scale has wrapped; unlike Q4_K's it is cut
            scales[j] = vi_min(scales[j], vi_set1(63))
            mins[j] = vi_min(mins[j], vi_set1(63))
        pack_k4(scales, mins, packed)
        unpack_k4(packed, scales, mins)
        lanes_store_u16(g.dst, 0, d, g.live)
        lanes_store_u16(g.dst, 2, dmin, g.live)
        lanes_store_bytes(g.dst, 4, packed, 12, g.live)
        df = vf_from_f16(d)
        mf = vf_from_f16(dmin)
        for l in range(32):
            high[l] = vi_set1(0)
        for c in range(4):
            for i in range(2):
                requantize(x + 64 * c + 32 * i, q + 64 * c + 32 * i, 32, df * vf_from_vi(scales[2 * c + i]),
                           mf * vf_from_vi(mins[2 * c + i]), 0, 31, out + 32 * i)
            for l in range(32):
                high[l] = high[l] | ((out[l] >> 4) << (2 * c)) | ((out[l + 32] >> 4) << (2 * c + 1))
                out[l] = (out[l] & 15) | ((out[l + 32] & 15) << 4)
            lanes_store_bytes(g.dst, 48 + 32 * c, out, 32, g.live)
        lanes_store_bytes(g.dst, 16, high, 32, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef uint8_t scales[8]
    cdef uint8_t mins[8]
    cdef const uint8_t *block
    cdef float *out
    cdef float d, dmin
    cdef vf d0, m0, d1, m1
    cdef vi b, high
    cdef Py_ssize_t row, k
    cdef int c, i, l
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for k in range(a.n_cols // BLOCK):
            d = load_f16(block)
            dmin = load_f16(block + 2)
            unpack_k4_scalar(block + 4, scales, mins)
            for c in range(4):
                d0 = vf_set1(d * <float>scales[2 * c])
                m0 = vf_set1(dmin * <float>mins[2 * c])
                d1 = vf_set1(d * <float>scales[2 * c + 1])
                m1 = vf_set1(dmin * <float>mins[2 * c + 1])
                for i in range(32 // LANES):
                    l = i * LANES
                    b = vi_load_u8(block + 48 + 32 * c + l)
                    high = vi_load_u8(block + 16 + l) >> (2 * c)
                    vf_store(out + 64 * c + l, d0 * vf_from_vi((b & 15) | ((high & 1) << 4)) - m0)
                    vf_store(out + 64 * c + 32 + l, d1 * vf_from_vi((b >> 4) | ((high & 2) << 3)) - m1)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_super_blocks(s, search().variance)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
