# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Products of encoded rows with a few rows of activations: what `dot_rows` of a codec is made of.

A row of weights becomes registers of weights, which are multiplied and added at once. The weights are exactly those that
decode_rows gives. Column j belongs to lane j % LANES of part j // LANES % PARTS, and each of these sums runs from the first
column to the last. So the result depends on the CPU level, and on nothing else: not on the other rows, the threads or the
number of rows of activations.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from quantreg_kernels.abi cimport DecodeArgs, DotArgs, RowCodec, decode_rows_t
from quantreg_kernels.lanes cimport LANES, prefetch, vf, vf_load, vf_set1, vi

cdef extern from "quantreg_kernels/lanes_dot.h" nogil:
    ctypedef unsigned int vq

    vf vf_fma(vf a, vf b, vf c)
    float vf_sum(vf v)
    vq vq_load(const uint8_t *p)
    vq vq_load_twice(const uint8_t *p)
    vq vq_shift(vq v, int first, int second)
    vq vq_merge(uint8_t mask, vq a, vq b)
    vq vq_and(vq a, uint8_t mask)
    vf vf_from_vq(vq v, int i)
    vf vf_near_two(vq v, int i)
    vi vi_spread4(uint32_t bits)
    vi vi_pick(const uint8_t *p, vi where)
    vi vi_shr_each(vi v, vi n)
    vf vf_pair_f16(const uint8_t *p)
    void keep_stored(void *p)

cdef enum:
    PARTS = 4           # sums that run side by side: an addition takes as long as 4 to 8 of them need to start
    PIECE = 1024        # weights that are decoded at a time
    MOST_X = 8          # rows of activations at a time
    DOT_AHEAD = 1536    # bytes of weights that are prefetched ahead: rows follow each other, and pages end


cdef struct Sum:
    vf part[PARTS]


# Returns the sum of n_cols weights from `block` on times x.
ctypedef float (*dot_row_t)(const uint8_t *block, const float *x, Py_ssize_t n_cols) noexcept nogil


cdef inline void start_sum(Sum *s) noexcept nogil:
    s.part[0] = s.part[1] = s.part[2] = s.part[3] = vf_set1(0)


cdef inline void add_product(Sum *s, int column, vf weights, const float *x) noexcept nogil:
    """Add the products of LANES weights with those of x[column] on. Let the compiler know the column modulo 64."""
    s.part[column // LANES % PARTS] = vf_fma(weights, vf_load(x + column), s.part[column // LANES % PARTS])


cdef inline float end_sum(const Sum *s) noexcept nogil:
    return vf_sum((s.part[0] + s.part[1]) + (s.part[2] + s.part[3]))


cdef inline void prefetch_block(const uint8_t *block, int n_bytes) noexcept nogil:
    cdef int i
    for i in range((n_bytes + 63) // 64):
        prefetch(block + DOT_AHEAD + 64 * i)


cdef inline Py_ssize_t dot_each(const RowCodec *codec, const DotArgs *a, dot_row_t dot_row,
                                decode_rows_t decode_rows) noexcept nogil:
    """Do all that dot_rows has to do: `dot_row` for one row of activations, `decode_rows` and products for several."""
    cdef Py_ssize_t row
    if a.n_x != 1:
        return dot_decoded(codec, a, decode_rows)
    for row in range(a.n_rows):
        a.dst[row] = dot_row(a.src + row * a.src_stride, a.x, a.n_cols)
    return a.n_rows


cdef inline void add_piece(Sum *sums, const float *w, const float *x, Py_ssize_t n, int n_x, Py_ssize_t stride) noexcept nogil:
    """Add the products of n weights, a multiple of LANES, with n_x rows of x, a constant of at most 4."""
    cdef Sum s[4]
    cdef vf v
    cdef Py_ssize_t j = 0
    cdef int i, k
    for k in range(n_x):
        s[k] = sums[k]
    while j + PARTS * LANES <= n:
        for i in range(PARTS):
            v = vf_load(w + j + LANES * i)
            for k in range(n_x):
                s[k].part[i] = vf_fma(v, vf_load(x + k * stride + j + LANES * i), s[k].part[i])
        j += PARTS * LANES
    for i in range(PARTS - 1):
        if j < n:
            v = vf_load(w + j)
            for k in range(n_x):
                s[k].part[i] = vf_fma(v, vf_load(x + k * stride + j), s[k].part[i])
            j += LANES
    for k in range(n_x):
        sums[k] = s[k]


cdef inline Py_ssize_t dot_decoded(const RowCodec *codec, const DotArgs *a, decode_rows_t decode_rows) noexcept nogil:
    """Do all that dot_rows has to do, for any codec whose block size divides PIECE and is a multiple of 16: decode a piece
    of a row into the innermost cache, and multiply it by all rows of activations."""
    cdef float room[PIECE + 16]
    cdef float *w = room + (-<size_t>room % 64) // sizeof(float)  # loads across two cache lines are slow
    cdef Sum sums[MOST_X]
    cdef DecodeArgs d
    cdef const float *x
    cdef Py_ssize_t row, first, column, n_x, i
    memset(&d, 0, sizeof(DecodeArgs))
    d.struct_size = sizeof(DecodeArgs)
    d.dst = w
    d.n_rows = 1
    for row in range(a.n_rows):
        first = 0
        while first < a.n_x:
            n_x = min(MOST_X, a.n_x - first)
            for i in range(n_x):
                start_sum(sums + i)
            column = 0
            d.src = a.src + row * a.src_stride
            while column < a.n_cols:
                d.n_cols = d.dst_stride = min(PIECE, a.n_cols - column)
                d.src_stride = d.n_cols // codec.block_size * codec.type_size
                decode_rows(codec, &d)
                i = 0
                x = a.x + first * a.x_stride + column
                while LANES == 16 and i + 4 <= n_x:  # the fewer registers of other CPU levels hold the sums of two rows
                    add_piece(sums + i, w, x + i * a.x_stride, d.n_cols, 4, a.x_stride)
                    i += 4
                while i + 2 <= n_x:
                    add_piece(sums + i, w, x + i * a.x_stride, d.n_cols, 2, a.x_stride)
                    i += 2
                if i < n_x:
                    add_piece(sums + i, w, x + i * a.x_stride, d.n_cols, 1, a.x_stride)
                d.src += d.src_stride
                column += PIECE
            for i in range(n_x):
                a.dst[(first + i) * a.dst_stride + row] = end_sum(sums + i)
            first += n_x
    return a.n_rows
