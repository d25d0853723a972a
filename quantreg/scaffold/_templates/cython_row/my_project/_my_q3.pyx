# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""MY_Q3: rows with one unit, and blocks of 32 weights of 3 bits with one scale. 3.25 bits per weight.

A row begins with a header of 4848 bytes:
    bytes 0-3   unit   float32                        The other bytes of the header are free; here they are zero.

The blocks follow:
    byte 0      scale  int8                           x = unit * scale * (q - 4)
    bytes 1-12  q      3 bits each, from the low bits up: 8 weights in 3 bytes

The encoder handles LANES blocks at once (16, 8 or 4, depending on the CPU level). A `vf` holds one float of each of these
blocks, a `vi` one integer. Each lane does what a loop over one block would do, in the same order, so the bytes do not
depend on the CPU level. docs/lanes.md in quantreg's repository explains such an encoder line by line.
"""

from libc.math cimport fabsf
from libc.stdint cimport int8_t, uint8_t
from libc.string cimport memcpy, memset

from quantreg_kernels.abi cimport IMPORTANCE_NONE, DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store_bytes, vf, vf_abs, vf_gt, vf_le, vf_load, vf_max, vf_min, vf_nearest, vf_reduce_max,
    vf_select, vf_set1, vi, vi_set1, vi_trunc,
)
from quantreg_kernels.rows cimport Group, fill_group

cdef enum:
    TYPE_ID = 4242
    HEADER = 4848
    BLOCK = 32
    BYTES = 13


cdef inline void write_header(const float *x, Py_ssize_t n, uint8_t *header) noexcept nogil:
    """Write the unit of a row: 1 / 508 of its largest weight, so that the largest scale is 127 (508 is 4 * 127)."""
    cdef vf tops = vf_set1(0)
    cdef float unit
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        tops = vf_max(tops, vf_abs(vf_load(x + i)))
        i += LANES
    unit = vf_reduce_max(tops)
    while i < n:
        unit = fabsf(x[i]) if fabsf(x[i]) > unit else unit
        i += 1
    unit = unit / <float>508
    memset(header, 0, HEADER)
    memcpy(header, &unit, sizeof(float))


cdef inline vf inverse_units(const Group *g, const EncodeArgs *a) noexcept nogil:
    """Return 1 / unit of the row in each lane, and 0 for units near zero."""
    cdef float units[LANES]
    cdef vf unit
    cdef int lane
    for lane in range(LANES):
        memcpy(&units[lane], a.dst + g.row[lane] * a.dst_stride, sizeof(float))
    unit = vf_load(units)
    return vf_select(vf_gt(unit, vf_set1(<float>1e-30)), vf_set1(1) / unit, vf_set1(0))


cdef inline void round_to_levels(const vf *x, vf scale, vf *q) noexcept nogil:
    """Set q to the level nearest to each weight, -4 to 3."""
    cdef vf inverse = vf_select(vf_gt(vf_abs(scale), vf_set1(<float>1e-30)), vf_set1(1) / scale, vf_set1(0))
    cdef int i
    for i in range(BLOCK):
        q[i] = vf_nearest(vf_min(vf_max(x[i] * inverse, vf_set1(-4)), vf_set1(3)))


cdef inline vf fit_scale(const vf *x, const vf *w, vf *q) noexcept nogil:
    """Return the least-squares scale for the levels that suit the largest weight. q is scratch space."""
    cdef vf largest = x[0], above = vf_set1(0), below = vf_set1(0)
    cdef vf scale, fitted
    cdef int i
    for i in range(1, BLOCK):
        largest = vf_select(vf_gt(vf_abs(x[i]), vf_abs(largest)), x[i], largest)
    scale = largest / vf_set1(-4)  # -4 is the level furthest from zero, so the largest weight takes it
    round_to_levels(x, scale, q)
    for i in range(BLOCK):
        above = above + w[i] * x[i] * q[i]
        below = below + w[i] * q[i] * q[i]
    fitted = above / below
    return vf_nearest(vf_select(vf_le(vf_abs(fitted), vf_set1(127)), fitted, scale))


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef EncodeArgs blocks = a[0]  # the same rows without their headers
    cdef Group g
    cdef vf x[BLOCK]
    cdef vf w[BLOCK]
    cdef vf q[BLOCK]
    cdef vi packed[BYTES]
    cdef vf scale, inverse
    cdef vi bits
    cdef Py_ssize_t start = 0, row
    cdef int i, j
    for row in range(a.n_rows):
        write_header(a.src + row * a.src_stride, a.n_cols, a.dst + row * a.dst_stride)
    blocks.dst = a.dst + HEADER
    for i in range(BLOCK):
        w[i] = vf_set1(1)
    while fill_group(&g, &blocks, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        if a.importance_kind != IMPORTANCE_NONE:
            lanes_load(w, g.importance, 0, BLOCK)
        inverse = inverse_units(&g, a)
        for i in range(BLOCK):
            x[i] = x[i] * inverse
        scale = fit_scale(x, w, q)
        round_to_levels(x, scale, q)  # again, under the scale as the decoder will see it
        packed[0] = vi_trunc(scale) & 255
        for j in range(BLOCK // 8):
            bits = vi_set1(0)  # 8 weights, 24 bits
            for i in range(8):
                bits = bits | ((vi_trunc(q[8 * j + i]) + 4) << (3 * i))
            for i in range(3):
                packed[1 + 3 * j + i] = (bits >> (8 * i)) & 255
        lanes_store_bytes(g.dst, 0, packed, BYTES, g.live)
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const uint8_t *p
    cdef float *out
    cdef float unit, scale
    cdef Py_ssize_t row, _k
    cdef int i, j, bits
    for row in range(a.n_rows):
        p = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        memcpy(&unit, p, sizeof(float))
        p += HEADER
        for _k in range(a.n_cols // BLOCK):
            scale = <float><int8_t>p[0]
            for j in range(BLOCK // 8):
                bits = p[1 + 3 * j] | (p[2 + 3 * j] << 8) | (p[3 + 3 * j] << 16)
                for i in range(8):
                    out[8 * j + i] = unit * (scale * <float>(((bits >> (3 * i)) & 7) - 4))
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
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows, NULL, HEADER)
