# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q3_K: super-blocks of 256 weights, 16 sub-blocks of 16, each with a 6-bit scale. 3.4375 bits per weight.

    bytes 0-31    bit 2 of q: bit j of byte l belongs to weight 32 * j + l     x = d * (scale[j] - 32) * (q - 4)
    bytes 32-95   bits 0-1 of q: byte 32 + 32 * c + l holds weights 128 * c + l, + 32, + 64 and + 96, from the low bits up
    bytes 96-107  16 scales of 6 bits, drawn below
    bytes 108-109 d float16

    bit               7     6     5     4     3     2     1     0
                   +-----------------------+-----------------------+
    byte 96 + j    |   scale[j + 8] 3:0    |     scale[j] 3:0      |   j = 0..7
                   +-----------+-----------+-----------+-----------+
    byte 104 + j   | [j+12] 5:4|  [j+8] 5:4|  [j+4] 5:4|   [j] 5:4 |   j = 0..3
                   +-----------+-----------+-----------+-----------+
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport IMPORTANCE_NONE, DecodeArgs, DotArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.dot cimport dot_decoded
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store_bytes, lanes_store_u16, vb, vb_load, vf, vf_eq, vf_from_f16, vf_from_vi, vf_select,
    vf_set1, vf_set1_f16, vf_store, vi, vi_clamp, vi_eq, vi_f16, vi_load_u8, vi_nearest, vi_select, vi_set1, vi_trunc,
    vm, vm_any, vm_or,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kernels.search cimport largest, search_symmetric, search_symmetric_exact, sum_of
from quantreg_kquants._descent cimport Descents, fetch_q, search_descents
from quantreg_kquants._search cimport (
    block_sigma2, error_weights, requantize, score_super_blocks, store_2bit,
)
from quantreg_kquants._unpack cimport field, put_centred

cdef enum:
    TYPE_ID = 11
    BLOCK = 256
    BYTES = 110

cdef float VARIANCE = 2


# What encode_rows works with.
cdef struct Scratch:
    vf x[BLOCK]
    vf q[BLOCK]
    vi out[BLOCK]
    Descents descents


cdef inline void search_scales(const EncodeArgs *a, const Group *g, Scratch *s, vi *d, vi *scales) noexcept nogil:
    """Find q in 0..7 and a scale in 0..63 for each sub-block, and the float16 d. A scale of 32 stands for 0.

    Without importance the reference uses another search (_descent.pxd), and it divides the range of the scales evenly
    instead of searching for d. The q are then only written if requantize needs them: where d or a scale is 0.
    """
    cdef vf w[16]
    cdef vf scale[16]
    cdef vf total[16]
    cdef vf level[16]
    cdef const vf *x = s.x
    cdef vf *q = s.q
    cdef vf peak, amax, inverse, sigma2
    cdef vm zero, kept
    cdef int j
    if a.importance_kind == IMPORTANCE_NONE:
        search_descents(g.src, x, 4, &s.descents, scale)
        largest(scale, 16, &peak, &amax)
        zero = vf_eq(peak, vf_set1(0))
        inverse = vf_set1(-32) / peak
        for j in range(16):  # the reference stores the integer in a signed byte before it clamps, so it can wrap
            scales[j] = vi_clamp((vi_nearest(inverse * scale[j]) << 24) >> 24, -32, 31) + 32
            scales[j] = vi_select(zero, vi_set1(0), scales[j])
        d[0] = vi_f16(vf_select(zero, vf_set1(0), vf_set1(1) / inverse))
        kept = vi_eq(d[0] & 0x7fff, vi_set1(0))
        for j in range(16):
            kept = vm_or(kept, vi_eq(scales[j], vi_set1(32)))
        if vm_any(kept):
            fetch_q(&s.descents, x, 4, q)
        return
    sigma2 = block_sigma2(x, VARIANCE)
    for j in range(16):
        error_weights(a, g, x + 16 * j, sigma2, 16 * j, 16, w)
        total[j] = sum_of(w, 16)
        scale[j] = search_symmetric(x + 16 * j, w, q + 16 * j, 16, 4)
    d[0] = vi_f16(search_symmetric_exact(scale, total, level, 16, 32))
    for j in range(16):
        scales[j] = vi_trunc(level[j])


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef Scratch *s = <Scratch *>a.scratch
    cdef vi *out = s.out
    cdef vi scales[16]
    cdef vi packed[12]
    cdef vi high[32]
    cdef vi d
    cdef vf df
    cdef Py_ssize_t start = 0, bad
    cdef int j, l
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(s.x, g.src, 0, BLOCK)
        search_scales(a, &g, s, &d, scales)
        bad = keep_finite_rows(&g, d, d)
        df = vf_from_f16(d)
        for j in range(16):
            requantize(s.x + 16 * j, s.q + 16 * j, 16, df * vf_from_vi(scales[j] - 32), -4, 3, out + 16 * j)
        for j in range(8):
            packed[j] = (scales[j] & 15) | ((scales[j + 8] & 15) << 4)
        for j in range(4):
            packed[8 + j] = ((scales[j] >> 4) | ((scales[j + 4] >> 4) << 2) | ((scales[j + 8] >> 4) << 4)
                             | ((scales[j + 12] >> 4) << 6))
        for l in range(32):
            high[l] = vi_set1(0)
            for j in range(8):
                high[l] = high[l] | ((out[32 * j + l] >> 2) << j)
                out[32 * j + l] = out[32 * j + l] & 3
        lanes_store_bytes(g.dst, 0, high, 32, g.live)
        store_2bit(&g, 32, out)
        lanes_store_bytes(g.dst, 96, packed, 12, g.live)
        lanes_store_u16(g.dst, 108, d, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef inline void unpack_scales(const uint8_t *p, vf d, float *scales) noexcept nogil:
    """Write d * (scale[j] - 32) for j = 0..15, from the 12 bytes at p. Each u is four scales, one per byte."""
    cdef uint32_t a, b, c
    cdef uint32_t u[4]
    cdef int i
    memcpy(&a, p, 4)
    memcpy(&b, p + 4, 4)
    memcpy(&c, p + 8, 4)
    u[0] = (a & 0x0f0f0f0f) | ((c << 4) & 0x30303030)
    u[1] = (b & 0x0f0f0f0f) | ((c << 2) & 0x30303030)
    u[2] = ((a >> 4) & 0x0f0f0f0f) | (c & 0x30303030)
    u[3] = ((b >> 4) & 0x0f0f0f0f) | ((c >> 2) & 0x30303030)
    for i in range(16 // LANES):
        vf_store(scales + i * LANES, d * vf_from_vi(vi_load_u8(<const uint8_t *>u + i * LANES) - 32))


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef float scales[16]
    cdef vb b, high
    cdef int c, i, j, l
    cdef const uint8_t *block
    cdef float *out
    cdef Py_ssize_t row, _k
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            unpack_scales(block + 96, vf_set1_f16(block + 108), scales)
            for l in range(2):
                high = vb_load(block + 16 * l)
                for c in range(2):
                    b = vb_load(block + 32 + 32 * c + 16 * l)
                    for j in range(4):
                        i = 8 * c + 2 * j + l
                        put_centred(out + 16 * i, field(b, 2 * j, 2, 0) | field(high, 4 * c + j, 1, 2), 4, scales[i])
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t dot_rows(const RowCodec *codec, const DotArgs *a) noexcept nogil:
    return dot_decoded(codec, a, decode_rows)


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_super_blocks(s, VARIANCE)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
row_codec.dot_rows = dot_rows
row_codec.scratch_size = sizeof(Scratch)
