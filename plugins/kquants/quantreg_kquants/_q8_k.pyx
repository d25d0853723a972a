# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Q8_K: blocks of 256 weights with one float32 scale. 9.125 bits per weight.

ggml stores activations in it for dot products.

    bytes 0-3     d  float32                              x = d * q
    bytes 4-259   q  int8
    bytes 260-291 16 sums, each of 16 consecutive q, int16
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, codec_capsule
from quantreg_kernels.lanes cimport (
    LANES, lanes_max, lanes_min, vf, vf_eq, vf_from_vi, vf_get, vf_load, vf_lt, vf_max, vf_min, vf_select, vf_set1, vf_store,
    vi, vi_load_i8x16, vi_rint, vi_set1, vi_store_i8x16, vi_store_i16, vi_transpose, vm, vm_any, vm_bits,
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
    """Return, for each lane's block, the first weight of largest magnitude, with its sign.

    Which weight is first only matters where a block holds both +peak and -peak. Only such blocks are read again.
    """
    cdef vf top[LANES]
    cdef vf bottom[LANES]
    cdef float peak[LANES]
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
    hi = lanes_max(top)
    lo = lanes_min(bottom)
    v = vf_select(vf_lt(hi, -lo), lo, hi)
    tie = vf_eq(hi, -lo)
    if vm_any(tie):
        vf_store(peak, v)
        for lane in range(LANES):
            if (vm_bits(tie) >> lane) & 1:
                peak[lane] = first_of_magnitude(g.src[lane], vf_get(hi, lane))
        v = vf_load(peak)
    return v


cdef inline void encode_block(const float *x, uint8_t *block, float d, float inverse) noexcept nogil:
    cdef vi sums[16]
    cdef vi q[4]
    cdef vi total
    cdef vf scale = vf_set1(inverse)
    cdef int i, j
    memcpy(block, &d, 4)
    for j in range(16):
        sums[j] = vi_set1(0)
        for i in range(16 // LANES):
            q[i] = vi_rint(scale * vf_load(x + 16 * j + i * LANES))  # |product| is at most 127: no clamp needed
            sums[j] = sums[j] + q[i]
        vi_store_i8x16(block + 4 + 16 * j, q)
    for j in range(16 // LANES):
        vi_transpose(sums + j * LANES, sums + j * LANES)
        total = sums[j * LANES]
        for i in range(1, LANES):
            total = total + sums[j * LANES + i]
        vi_store_i16(block + 260 + 2 * j * LANES, total)


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
    cdef vi q[4]
    cdef Py_ssize_t row, _k
    cdef int i, j
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            memcpy(&d, block, 4)
            scale = vf_set1(d)
            for j in range(0, BLOCK, 16):
                vi_load_i8x16(q, block + 4 + j)
                for i in range(16 // LANES):
                    vf_store(out + j + i * LANES, scale * vf_from_vi(q[i]))
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, NULL)
