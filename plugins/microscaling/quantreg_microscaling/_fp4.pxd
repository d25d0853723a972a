# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""e2m1, the 4-bit float that MXFP4 and NVFP4 share: sign in bit 3, then the index of a magnitude 0, .5, 1, 1.5, 2, 3, 4, 6.

As in ggml the magnitudes are doubled to integers, and a scale d is half the stored one.
"""

from quantreg_kernels.lanes cimport (
    LANES, vf, vf_abs, vf_bits, vf_load, vf_lookup16, vf_lt, vf_max, vf_select, vf_set1, vi, vi_bits, vi_count, vi_eq, vi_gt,
    vi_select, vi_set1, vi_shr, vm,
)


cdef inline float doubled(int code) noexcept nogil:
    """The doubled magnitude of a code 0..7: 0, 1, 2, 3, 4, 6, 8, 12."""
    return <float>(code if code < 5 else 6 if code == 5 else 4 * code - 16)


cdef inline void value_table(vf *table) noexcept nogil:
    """The doubled values of the 16 codes, for vf_lookup16. Code 8 is +0."""
    cdef float values[16]
    cdef int i
    for i in range(8):
        values[i] = doubled(i)
        values[i + 8] = -doubled(i) if i else 0
    for i in range(16 // LANES):
        table[i] = vf_load(values + LANES * i)


cdef inline vf value_of(const vf *scaled, vf d, vi code) noexcept nogil:
    """d times the doubled value of the low four bits of each code; `scaled` is value_table times d.

    Without look-ups by lane the bits of a code are those of a float32, an exponent and a half, but that 0 and 1 stand for
    1 and 1.5.
    """
    cdef vf v
    if LANES > 4:
        return vf_lookup16(scaled, code)
    v = vf_bits(((code & 7) << 22) + (127 << 23))
    v = v + vf_select(vf_lt(v, vf_set1(2)), v - vf_set1(2), vf_set1(0))
    v = vf_bits(vi_bits(v) | ((code & 8) << 28)) + vf_set1(0)  # not -0.0
    return v * d


cdef inline vf magnitude(const vf *x, int n) noexcept nogil:
    cdef vf a = vf_set1(0)
    cdef int j
    for j in range(n):
        a = vf_max(vf_abs(x[j]), a)
    return a


cdef inline vi sign_of(vf x) noexcept nogil:
    """8 for a negative x."""
    return vi_shr(vi_bits(x), 28) & 8


cdef inline void nearest_fp4(const vf *x, int n, vf d, vi *code) noexcept nogil:
    """The code of the value times d nearest to each x, of two equally near the smaller.

    The reference compares the rounded distances |value * d - x| in the order of codes. Between two neighbours (and a little
    above the last) both distances are exact, as long as the products are: then this is counting the midpoints below |x|. They
    are compared by their bits, which have the order of the values, because integers are compared faster.
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
    """The same where |x| is so far above the largest value that distances round to the same number, or a product overflows:
    the reference's comparisons themselves, without the values of the other sign, which are never nearer than 0."""
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
