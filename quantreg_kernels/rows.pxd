# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The way from rows to lanes: which lane holds which block of which row."""

from libc.stdint cimport uint8_t

from quantreg_kernels.abi cimport IMPORTANCE_COLUMNS, IMPORTANCE_NONE, EncodeArgs, ScoreArgs
from quantreg_kernels.lanes cimport LANES, vi, vi_eq, vi_set1, vm, vm_and, vm_bits, vm_first, vm_or


cdef enum:
    AHEAD = 1024    # prefetch this many weights ahead: processors do it by themselves, but not past the end of a page


# Up to LANES consecutive blocks, which may lie in several rows. Lanes from `live` on repeat the last block, so that every
# lane computes on valid data; they are not stored.
cdef struct Group:
    int live
    Py_ssize_t first_row                # row of lane 0
    Py_ssize_t row[LANES]
    const float *src[LANES]
    uint8_t *dst[LANES]
    const float *importance[LANES]      # NULL without importance


cdef inline Py_ssize_t fill_group(Group *g, const EncodeArgs *a, Py_ssize_t start,
                                  Py_ssize_t block_size, Py_ssize_t type_size) noexcept nogil:
    """Point the lanes of `g` at the next blocks, from block `start`, counted over all rows.

    Return the number of live lanes, which is 0 at the end.
    """
    cdef Py_ssize_t per_row = a.n_cols // block_size
    cdef Py_ssize_t left = a.n_rows * per_row - start
    cdef Py_ssize_t row, block
    cdef int lane
    if left <= 0:
        return 0
    g.live = LANES if left > LANES else <int>left
    row = start // per_row
    block = start - row * per_row
    g.first_row = row
    for lane in range(LANES):
        g.row[lane] = row
        g.src[lane] = a.src + row * a.src_stride + block * block_size
        g.dst[lane] = a.dst + row * a.dst_stride + block * type_size
        if a.importance_kind != IMPORTANCE_NONE:
            g.importance[lane] = a.importance + row * a.importance_stride + block * block_size
        else:
            g.importance[lane] = NULL
        if lane + 1 < g.live:
            block += 1
            if block == per_row:
                block = 0
                row += 1
    return g.live


cdef inline Py_ssize_t keep_finite_rows(Group *g, vi d, vi dmin) noexcept nogil:
    """Return the row of the first live lane with an infinite or NaN half-precision scale, or -1.

    The scales are d and dmin; pass d twice if there is only one. The lanes from that row on are no longer live, so that
    only the rows before it are stored.
    """
    cdef vm infinite = vm_or(vi_eq(d & 0x7c00, vi_set1(0x7c00)), vi_eq(dmin & 0x7c00, vi_set1(0x7c00)))
    cdef unsigned int bad = vm_bits(vm_and(infinite, vm_first(g.live)))
    cdef Py_ssize_t row
    cdef int lane = 0
    if not bad:
        return -1
    while not (bad >> lane) & 1:
        lane += 1
    row = g.row[lane]
    while g.live and g.row[g.live - 1] >= row:
        g.live -= 1
    return row


cdef inline EncodeArgs as_encode_args(const ScoreArgs *s) noexcept nogil:
    """Return the same rows for `fill_group`, with the statistics as importance.

    `dst` then points at float32 weights, so pass 4 * block_size as type_size.
    """
    cdef EncodeArgs a
    a.struct_size = sizeof(EncodeArgs)
    a.src = s.src
    a.dst = <uint8_t *>s.dst
    a.n_rows = s.n_rows
    a.n_cols = s.n_cols
    a.src_stride = s.src_stride
    a.dst_stride = s.dst_stride * sizeof(float)
    a.importance = s.columns
    a.importance_kind = IMPORTANCE_COLUMNS
    a.importance_stride = 0
    return a
