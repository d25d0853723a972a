# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Error weights of the searches with importance: importance * sqrt(sigma^2 + x^2). sigma^2 is a multiple of the mean square of
the block, usually twice."""

from quantreg_kernels.abi cimport IMPORTANCE_COLUMNS, IMPORTANCE_NONE, EncodeArgs, ScoreArgs
from quantreg_kernels.lanes cimport lanes_load, lanes_store, vf, vf_set1, vf_sqrt
from quantreg_kernels.rows cimport Group, as_encode_args, fill_group
from quantreg_kernels.search cimport sum_of_squares


cdef inline vf block_sigma2(const vf *x, int block) noexcept nogil:
    return vf_set1(2) * sum_of_squares(x, block) / vf_set1(<float>block)


cdef inline void error_weights(const EncodeArgs *a, const Group *g, const vf *x, vf sigma2, Py_ssize_t offset, int n,
                               vf *w) noexcept nogil:
    """Set w to the error weights of the n weights at x, which lie `offset` weights into the block.

    They are x^2 without importance, importance * sqrt(sigma^2 + x^2) if it is one value per column, else the importance itself.
    """
    cdef int j
    if a.importance_kind == IMPORTANCE_NONE:
        for j in range(n):
            w[j] = x[j] * x[j]
        return
    lanes_load(w, g.importance, offset, n)
    if a.importance_kind == IMPORTANCE_COLUMNS:
        for j in range(n):
            w[j] = w[j] * vf_sqrt(sigma2 + x[j] * x[j])


cdef inline Py_ssize_t score_blocks(const ScoreArgs *s, int block) noexcept nogil:
    """Do all that score_rows has to do, with sigma^2 twice the mean square."""
    return score_blocks_of(s, block, 2)


cdef inline Py_ssize_t score_blocks_of(const ScoreArgs *s, int block, float variance) noexcept nogil:
    """Do all that score_rows has to do, with sigma^2 `variance` times the mean square."""
    cdef EncodeArgs a = as_encode_args(s)
    cdef Group g
    cdef vf x[256]
    cdef vf w[32]
    cdef vf sigma2
    cdef Py_ssize_t start = 0
    cdef int j
    while fill_group(&g, &a, start, block, 4 * block):
        lanes_load(x, g.src, 0, block)
        sigma2 = vf_set1(variance) * sum_of_squares(x, block) / vf_set1(<float>block)
        for j in range(0, block, 32):
            error_weights(&a, &g, x + j, sigma2, j, 32, w)
            lanes_store(g.dst, j, w, 32, g.live)
        start += g.live
    return s.n_rows
