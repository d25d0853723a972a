# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Shared by Q2_0, TQ1_0 and TQ2_0: a weight divided by the largest magnitude of its block, rounded to -1, 0 or 1."""

from libc.math cimport INFINITY

from quantreg_kernels.lanes cimport (
    LANES, vf, vf_abs, vf_ge, vf_gt, vf_load, vf_max, vf_reduce_max, vf_set1, vi, vi_count, vi_set1,
)


cdef inline vi ternary(vf v) noexcept nogil:
    """Return v rounded, halves away from zero, plus 1: 0, 1 or 2. |v| is at most 1."""
    return vi_count(vi_count(vi_set1(0), vf_gt(v, vf_set1(<float>-0.5))), vf_ge(v, vf_set1(<float>0.5)))


cdef inline float block_magnitude(const float *x, int n) noexcept nogil:
    """Return the largest magnitude of n weights. n is a multiple of 2 * LANES."""
    cdef vf a = vf_set1(0), b = vf_set1(0)
    cdef int i
    for i in range(n // (2 * LANES)):
        a = vf_max(vf_abs(vf_load(x + 2 * LANES * i)), a)
        b = vf_max(vf_abs(vf_load(x + 2 * LANES * i + LANES)), b)
    return vf_reduce_max(vf_max(a, b))


cdef inline vf inverse_magnitude(float d) noexcept nogil:
    """Return 1 / d, or 0 where that is infinite.

    The reference then casts infinities and NaNs to 64-bit integers. On x86 the low half of the result is 0, and so is q.
    """
    cdef float inverse = <float>1 / d if d else <float>0
    return vf_set1(inverse if inverse < INFINITY else 0)
