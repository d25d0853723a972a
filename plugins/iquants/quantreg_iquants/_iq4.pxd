# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Shared by IQ4_NL and IQ4_XS: 16 uneven levels, a scale search over them, and decoding.

The reference tries 16 inverse scales for each sub-block: 127 / largest first, then (k - 127) / largest for k = -7..7. Under
each it finds the nearest level of every weight.

From the first of the 15 to the last, |inverse * x| falls by a factor of 120 / 134 = 0.896. The boundaries between levels on
one side of zero lie further apart: the ratio of two neighboring ones is 0.82 at most. So a weight crosses at most one
boundary. It takes one level up to the crossing and the neighboring level after it. The search computes once what both levels
add to the sums, and each scale only chooses between them. The sums keep the reference's terms and order.
"""

from libc.stdint cimport uint8_t

from quantreg_kernels.lanes cimport (
    HAS_LOOKUP, LANES, vf, vf_ge, vf_gt, vf_le, vf_lookup16, vf_lt, vf_min, vf_select, vf_set1, vf_store, vi, vi_count,
    vi_load_u8, vi_set1, vi_shr, vm, vm_and,
)
from quantreg_kernels.search cimport largest


cdef struct Levels:
    vf value[4]
    vf boundary[4]      # boundary[i] is the middle of value[i - 1] and value[i]; a weight on it takes value[i]


cdef inline void fill_levels(Levels *levels) noexcept nogil:
    """Fill in the levels, which are kvalues_iq4nl of llama.cpp's ggml-common.h (MIT)."""
    cdef float *value = <float *>levels.value
    cdef float *boundary = <float *>levels.boundary
    cdef int i
    value[0], value[1], value[2], value[3], value[4], value[5], value[6], value[7] = -127, -104, -83, -65, -49, -35, -22, -10
    value[8], value[9], value[10], value[11], value[12], value[13], value[14], value[15] = 1, 13, 25, 38, 53, 69, 89, 113
    boundary[0] = 0
    for i in range(1, 16):
        boundary[i] = (value[i - 1] + value[i]) / <float>2


cdef inline vi nearest_level(const Levels *levels, vf x) noexcept nogil:
    """Return the index of the value nearest to x, the upper one of two; 15 for a NaN, where the reference's bisection ends.

    The reference compares the rounded distances to two values. Near a boundary both distances are exact, so counting
    boundaries gives the same index.
    """
    cdef const float *boundary = <const float *>levels.boundary
    cdef vi index = vi_set1(0)
    cdef int i
    x = vf_min(x, vf_set1(113))
    for i in range(1, 16):
        index = vi_count(index, vf_le(vf_set1(boundary[i]), x))
    return index


# What a weight adds to sum w q x (lx) and to sum w q^2 (l2), on the low and on the high side of its boundary.
cdef struct Choice:
    vf x
    vf boundary
    vf low_lx
    vf low_l2
    vf high_lx
    vf high_l2


cdef inline vf search_levels(const Levels *levels, const vf *x, const vf *w, Choice *choice) noexcept nogil:
    """Return the best of 16 scales for 32 weights x, or 0 where x is all but zero. choice is scratch space for 32."""
    cdef vf peak, amax, inverse, scale, best, sum_lx, sum_l2, q, wq
    cdef vf inverses[15]
    cdef vf lx[15]
    cdef vf l2[15]
    cdef vi k
    cdef vm dead, better, high
    cdef Choice *c
    cdef int i, j, start
    largest(x, 32, &peak, &amax)
    dead = vf_lt(amax, vf_set1(<float>1e-15))
    for i in range(15):
        inverses[i] = vf_set1(<float>(i - 7 - 127)) / peak
    inverse = vf_set1(1) / (peak / vf_set1(127))
    sum_lx = vf_set1(0)
    sum_l2 = vf_set1(0)
    for j in range(32):
        q = vf_lookup16(levels.value, nearest_level(levels, inverse * x[j]))
        wq = w[j] * q
        sum_lx = sum_lx + wq * x[j]
        sum_l2 = sum_l2 + wq * q
        c = choice + j
        q = inverses[0] * x[j]
        k = vi_count(nearest_level(levels, q), vf_lt(q, vf_set1(0)))  # boundary[k] is the next one towards 0
        c.x = x[j]
        c.boundary = vf_lookup16(levels.boundary, k)
        q = vf_lookup16(levels.value, k - 1)
        wq = w[j] * q
        c.low_lx = wq * x[j]
        c.low_l2 = wq * q
        q = vf_lookup16(levels.value, k)
        wq = w[j] * q
        c.high_lx = wq * x[j]
        c.high_l2 = wq * q
    scale = vf_select(vf_gt(sum_l2, vf_set1(0)), sum_lx / sum_l2, vf_set1(0))
    best = scale * sum_lx
    for start in range(0, 15, 5):  # the sums of five scales at a time fit into registers
        for i in range(5):
            lx[i] = vf_set1(0)
            l2[i] = vf_set1(0)
        for j in range(32):
            c = choice + j
            for i in range(5):
                high = vf_ge(inverses[start + i] * c.x, c.boundary)
                lx[i] = lx[i] + vf_select(high, c.high_lx, c.low_lx)
                l2[i] = l2[i] + vf_select(high, c.high_l2, c.low_l2)
        for i in range(5):
            better = vm_and(vf_gt(l2[i], vf_set1(0)), vf_gt(lx[i] * lx[i], best * l2[i]))
            scale = vf_select(better, lx[i] / l2[i], scale)
            best = vf_select(better, scale * lx[i], best)
    return vf_select(dead, vf_set1(0), scale)


cdef inline void store_levels(const Levels *levels, const vf *x, vf inverse, vi *packed) noexcept nogil:
    """Write 16 bytes for 32 weights: byte l holds weight l (low nibble) and weight 16 + l (high nibble)."""
    cdef int l
    for l in range(16):
        packed[l] = nearest_level(levels, inverse * x[l]) | (nearest_level(levels, inverse * x[l + 16]) << 4)


cdef inline void decode_levels(const Levels *levels, const uint8_t *packed, float scale, float *out) noexcept nogil:
    """Write the 32 weights of 16 bytes."""
    cdef const float *value = <const float *>levels.value
    cdef float product[16]
    cdef vi b
    cdef int i, l
    if not HAS_LOOKUP:  # this CPU level has no instruction that looks up a table lane by lane
        for l in range(16):
            product[l] = scale * value[l]
        for l in range(16):
            out[l] = product[packed[l] & 15]
            out[l + 16] = product[packed[l] >> 4]
    else:
        for i in range(16 // LANES):
            l = i * LANES
            b = vi_load_u8(packed + l)
            vf_store(out + l, vf_set1(scale) * vf_lookup16(levels.value, b))
            vf_store(out + 16 + l, vf_set1(scale) * vf_lookup16(levels.value, vi_shr(b, 4)))
