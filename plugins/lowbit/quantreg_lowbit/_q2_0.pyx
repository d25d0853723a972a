# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q2_0: blocks of 64 weights of two bits under one scale, the largest magnitude. 2.25 bits per weight.

    bytes 0-1   d     float16         x = d * (q - 1)
    bytes 2-17  q                     bits 2 * i and 2 * i + 1 of byte 2 + j are weight 4 * j + i

q = 3 decodes to 2 * d, but no encoder writes it.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.lanes cimport (
    LANES, lanes_load_ahead, lanes_store_u16, lanes_store_words, vf, vf_abs, vf_eq, vf_from_vi, vf_max, vf_select, vf_set1,
    vf_set1_f16, vf_store, vi, vi_f16, vi_select, vi_set1, vi_spread2, vm,
)
from quantreg_kernels.rows cimport AHEAD, Group, fill_group, keep_finite_rows
from quantreg_lowbit._ternary_rounding cimport ternary

cdef enum:
    TYPE_ID = 42
    BLOCK = 64
    BYTES = 18
    WORDS = 4       # of 32 bits


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef vf x[BLOCK]
    cdef vi words[WORDS]
    cdef vf amax, inverse
    cdef vi d, word
    cdef vm infinite
    cdef Py_ssize_t start = 0, bad
    cdef int c, j
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load_ahead(x, g.src, 0, BLOCK, AHEAD)
        amax = vf_set1(0)
        for j in range(BLOCK):
            amax = vf_max(vf_abs(x[j]), amax)
        d = vi_f16(amax)
        bad = keep_finite_rows(&g, d, d)
        inverse = vf_select(vf_eq(amax, vf_set1(0)), vf_set1(0), vf_set1(1) / amax)
        # where 1 / amax is infinite, the reference casts infinities and NaNs to integers; on x86 that makes q 0
        infinite = vf_eq(inverse, vf_set1(INFINITY))
        for c in range(WORDS):
            word = vi_set1(0)
            for j in range(16):
                word = word | (ternary(x[16 * c + j] * inverse) << (2 * j))
            words[c] = vi_select(infinite, vi_set1(0), word)
        lanes_store_u16(g.dst, 0, d, g.live)
        lanes_store_words(g.dst, 2, words, WORDS, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const unsigned char *block
    cdef float *out
    cdef uint32_t words[WORDS]
    cdef vf d
    cdef vi q
    cdef Py_ssize_t row, _k
    cdef int c, i
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = vf_set1_f16(block)
            memcpy(words, block + 2, BLOCK // 4)
            for c in range(WORDS):
                for i in range(16 // LANES):
                    q = vi_spread2(words[c] >> (2 * LANES * i))
                    vf_store(out + 16 * c + LANES * i, vf_from_vi(q - 1) * d)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
row_codec.takes_nonfinite = True
