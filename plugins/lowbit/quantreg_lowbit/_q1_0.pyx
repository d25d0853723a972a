# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q1_0: blocks of 128 signs under one scale, the mean magnitude. 1.125 bits per weight.

    bytes 0-1   d     float16         x = d where the bit is 1, -d where it is 0
    bytes 2-17  signs                 bit i of byte 2 + j is weight 8 * j + i: 1 for x >= 0, which includes -0.0
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store_u16, lanes_store_words, vf, vf_abs, vf_ge, vf_select, vf_set1, vf_set1_f16, vf_store, vi,
    vi_f16, vi_select, vi_set1, vm_from_bits,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows

cdef enum:
    TYPE_ID = 41
    BLOCK = 128
    BYTES = 18
    WORDS = 4       # of 32 bits


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef vf x[32]
    cdef vi words[WORDS]
    cdef vf total
    cdef vi d, word
    cdef Py_ssize_t start = 0, bad
    cdef int c, j
    while fill_group(&g, a, start, BLOCK, BYTES):
        total = vf_set1(0)
        for c in range(WORDS):
            lanes_load(x, g.src, 32 * c, 32)
            word = vi_set1(0)
            for j in range(32):
                total = total + vf_abs(x[j])
                word = vi_select(vf_ge(x[j], vf_set1(0)), word | vi_set1(<int>(<uint32_t>1 << j)), word)
            words[c] = word
        d = vi_f16(total / vf_set1(<float>BLOCK))
        bad = keep_finite_rows(&g, d, d)
        lanes_store_u16(g.dst, 0, d, g.live)
        lanes_store_words(g.dst, 2, words, WORDS, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const unsigned char *block
    cdef float *out
    cdef uint32_t signs[WORDS]
    cdef vf d
    cdef Py_ssize_t row, _k
    cdef int c, i
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = vf_set1_f16(block)
            memcpy(signs, block + 2, BLOCK // 8)
            for c in range(WORDS):
                for i in range(32 // LANES):
                    vf_store(out + 32 * c + LANES * i, vf_select(vm_from_bits(signs[c] >> (LANES * i)), d, -d))
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
