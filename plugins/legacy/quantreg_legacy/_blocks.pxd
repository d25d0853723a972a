# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""LANES blocks of 32 weights at a time, for the encoders without a search.

Memory limits these encoders, so they do not transpose the weights. Only what there is one of per block, such as its largest
weight and its scale, goes into lanes.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from quantreg_kernels.abi cimport EncodeArgs
from quantreg_kernels.lanes cimport (
    LANES, lanes_max, lanes_min, prefetch, vf, vf_abs, vf_eq, vf_load, vf_max, vf_min, vf_select, vf_set1, vf_store, vi,
    vi_gt, vi_set1, vm, vm_and, vm_any, vm_bits, vm_not,
)
from quantreg_kernels.rows cimport AHEAD

cdef enum:
    BLOCK = 32
    MOST_LANES = 16
    MOST_VECTORS = 8    # BLOCK / LANES at 4 lanes, the most there can be
    MOST_BYTES = 36     # the largest type_size, Q8_1's


# Encodes LANES consecutive blocks. Returns a bit for each block whose scale or min is not finite in float16.
ctypedef unsigned int (*encode_group_t)(const float *x, uint8_t *y) noexcept nogil


cdef inline Py_ssize_t encode_in_groups(const EncodeArgs *a, Py_ssize_t type_size,
                                        encode_group_t encode) noexcept nogil:
    """Do all that encode_rows has to do, with an encoder of LANES blocks."""
    cdef float x_rest[MOST_LANES * BLOCK]
    cdef uint8_t y_rest[MOST_LANES * MOST_BYTES]
    cdef Py_ssize_t per_row = a.n_cols // BLOCK
    cdef Py_ssize_t n_rows = a.n_rows, n_blocks = per_row, row, k, live, line
    cdef const float *x
    cdef uint8_t *y
    cdef unsigned int bad
    if a.src_stride == a.n_cols and a.dst_stride == per_row * type_size:  # treat them as one long row with one remainder
        n_blocks *= n_rows
        n_rows = 1
    for row in range(n_rows):
        x = a.src + row * a.src_stride
        y = a.dst + row * a.dst_stride
        k = 0
        while k < n_blocks:
            live = n_blocks - k
            if live >= LANES:
                for line in range(LANES * BLOCK // 16):
                    prefetch(x + AHEAD + 16 * line)
                bad = encode(x, y)
            else:
                memset(x_rest, 0, sizeof(x_rest))
                memcpy(x_rest, x, live * BLOCK * sizeof(float))
                bad = encode(x_rest, y_rest)
                memcpy(y, y_rest, live * type_size)
            if bad:
                while not bad & 1:
                    bad >>= 1
                    k += 1
                return (row * n_blocks + k) // per_row
            k += LANES
            x += LANES * BLOCK
            y += LANES * type_size
    return a.n_rows


# ---- extremes and scales of LANES consecutive blocks ----

cdef inline void block_extremes(const float *x, vf *smallest, vf *largest) noexcept nogil:
    cdef vf lo[LANES]
    cdef vf hi[LANES]
    cdef vf v
    cdef int i, l
    for l in range(LANES):
        lo[l] = hi[l] = vf_load(x + BLOCK * l)
        for i in range(1, BLOCK // LANES):
            v = vf_load(x + BLOCK * l + LANES * i)
            lo[l] = vf_min(lo[l], v)
            hi[l] = vf_max(hi[l], v)
    smallest[0] = lanes_min(lo)
    largest[0] = lanes_max(hi)


cdef inline vf block_magnitude(const float *x) noexcept nogil:
    cdef vf a[LANES]
    cdef int i, l
    for l in range(LANES):
        a[l] = vf_abs(vf_load(x + BLOCK * l))
        for i in range(1, BLOCK // LANES):
            a[l] = vf_max(a[l], vf_abs(vf_load(x + BLOCK * l + LANES * i)))
    return lanes_max(a)


cdef inline float first_of(const float *x, float magnitude) noexcept nogil:
    """Return the first element of a block that has this magnitude, with its sign."""
    cdef int j
    for j in range(BLOCK - 1):
        if x[j] == magnitude or x[j] == -magnitude:
            return x[j]
    return x[BLOCK - 1]


cdef inline vf where_first(const float *x, vm which, vf v) noexcept nogil:
    """Replace the chosen lanes of v by the first element of their block that has the magnitude in v."""
    cdef float values[LANES]
    cdef unsigned int bits = vm_bits(which)
    cdef int l
    vf_store(values, v)
    for l in range(LANES):
        if (bits >> l) & 1:
            values[l] = first_of(x + BLOCK * l, values[l])
    return vf_load(values)


cdef inline vf block_peak(const float *x) noexcept nogil:
    """Return the first element of largest magnitude of each block, with its sign; +0.0 where all are zero.

    Which element is first only matters where a block holds both +peak and -peak. Only such blocks are read again.
    """
    cdef vf lo, hi, low
    cdef vm zero, both
    block_extremes(x, &lo, &hi)
    low = -lo
    zero = vm_and(vf_eq(hi, vf_set1(0)), vf_eq(low, vf_set1(0)))
    both = vm_and(vf_eq(hi, low), vm_not(zero))
    hi = vf_select(vf_eq(vf_max(hi, low), hi), hi, lo)
    if vm_any(both):
        hi = where_first(x, both, hi)
    return vf_select(zero, vf_set1(0), hi)


cdef inline void block_range(const float *x, vf *low, vf *span) noexcept nogil:
    """Find the smallest element of each block, and the largest minus the smallest.

    If the smallest is zero, the first zero of the block decides between 0.0 and -0.0, which are different bytes.
    """
    cdef vf lo, hi
    cdef vm zero
    block_extremes(x, &lo, &hi)
    span[0] = (hi + vf_set1(0)) - lo  # never -0.0
    zero = vf_eq(lo, vf_set1(0))
    if vm_any(zero):
        lo = where_first(x, zero, lo)
    low[0] = lo


cdef inline vf inverse_of(vf d, vm *infinite) noexcept nogil:
    """Return 1 / d, or 0 where d is 0 or so small that 1 / d is infinite. The second case is marked in `infinite`.

    In these blocks every q is 0: the reference casts infinities and NaNs to integers, and on x86 the low byte of the result
    is 0.
    """
    cdef vm zero = vf_eq(d, vf_set1(0))
    cdef vf inverse = vf_set1(1) / vf_select(zero, vf_set1(1), d)
    infinite[0] = vf_eq(vf_abs(inverse), vf_set1(INFINITY))
    return vf_select(zero, vf_set1(0), vf_select(infinite[0], vf_set1(0), inverse))


cdef inline unsigned int infinite_halves(vi h) noexcept nogil:
    """Return a bit for each lane whose float16 is infinite or NaN."""
    return vm_bits(vi_gt(h & 0x7c00, vi_set1(0x7bff)))
