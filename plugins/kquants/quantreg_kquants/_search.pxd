# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the K-quants share: error weights, scales and minimums of a super-block, and the 6-bit packing of Q4_K and Q5_K.

Lanes are super-blocks of 256 weights throughout.
"""

from quantreg_kernels.abi cimport IMPORTANCE_COLUMNS, IMPORTANCE_NONE, EncodeArgs, ScoreArgs
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store, lanes_store_bytes, vf, vf_abs, vf_eq, vf_gt, vf_select, vf_set1, vf_sqrt, vi, vi_clamp, vi_f16,
    vi_min, vi_nearest, vi_select, vi_set1, vi_trunc, vm, vm_any,
)
from quantreg_kernels.rows cimport Group, as_encode_args, fill_group
from quantreg_kernels.search cimport search_mins, search_positive, sum_of, sum_of_squares

cdef enum:
    BLOCK = 256


# How one type fits a scale and a minimum to each sub-block.
cdef struct MinSearch:
    int sub             # weights a sub-block: 16 or 32
    int nmax            # largest q
    int top             # largest integer scale and minimum
    float variance      # sigma^2 of the weighted search is this times the mean square
    float first         # of the plain search (see search_min)
    float step
    int n_steps
    bint absolute       # the plain search weighs |error| by |x|, not its square by the root mean square plus |x|


cdef inline vf block_sigma2(const vf *x, float variance) noexcept nogil:
    return vf_set1(variance) * sum_of_squares(x, BLOCK) / vf_set1(<float>BLOCK)


cdef inline void error_weights(const EncodeArgs *a, const Group *g, const vf *x, vf sigma2, Py_ssize_t offset, int n,
                               vf *w) noexcept nogil:
    """Error weights of the n weights at x = block + offset: importance * sqrt(sigma^2 + x^2) under column statistics, else
    the given weights."""
    cdef int j
    lanes_load(w, g.importance, offset, n)
    if a.importance_kind == IMPORTANCE_COLUMNS:
        for j in range(n):
            w[j] = w[j] * vf_sqrt(sigma2 + x[j] * x[j])


cdef inline Py_ssize_t score_super_blocks(const ScoreArgs *s, float variance) noexcept nogil:
    """The whole of score_rows for Q2_K .. Q5_K."""
    cdef EncodeArgs a = as_encode_args(s)
    cdef Group g
    cdef vf x[BLOCK]
    cdef vf sigma2
    cdef vf w[32]
    cdef Py_ssize_t start = 0
    cdef int j
    while fill_group(&g, &a, start, BLOCK, 4 * BLOCK):
        lanes_load(x, g.src, 0, BLOCK)
        sigma2 = block_sigma2(x, variance)
        for j in range(0, BLOCK, 32):
            error_weights(&a, &g, &x[j], sigma2, j, 32, w)
            lanes_store(g.dst, j, w, 32, g.live)
        start += g.live
    return s.n_rows


cdef inline void share_of_top(const vf *values, int n, int top, vi *f16, vi *shares) noexcept nogil:
    """The plain second level: each value as a share of the largest, 0..top; f16 is the step between shares.

    A negative value wraps as in the reference's bytes: cut to 63 in Q4_K and Q5_K, and kept (up to 255) in Q2_K.
    """
    cdef vf peak = vf_set1(0)
    cdef vf inverse
    cdef int j
    for j in range(n):
        peak = vf_select(vf_gt(values[j], peak), values[j], peak)
    inverse = vf_select(vf_gt(peak, vf_set1(0)), vf_set1(<float>top) / peak, vf_set1(0))
    for j in range(n):
        shares[j] = vi_min(vi_nearest(inverse * values[j]) & 255, vi_set1(63 if top == 63 else 255))
    f16[0] = vi_f16(peak / vf_set1(<float>top))


cdef inline void search_scales_mins(const EncodeArgs *a, const Group *g, const vf *x, vf *q, const MinSearch *p,
                                    vi *d, vi *dmin, vi *scales, vi *mins) noexcept nogil:
    """Both levels: per sub-block q, an integer scale and minimum in 0..top, and the float16 steps d and dmin."""
    cdef vf w[64]
    cdef vf trial[72]  # not 64: by chance these may lie a multiple of 4 KiB from x, and loads then wait for stores
    cdef vf scale[16]
    cdef vf low[16]
    cdef vf total[16]
    cdef vf level[16]
    cdef vf sigma2, mean
    cdef int n = BLOCK // p.sub
    cdef int i, j, k
    cdef const vf *xs
    if a.importance_kind == IMPORTANCE_NONE:
        for i in range(0, n, 2):
            xs = x + i * p.sub
            for k in range(2):
                mean = vf_set1(0) if p.absolute else vf_sqrt(sum_of_squares(xs + k * p.sub, p.sub) / vf_set1(<float>p.sub))
                for j in range(k * p.sub, k * p.sub + p.sub):
                    w[j] = mean + vf_abs(xs[j])
            search_mins(xs, w, q + i * p.sub, trial, p.sub, 2, p.nmax, p.first, p.step, p.n_steps, p.absolute, scale + i,
                        low + i)
        share_of_top(scale, n, p.top, d, scales)
        share_of_top(low, n, p.top, dmin, mins)
        return
    sigma2 = block_sigma2(x, p.variance) if a.importance_kind == IMPORTANCE_COLUMNS else vf_set1(0)
    for i in range(0, n, 2):
        xs = x + i * p.sub
        error_weights(a, g, xs, sigma2, i * p.sub, 2 * p.sub, w)
        total[i] = sum_of(w, p.sub)
        total[i + 1] = sum_of(w + p.sub, p.sub)
        search_mins(xs, w, q + i * p.sub, trial, p.sub, 2, p.nmax, <float>-0.9, <float>0.05, 36, False, scale + i, low + i)
    d[0] = vi_f16(search_positive(scale, total, level, n, p.top))
    for i in range(n):
        scales[i] = vi_trunc(level[i])
    dmin[0] = vi_f16(search_positive(low, total, level, n, p.top))
    for i in range(n):
        mins[i] = vi_trunc(level[i])


cdef inline void requantize(const vf *x, const vf *q, int n, vf d, int lo, int hi, vi *out) noexcept nogil:
    """q for the scale as stored: x / d rounded, from lo on; where d is 0 the search's q stays."""
    cdef vm keep = vf_eq(d, vf_set1(0))
    cdef int j
    if not vm_any(keep):
        for j in range(n):
            out[j] = vi_clamp(vi_nearest(x[j] / d), lo, hi) - lo
    else:
        d = vf_select(keep, vf_set1(1), d)
        for j in range(n):
            out[j] = vi_select(keep, vi_trunc(q[j]), vi_clamp(vi_nearest(x[j] / d), lo, hi) - lo)


cdef inline void requantize_above_min(const vf *x, const vf *q, int n, vf d, vf m, int hi, vi *out) noexcept nogil:
    """The same for (x + m) / d, from 0 on."""
    cdef vf above[32]
    cdef int j
    for j in range(n):
        above[j] = x[j] + m
    requantize(above, q, n, d, 0, hi, out)


cdef inline void store_2bit(Group *g, Py_ssize_t offset, vi *q) noexcept nogil:
    """Two bits a weight: byte 32 * c + l holds weights 128 * c + l, + 32, + 64 and + 96, from the low bits up."""
    cdef vi *p
    cdef int c, l
    for c in range(2):
        p = q + 128 * c
        for l in range(32):
            p[l] = p[l] | (p[l + 32] << 2) | (p[l + 64] << 4) | (p[l + 96] << 6)
        lanes_store_bytes(g.dst, offset + 32 * c, p, 32, g.live)


cdef inline void pack_k4(const vi *scales, const vi *mins, vi *packed) noexcept nogil:
    """Eight 6-bit scales and minimums in 12 bytes. Bytes 0-3: scales 0-3, bytes 4-7: mins 0-3, with the upper two bits of
    scales and mins 4-7 on top; bytes 8-11: the lower four bits of scales (low nibble) and mins 4-7."""
    cdef int j
    for j in range(4):
        packed[j] = (scales[j] | ((scales[j + 4] >> 4) << 6)) & 255
        packed[j + 4] = (mins[j] | ((mins[j + 4] >> 4) << 6)) & 255
        packed[j + 8] = (scales[j + 4] & 15) | ((mins[j + 4] & 15) << 4)


cdef inline void unpack_k4(const vi *packed, vi *scales, vi *mins) noexcept nogil:
    """The reverse of pack_k4, lane by lane: what a decoder will see."""
    cdef int j
    for j in range(4):
        scales[j] = packed[j] & 63
        mins[j] = packed[j + 4] & 63
        scales[j + 4] = (packed[j + 8] & 15) | ((packed[j] >> 6) << 4)
        mins[j + 4] = (packed[j + 8] >> 4) | ((packed[j + 4] >> 6) << 4)
