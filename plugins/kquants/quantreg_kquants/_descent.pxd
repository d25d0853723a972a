# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The scale search of Q3_K without importance: coordinate descent over the q of a sub-block.

The reference rounds 16 weights under one scale. Then it goes through them up to five times and improves one q at a time.
With weight j left out, the best scale for the others is slx / sl2, where

    slx = sum of w x q over the other weights        w = x * x is the error weight
    sl2 = sum of w q^2 over the other weights

so the best q[j] is x[j] * sl2 / slx, rounded. It replaces the old one if the fit with it is better.

Most steps change nothing, and the division is what makes them slow. So we first test whether the quotient can round to
anything but the present q. It rounds to q if q - 1/2 < x sl2 / slx < q + 1/2. Multiplied by slx, which is positive,
that is a test of x sl2 against two products. Where the test is clear in every lane, the division is skipped. Everywhere else
the reference's own steps follow, in its order, so the result has its bits.
"""

from quantreg_kernels.lanes cimport (
    vf, vf_from_vi, vf_gt, vf_lt, vf_min, vf_ne, vf_select, vf_set1, vi_clamp, vi_nearest, vm, vm_and, vm_any, vm_not,
)
from quantreg_kernels.search cimport largest, round_signed


# For each q: its terms in the two sums, and the bounds between which x sl2 / slx rounds to it.
#
# The order of the members matters. A processor compares only the low 12 bits of addresses to decide whether a load depends
# on a store that has not finished, so a load waits for any store that lies a multiple of 4 KiB away. At 16 lanes each of
# these arrays is 1 KiB long. Laid out one after the other behind x and q (see Searched in _q3_k.pyx), x[j] can only
# collide with entries of the same j, and these are stored after x[j] has been loaded.
cdef struct Terms:
    vf wxq[16]
    vf wqq[16]
    vf lo[16]
    vf hi[16]


cdef inline void set_terms(Terms *at, int j, vf q, vf wxq, vf wqq, int nmax) noexcept nogil:
    """Record q as entry j.

    At an end of the range, quotients further out clamp to q as well, up to where the reference's bit trick stops rounding.
    That is about 2^22, so the bound on that side is 4e6.
    """
    at.wxq[j] = wxq
    at.wqq[j] = wqq
    at.lo[j] = vf_select(vf_gt(q, vf_set1(<float>-nmax)), q - vf_set1(<float>0.49999), vf_set1(<float>-4e6))
    at.hi[j] = vf_select(vf_lt(q, vf_set1(<float>(nmax - 1))), q + vf_set1(<float>0.49999), vf_set1(<float>4e6))


cdef inline vf search_descent(const vf *x, vf *q, Terms *at, int nmax) noexcept nogil:
    """Find q in 0..2 * nmax - 1 for 16 weights x; return the scale, with x about scale * (q - nmax).

    The bounds use 0.49999, not 0.5: the rounding errors of the products are about a millionth of slx, and 0.00001 is
    ten times that. Below the normal range of float32 errors are absolute, and 1e-36 is far above them.
    """
    cdef vf peak, amax, inverse, sum_lx, sum_l2, l, v, w, wxq, wqq, slx, sl2, xl2, inside
    cdef vm dead, better, moves
    cdef int j, _k
    cdef bint changed
    largest(x, 16, &peak, &amax)
    dead = vf_lt(amax, vf_set1(<float>1e-15))
    peak = vf_select(dead, vf_set1(1), peak)
    inverse = vf_set1(<float>-nmax) / peak
    sum_lx = vf_set1(0)
    sum_l2 = vf_set1(0)
    for j in range(16):
        v = x[j]
        l = round_signed(inverse * v, nmax, False)
        w = v * v
        wxq = w * v * l
        wqq = w * l * l
        set_terms(at, j, l, wxq, wqq, nmax)
        q[j] = l
        sum_lx = sum_lx + wxq
        sum_l2 = sum_l2 + wqq
    for _k in range(5):
        changed = False
        for j in range(16):
            v = x[j]
            slx = sum_lx - at.wxq[j]
            sl2 = sum_l2 - at.wqq[j]
            xl2 = v * sl2
            inside = vf_min(xl2 - at.lo[j] * slx, at.hi[j] * slx - xl2)
            moves = vm_and(vf_gt(slx, vf_set1(0)), vm_not(vf_gt(inside, vf_set1(<float>1e-36))))
            if not vm_any(moves):
                continue
            l = vf_from_vi(vi_clamp(vi_nearest(xl2 / slx), -nmax, nmax - 1))
            w = v * v
            slx = slx + w * v * l
            sl2 = sl2 + w * l * l
            better = vm_and(vm_and(moves, vf_ne(l, q[j])), vf_gt(sl2, vf_set1(0)))
            better = vm_and(better, vf_gt(slx * slx * sum_l2, sum_lx * sum_lx * sl2))
            if vm_any(better):
                changed = True
                l = vf_select(better, l, q[j])
                set_terms(at, j, l, w * v * l, w * l * l, nmax)
                q[j] = l
                sum_lx = vf_select(better, slx, sum_lx)
                sum_l2 = vf_select(better, sl2, sum_l2)
        if not changed:
            break
    for j in range(16):
        q[j] = vf_select(dead, vf_set1(0), q[j] + vf_set1(<float>nmax))
    return vf_select(vm_and(vm_not(dead), vf_gt(sum_l2, vf_set1(0))), sum_lx / sum_l2, vf_set1(0))
