# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q8_K: blocks of 256 weights with one float32 scale: ggml's intermediate format for dot products. 9.125 bits a weight.

    bytes 0-3     d  float32                              x = d * q
    bytes 4-259   q  int8
    bytes 260-291 sums of 16 consecutive q, int16
"""

from libc.math cimport INFINITY
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.lanes cimport (
    LANES, vf, vf_abs, vf_eq, vf_from_vi, vf_get, vf_load, vf_lt, vf_max, vf_min, vf_select, vf_set1, vf_store, vi,
    vi_load_i8, vi_min, vi_nearest, vi_set1, vi_store, vi_transpose, vm, vm_any,
)
from quantreg_kernels.rows cimport Group, fill_group
from quantreg_kernels.search cimport drop_infinite

cdef enum:
    TYPE_ID = 15
    BLOCK = 256
    BYTES = 292


cdef inline float first_of_magnitude(const float *x, float amax) noexcept nogil:
    cdef int j
    for j in range(BLOCK):
        if x[j] == amax or x[j] == -amax:
            return x[j]
    return 0


cdef inline vf peaks(const Group *g) noexcept nogil:
    """Lane by lane the first weight of greatest magnitude in its block."""
    cdef vf top[LANES]
    cdef vf bottom[LANES]
    cdef float both[LANES]
    cdef vf hi, lo, v
    cdef vm tie
    cdef int i, lane
    for lane in range(LANES):
        hi = lo = vf_load(g.src[lane])
        for i in range(1, BLOCK // LANES):
            v = vf_load(g.src[lane] + i * LANES)
            hi = vf_max(v, hi)
            lo = vf_min(v, lo)
        top[lane] = hi
        bottom[lane] = lo
    vi_transpose(<vi *>top, <vi *>top)
    vi_transpose(<vi *>bottom, <vi *>bottom)
    hi = top[0]
    lo = bottom[0]
    for i in range(1, LANES):
        hi = vf_max(top[i], hi)
        lo = vf_min(bottom[i], lo)
    v = vf_select(vf_lt(hi, -lo), lo, hi)
    tie = vf_eq(hi, -lo)
    if vm_any(tie):
        vf_store(both, v)
        for lane in range(LANES):
            if vf_get(hi, lane) == -vf_get(lo, lane):
                both[lane] = first_of_magnitude(g.src[lane], vf_get(hi, lane))
        v = vf_load(both)
    return v


cdef inline void encode_block(const float *x, uint8_t *block, float d, float inverse) noexcept nogil:
    cdef int32_t q[BLOCK]
    cdef int8_t q8[BLOCK]
    cdef int32_t sums[16]
    cdef int16_t sums16[16]
    cdef vi part[16]
    cdef vi v
    cdef vf scale = vf_set1(inverse)
    cdef int i, j
    for j in range(16):
        part[j] = vi_set1(0)
        for i in range(16 // LANES):
            v = vi_min(vi_nearest(scale * vf_load(x + 16 * j + i * LANES)), vi_set1(127))
            vi_store(q + 16 * j + i * LANES, v)
            part[j] = part[j] + v
    for i in range(BLOCK):
        q8[i] = <int8_t>q[i]
    for j in range(16 // LANES):
        vi_transpose(part + j * LANES, part + j * LANES)
        v = part[j * LANES]
        for i in range(1, LANES):
            v = v + part[j * LANES + i]
        vi_store(sums + j * LANES, v)
    for j in range(16):
        sums16[j] = <int16_t>sums[j]
    memcpy(block, &d, 4)
    memcpy(block + 4, q8, BLOCK)
    memcpy(block + 260, sums16, 32)


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef vf peak, inverse, d
    cdef Py_ssize_t start = 0
    cdef int lane
    while fill_group(&g, a, start, BLOCK, BYTES):
        peak = peaks(&g)
        inverse = vf_set1(-127) / peak
        d = vf_select(vf_eq(peak, vf_set1(0)), vf_set1(0), vf_set1(1) / inverse)
        inverse = drop_infinite(inverse)
        for lane in range(g.live):
            encode_block(g.src[lane], g.dst[lane], vf_get(d, lane), vf_get(inverse, lane))
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const uint8_t *block
    cdef float *out
    cdef float d
    cdef vf scale
    cdef Py_ssize_t row, k
    cdef int i
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for k in range(a.n_cols // BLOCK):
            memcpy(&d, block, 4)
            scale = vf_set1(d)
            for i in range(BLOCK // LANES):
                vf_store(out + i * LANES, scale * vf_from_vi(vi_load_i8(<const int8_t *>block + 4 + i * LANES)))
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
