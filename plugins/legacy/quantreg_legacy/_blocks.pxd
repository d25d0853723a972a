# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Blocks of 32 weights in memory order, LANES of them at a time: extremes and scales in lanes, the rest as it lies."""

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
    MOST_VECTORS = 8    # BLOCK / LANES, at most
    MOST_BYTES = 36     # of an encoded block


# Encodes LANES consecutive blocks; returns a bit for each whose scale or minimum is not finite in float16.
ctypedef unsigned int (*encode_group_t)(const float *x, uint8_t *y) noexcept nogil


cdef inline Py_ssize_t encode_in_groups(const EncodeArgs *a, Py_ssize_t type_size,
                                        encode_group_t encode) noexcept nogil:
    """encode_rows for encoders that know nothing of rows."""
    cdef float x_rest[MOST_LANES * BLOCK]
    cdef uint8_t y_rest[MOST_LANES * MOST_BYTES]
    cdef Py_ssize_t per_row = a.n_cols // BLOCK
    cdef Py_ssize_t n_rows = a.n_rows, n_blocks = per_row, row, k, live, line
    cdef const float *x
    cdef uint8_t *y
    cdef unsigned int bad
    if a.src_stride == a.n_cols and a.dst_stride == per_row * type_size:  # one long row: a remainder only once
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
    """The first element of this magnitude, with its sign."""
    cdef int j
    for j in range(BLOCK - 1):
        if x[j] == magnitude or x[j] == -magnitude:
            return x[j]
    return x[BLOCK - 1]


cdef inline vf where_first(const float *x, vm which, vf v) noexcept nogil:
    """v, in the chosen lanes replaced by the first element of that magnitude."""
    cdef float values[LANES]
    cdef unsigned int bits = vm_bits(which)
    cdef int l
    vf_store(values, v)
    for l in range(LANES):
        if (bits >> l) & 1:
            values[l] = first_of(x + BLOCK * l, values[l])
    return vf_load(values)


cdef inline vf block_peak(const float *x) noexcept nogil:
    """Of each block the first element of greatest magnitude, with its sign; +0.0 where all are zero."""
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
    """Smallest element of each block, of zeros the first, which decides the sign; and largest minus smallest."""
    cdef vf lo, hi
    cdef vm zero
    block_extremes(x, &lo, &hi)
    span[0] = (hi + vf_set1(0)) - lo  # never -0.0
    zero = vf_eq(lo, vf_set1(0))
    if vm_any(zero):
        lo = where_first(x, zero, lo)
    low[0] = lo


cdef inline vf inverse_of(vf d, vm *infinite) noexcept nogil:
    """1 / d, but 0 where d is 0, and 0 and marked where d is so small that 1 / d is infinite.

    There all q are 0: the reference casts infinities and NaNs to integers, and the low byte of the result is 0 on x86.
    """
    cdef vm zero = vf_eq(d, vf_set1(0))
    cdef vf inverse = vf_set1(1) / vf_select(zero, vf_set1(1), d)
    infinite[0] = vf_eq(vf_abs(inverse), vf_set1(INFINITY))
    return vf_select(zero, vf_set1(0), vf_select(infinite[0], vf_set1(0), inverse))


cdef inline unsigned int infinite_halves(vi h) noexcept nogil:
    """A bit for each lane whose float16 is infinite or NaN."""
    return vm_bits(vi_gt(h & 0x7c00, vi_set1(0x7bff)))
