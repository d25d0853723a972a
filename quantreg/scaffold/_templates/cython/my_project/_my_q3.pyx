# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""MY_Q3: blocks of 32 weights of 3 bits with one scale. 3.5 bits per weight.

    bytes 0-1   scale  float16                        x = scale * (q - 4)
    bytes 2-13  q      3 bits each, from the low bits up: 8 weights in 3 bytes

The encoder handles LANES blocks at once (16, 8 or 4, depending on the CPU level). A `vf` holds one float of each of these
blocks, a `vi` one integer. Each lane does what a loop over one block would do, in the same order, so the bytes do not
depend on the CPU level. docs/lanes.md in quantreg's repository explains this file line by line.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport IMPORTANCE_NONE, DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store_bytes, lanes_store_u16, vf, vf_abs, vf_from_f16, vf_gt, vf_max, vf_min, vf_nearest, vf_select,
    vf_set1, vi, vi_f16, vi_set1, vi_trunc,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows

cdef enum:
    TYPE_ID = 4242
    BLOCK = 32
    BYTES = 14
    PACKED = 12


cdef inline void round_to_levels(const vf *x, vf scale, vf *q) noexcept nogil:
    """Set q to the level nearest to each weight, -4 to 3."""
    cdef vf inverse = vf_select(vf_gt(vf_abs(scale), vf_set1(<float>1e-30)), vf_set1(1) / scale, vf_set1(0))
    cdef int i
    for i in range(BLOCK):
        q[i] = vf_nearest(vf_min(vf_max(x[i] * inverse, vf_set1(-4)), vf_set1(3)))


cdef inline vf fit_scale(const vf *x, const vf *w, vf *q) noexcept nogil:
    """Return the least-squares scale for the levels that suit the largest weight. q is scratch space."""
    cdef vf largest = x[0], above = vf_set1(0), below = vf_set1(0)
    cdef vf scale
    cdef int i
    for i in range(1, BLOCK):
        largest = vf_select(vf_gt(vf_abs(x[i]), vf_abs(largest)), x[i], largest)
    scale = largest / vf_set1(-4)  # -4 is the level furthest from zero, so the largest weight takes it
    round_to_levels(x, scale, q)
    for i in range(BLOCK):
        above = above + w[i] * x[i] * q[i]
        below = below + w[i] * q[i] * q[i]
    return vf_select(vf_gt(below, vf_set1(0)), above / below, scale)


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef vf x[BLOCK]
    cdef vf w[BLOCK]
    cdef vf q[BLOCK]
    cdef vi packed[PACKED]
    cdef vi scale, bits
    cdef Py_ssize_t start = 0, bad
    cdef int i, j
    for i in range(BLOCK):
        w[i] = vf_set1(1)
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        if a.importance_kind != IMPORTANCE_NONE:
            lanes_load(w, g.importance, 0, BLOCK)
        scale = vi_f16(fit_scale(x, w, q))
        bad = keep_finite_rows(&g, scale, scale)
        round_to_levels(x, vf_from_f16(scale), q)  # again, under the scale as the decoder will see it
        for j in range(BLOCK // 8):
            bits = vi_set1(0)  # 8 weights, 24 bits
            for i in range(8):
                bits = bits | ((vi_trunc(q[8 * j + i]) + 4) << (3 * i))
            for i in range(3):
                packed[3 * j + i] = (bits >> (8 * i)) & 255
        lanes_store_u16(g.dst, 0, scale, g.live)
        lanes_store_bytes(g.dst, 2, packed, PACKED, g.live)
        if bad >= 0:
            return bad  # the row whose scale overflows float16
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const uint8_t *p
    cdef float *out
    cdef float scale
    cdef Py_ssize_t row, _k
    cdef int i, j, bits
    for row in range(a.n_rows):
        p = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            scale = load_f16(p)
            for j in range(BLOCK // 8):
                bits = p[2 + 3 * j] | (p[3 + 3 * j] << 8) | (p[4 + 3 * j] << 16)
                for i in range(8):
                    out[8 * j + i] = scale * <float>(((bits >> (3 * i)) & 7) - 4)
            p += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    """Return the column statistics as the error weights."""
    cdef Py_ssize_t row
    for row in range(s.n_rows):
        memcpy(s.dst + row * s.dst_stride, s.columns, s.n_cols * sizeof(float))
    return s.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
# A product with a few rows of activations is optional: dot_decoded of quantreg_kernels/dot.pxd makes one from the decoder.
