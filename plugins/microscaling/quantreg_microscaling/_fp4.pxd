# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""e2m1, the 4-bit float of MXFP4 and NVFP4: bit 3 is the sign, bits 0-2 the index of a magnitude 0, .5, 1, 1.5, 2, 3, 4 or 6.

As in ggml, magnitudes are doubled so that they are integers, and d is half the stored scale.
"""

from quantreg_kernels.lanes cimport (
    HAS_LOOKUP, LANES, vf, vf_abs, vf_bits, vf_load, vf_lookup16, vf_lt, vf_max, vf_select, vf_set1, vi, vi_bits, vi_count,
    vi_eq, vi_gt, vi_select, vi_set1, vi_shr, vm,
)


cdef inline float doubled(int code) noexcept nogil:
    """Return the doubled magnitude of a code 0..7: 0, 1, 2, 3, 4, 6, 8 or 12."""
    return <float>(code if code < 5 else 6 if code == 5 else 4 * code - 16)


cdef inline void value_table(vf *table) noexcept nogil:
    """Fill a table of the doubled values of the 16 codes, for vf_lookup16. Code 8 is +0."""
    cdef float values[16]
    cdef int i
    for i in range(8):
        values[i] = doubled(i)
        values[i + 8] = -doubled(i) if i else 0
    for i in range(16 // LANES):
        table[i] = vf_load(values + LANES * i)


cdef inline vf value_of(const vf *scaled, vf d, vi code) noexcept nogil:
    """Return d times the doubled value of the low four bits of each code. `scaled` is value_table times d.

    Some CPU levels have no instruction that looks up a table lane by lane. There the bits of a code are moved to where
    float32 has them, two bits of exponent and one of mantissa. That is right for all magnitudes but 0 and 1, which come
    out as 1 and 1.5 and are corrected.
    """
    cdef vf v
    if HAS_LOOKUP:
        return vf_lookup16(scaled, code)
    v = vf_bits(((code & 7) << 22) + (127 << 23))
    v = v + vf_select(vf_lt(v, vf_set1(2)), v - vf_set1(2), vf_set1(0))
    v = vf_bits(vi_bits(v) | ((code & 8) << 28)) + vf_set1(0)  # not -0.0
    return v * d


cdef inline vf magnitude(const vf *x, int n) noexcept nogil:
    """Return the largest magnitude of n weights."""
    cdef vf a = vf_set1(0)
    cdef int j
    for j in range(n):
        a = vf_max(vf_abs(x[j]), a)
    return a


cdef inline vi sign_of(vf x) noexcept nogil:
    """Return 8 where x is negative, else 0."""
    return vi_shr(vi_bits(x), 28) & 8


cdef inline void nearest_fp4(const vf *x, int n, vf d, vi *code) noexcept nogil:
    """Write the code whose value times d is nearest to each x, the smaller code of two equally near ones.

    The reference compares the rounded distances |value * d - x| in the order of the codes. Between two neighboring values, and
    a little above the last, both distances are exact as long as the products are. Then the index is the number of midpoints
    below |x|. The bits of non-negative floats have the order of their values, and comparing integers is faster.
    """
    cdef vi middle[7]
    cdef vi a, c
    cdef int i, j
    for i in range(7):
        middle[i] = vi_bits(vf_set1((doubled(i) + doubled(i + 1)) / <float>2) * d)
    for j in range(n):
        a = vi_bits(x[j]) & 0x7fffffff
        c = vi_select(vi_gt(a, middle[0]), sign_of(x[j]) | 1, vi_set1(0))
        for i in range(1, 7):
            c = vi_count(c, vi_gt(a, middle[i]))
        code[j] = c


cdef inline void nearest_fp4_as_rounded(const vf *x, int n, vf d, vi *code) noexcept nogil:
    """Do the same with the reference's own comparisons.

    This is needed where |x| is so far above the largest value that different distances round to the same number, or where
    a product overflows. Values of the other sign are left out, because they are never nearer than 0.
    """
    cdef vf a, best, distance
    cdef vi c
    cdef vm nearer
    cdef int i, j
    for j in range(n):
        a = best = vf_abs(x[j])
        c = vi_set1(0)
        for i in range(1, 8):
            distance = vf_abs(vf_set1(doubled(i)) * d - a)
            nearer = vf_lt(distance, best)
            best = vf_select(nearer, distance, best)
            c = vi_select(nearer, vi_set1(i), c)
        code[j] = vi_select(vi_eq(c, vi_set1(0)), c, c | sign_of(x[j]))
