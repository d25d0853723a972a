# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Shared by the K-quants: error weights, scales and mins of a super-block, and the 6-bit packing of Q4_K and Q5_K.

Each lane holds one super-block of 256 weights.
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


# How one type fits a scale and a min to each sub-block. "Weighted" means with importance, "plain" means without.
cdef struct MinSearch:
    int sub             # weights per sub-block: 16 or 32
    int nmax            # largest q
    int top             # largest integer scale and min
    float variance      # the weighted search takes this times the mean square of the super-block as sigma^2
    float first         # first, step and n_steps of the plain search: see search_mins
    float step
    int n_steps
    bint absolute       # the plain search minimizes |x| * |error|; otherwise (root mean square + |x|) * error^2


# What search_scales_mins reads and writes: x, and the q that it finds for them.
#
# The order of the members matters, as in _descent.pxd: loads wait for stores that lie a multiple of 4 KiB away. At 16 lanes,
# x, q and w are multiples of that, so `gap` moves trial off it.
cdef struct Searched:
    vf x[BLOCK]
    vf q[BLOCK]
    vf w[64]
    vf gap[8]
    vf trial[64]


cdef inline vf block_sigma2(const vf *x, float variance) noexcept nogil:
    return vf_set1(variance) * sum_of_squares(x, BLOCK) / vf_set1(<float>BLOCK)


cdef inline void error_weights(const EncodeArgs *a, const Group *g, const vf *x, vf sigma2, Py_ssize_t offset, int n,
                               vf *w) noexcept nogil:
    """Set w to the error weights of the n weights at x, which lie `offset` weights into the super-block.

    They are importance * sqrt(sigma^2 + x^2) if the importance is one value per column, else the importance itself.
    """
    cdef int j
    lanes_load(w, g.importance, offset, n)
    if a.importance_kind == IMPORTANCE_COLUMNS:
        for j in range(n):
            w[j] = w[j] * vf_sqrt(sigma2 + x[j] * x[j])


cdef inline Py_ssize_t score_super_blocks(const ScoreArgs *s, float variance) noexcept nogil:
    """Do all that score_rows has to do for Q2_K to Q5_K."""
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
    """Quantize the scales (or mins) of the sub-blocks without importance: shares[j] is values[j] / f16, rounded.

    f16 is the largest value divided by top, so the largest share is top. A negative value wraps around, because the
    reference stores it in an unsigned byte. Q4_K and Q5_K then clamp the byte to 63; Q2_K keeps up to 255.
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


cdef inline void search_scales_mins(const EncodeArgs *a, const Group *g, Searched *s, const MinSearch *p, vi *d, vi *dmin,
                                    vi *scales, vi *mins) noexcept nogil:
    """Find q, an integer scale and an integer min in 0..top for each sub-block, and the float16 d and dmin.

    Sub-blocks are searched two at a time: one search alone mostly waits for its own last operation.
    """
    cdef const vf *x = s.x
    cdef vf *q = s.q
    cdef vf *w = s.w
    cdef vf *trial = s.trial
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
    """Write x / d - lo, with x / d rounded and clamped to lo..hi. d is the scale as the decoder will see it.

    Where d is 0 the q of the search stays, as in the reference.
    """
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
    """Write (x + m) / d, rounded and clamped to 0..hi. m is the min as the decoder will see it."""
    cdef vf above[32]
    cdef int j
    for j in range(n):
        above[j] = x[j] + m
    requantize(above, q, n, d, 0, hi, out)


cdef inline void store_2bit(Group *g, Py_ssize_t offset, vi *q) noexcept nogil:
    """Store two bits per weight: byte 32 * c + l holds weights 128 * c + l, + 32, + 64 and + 96, from the low bits up.

    q is overwritten.
    """
    cdef vi *p
    cdef int c, l
    for c in range(2):
        p = q + 128 * c
        for l in range(32):
            p[l] = p[l] | (p[l + 32] << 2) | (p[l + 64] << 4) | (p[l + 96] << 6)
        lanes_store_bytes(g.dst, offset + 32 * c, p, 32, g.live)


cdef inline void pack_k4(const vi *scales, const vi *mins, vi *packed) noexcept nogil:
    """Pack eight 6-bit scales and eight 6-bit mins into 12 bytes, for j = 0..3:

    bit            7     6     5     4     3     2     1     0
                +-----------+-----------------------------------+
    byte j      |[j + 4] 5:4|             scale[j]              |   upper two bits: of scale[j + 4]
                +-----------+-----------------------------------+
    byte 4 + j  |[j + 4] 5:4|              min[j]               |   upper two bits: of min[j + 4]
                +-----------+-----------+-----------------------+
    byte 8 + j  |    min[j + 4] 3:0     |   scale[j + 4] 3:0    |
                +-----------------------+-----------------------+
    """
    cdef int j
    for j in range(4):
        packed[j] = (scales[j] | ((scales[j + 4] >> 4) << 6)) & 255
        packed[j + 4] = (mins[j] | ((mins[j + 4] >> 4) << 6)) & 255
        packed[j + 8] = (scales[j + 4] & 15) | ((mins[j + 4] & 15) << 4)


cdef inline void unpack_k4(const vi *packed, vi *scales, vi *mins) noexcept nogil:
    """Undo pack_k4. A scale that had wrapped above 63 comes back as the decoder will see it."""
    cdef int j
    for j in range(4):
        scales[j] = packed[j] & 63
        mins[j] = packed[j + 4] & 63
        scales[j + 4] = (packed[j + 8] & 15) | ((packed[j] >> 6) << 4)
        mins[j + 4] = (packed[j + 8] >> 4) | ((packed[j + 4] >> 6) << 4)
