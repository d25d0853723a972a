# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The codecs of Q8_0 and Q8_1: 32 weights as signed bytes times one scale. Q8_1 also stores their sum, after the scale."""

from libc.stdint cimport int8_t, uint8_t, uint16_t

from quantreg_kernels.abi cimport DecodeArgs
from quantreg_kernels.dot cimport Sum, add_product, end_sum, prefetch_block, start_sum
from quantreg_kernels.half cimport store_u16
from quantreg_kernels.lanes cimport (
    LANES, vf, vf_from_vi, vf_load, vf_set1, vf_set1_f16, vf_store, vi, vi_f16, vi_get, vi_load_i8, vi_load_i8x16,
    vi_roundf, vi_set1, vi_store_i8x16, vi_transpose, vm,
)
from quantreg_legacy._blocks cimport BLOCK, MOST_VECTORS, block_magnitude, infinite_halves, inverse_of


cdef inline unsigned int encode_q8_group(const float *x, uint8_t *y, bint with_sum) noexcept nogil:
    """Encode LANES blocks: see encode_group_t. The sum is d * sum(q), with d as it is before it is rounded to float16."""
    cdef vf d = block_magnitude(x) / vf_set1(127)
    cdef vm infinite
    cdef vf inverse = inverse_of(d, &infinite)
    cdef vi half = vi_f16(d)
    cdef vi q[MOST_VECTORS]
    cdef vi sums[LANES]
    cdef vi total = vi_set1(0)
    cdef float inverses[LANES]
    cdef vf scale
    cdef unsigned int bad = infinite_halves(half)
    cdef Py_ssize_t header = 4 if with_sum else 2
    cdef int i, l
    vf_store(inverses, inverse)
    for l in range(LANES):
        scale = vf_set1(inverses[l])
        sums[l] = vi_set1(0)
        for i in range(BLOCK // LANES):
            q[i] = vi_roundf(vf_load(x + BLOCK * l + LANES * i) * scale)
            if with_sum:
                sums[l] = sums[l] + q[i]
        store_u16(y + (header + BLOCK) * l, <uint16_t>vi_get(half, l))
        vi_store_i8x16(y + (header + BLOCK) * l + header, q)
        vi_store_i8x16(y + (header + BLOCK) * l + header + 16, q + 16 // LANES)
    if with_sum:
        vi_transpose(sums, sums)
        for l in range(LANES):
            total = total + sums[l]
        half = vi_f16(vf_from_vi(total) * d)
        for l in range(LANES):
            store_u16(y + (header + BLOCK) * l + 2, <uint16_t>vi_get(half, l))
        bad |= infinite_halves(half)
    return bad


cdef inline Py_ssize_t decode_q8_blocks(const DecodeArgs *a, bint with_sum) noexcept nogil:
    """Do all that decode_rows has to do."""
    cdef Py_ssize_t header = 4 if with_sum else 2
    cdef const uint8_t *p
    cdef float *out
    cdef vf d
    cdef vi q[MOST_VECTORS]
    cdef Py_ssize_t row, _k
    cdef int i
    for row in range(a.n_rows):
        p = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = vf_set1_f16(p)
            vi_load_i8x16(q, p + header)
            vi_load_i8x16(q + 16 // LANES, p + header + 16)
            for i in range(BLOCK // LANES):
                vf_store(out + LANES * i, vf_from_vi(q[i]) * d)
            p += header + BLOCK
            out += BLOCK
    return a.n_rows


cdef inline float dot_q8(const uint8_t *p, const float *x, Py_ssize_t n_cols) noexcept nogil:
    """Return the sum of a row of Q8_0 times x."""
    cdef Sum s
    cdef vf d
    cdef int c, i, j
    cdef Py_ssize_t k = 0, n_blocks = n_cols // BLOCK
    start_sum(&s)
    while k < n_blocks:
        prefetch_block(p, 2 * (2 + BLOCK))
        for c in range(2):  # two blocks, so that the compiler knows which part of the sum is whose
            if k + c < n_blocks:
                d = vf_set1_f16(p)
                for i in range(BLOCK // LANES):
                    j = i * LANES
                    add_product(&s, 32 * c + j, vf_from_vi(vi_load_i8(<const int8_t *>p + 2 + j)) * d, x)
                p += 2 + BLOCK
        k += 2
        x += 2 * BLOCK
    return end_sum(&s)
