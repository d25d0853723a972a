# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ4_NL: blocks of 32 weights, each on one of 16 uneven levels, with one scale. 4.5 bits per weight.

    bytes 0-1   d  float16                        x = d * value[q]
    bytes 2-17  q: byte 2 + l holds weight l (low nibble) and weight 16 + l (high nibble)
"""

from libc.stdint cimport uint8_t

from quantreg_iquants._iq4 cimport Choice, Levels, decode_levels, fill_levels, search_levels, store_levels
from quantreg_iquants._score cimport block_sigma2, error_weights, score_blocks
from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store_bytes, lanes_store_u16, vf, vf_ne, vf_select, vf_set1, vi, vi_f16,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows

cdef enum:
    TYPE_ID = 20
    BLOCK = 32
    BYTES = 18


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Levels levels
    cdef Group g
    cdef Choice choice[BLOCK]
    cdef vf x[BLOCK]
    cdef vf w[BLOCK]
    cdef vi packed[16]
    cdef vf scale
    cdef vi d
    cdef Py_ssize_t start = 0, bad
    fill_levels(&levels)
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        error_weights(a, &g, x, block_sigma2(x, BLOCK), 0, BLOCK, w)
        scale = search_levels(&levels, x, w, choice)
        d = vi_f16(scale)
        bad = keep_finite_rows(&g, d, d)
        lanes_store_u16(g.dst, 0, d, g.live)
        store_levels(&levels, x, vf_select(vf_ne(scale, vf_set1(0)), vf_set1(1) / scale, vf_set1(0)), packed)
        lanes_store_bytes(g.dst, 2, packed, 16, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef Levels levels
    cdef const uint8_t *block
    cdef float *out
    cdef Py_ssize_t row, _k
    fill_levels(&levels)
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            decode_levels(&levels, block + 2, load_f16(block), out)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks(s, BLOCK)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
