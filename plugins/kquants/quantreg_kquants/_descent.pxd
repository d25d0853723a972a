# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The scale search of Q3_K without importance."""

from quantreg_kernels.lanes cimport (
    vf, vf_from_vi, vf_gt, vf_lt, vf_min, vf_ne, vf_select, vf_set1, vi_clamp, vi_nearest, vm, vm_and, vm_any, vm_not,
)
from quantreg_kernels.search cimport largest, round_signed


# What search_descent knows of one q in each lane: its terms in the two sums, and between what it stays.
cdef struct Standing:
    vf wxq
    vf wqq
    vf lo
    vf hi


cdef inline Standing standing(vf x, vf q, int nmax) noexcept nogil:
    """An end of the range is clamped to from as far as the bit trick rounds, about 2^22."""
    cdef Standing s
    cdef vf w = x * x
    s.wxq = w * x * q
    s.wqq = w * q * q
    s.lo = vf_select(vf_gt(q, vf_set1(<float>-nmax)), q - vf_set1(<float>0.49999), vf_set1(<float>-4e6))
    s.hi = vf_select(vf_lt(q, vf_set1(<float>(nmax - 1))), q + vf_set1(<float>0.49999), vf_set1(<float>4e6))
    return s


cdef inline vf search_descent(const vf *x, vf *q, int n, int nmax) noexcept nogil:
    """As search_symmetric with error weights x * x, but one rounding, then up to 5 rounds of improving one q at a time.

    Few steps change a q. That none does is seen without the division: x * sl2 / slx rounds to q where x * sl2 lies between
    lo * slx and hi * slx. Their rounding errors are a millionth of slx, and 0.49999 leaves ten times that; below the normal
    range the errors are absolute, and 1e-36 is far above them.
    """
    cdef Standing at[32]
    cdef vf peak, amax, inverse, sum_lx, sum_l2, l, w, slx, sl2, xl2, inside
    cdef vm dead, better, moves
    cdef int j, _k
    cdef bint changed
    largest(x, n, &peak, &amax)
    dead = vf_lt(amax, vf_set1(<float>1e-15))
    peak = vf_select(dead, vf_set1(1), peak)
    inverse = vf_set1(<float>-nmax) / peak
    sum_lx = vf_set1(0)
    sum_l2 = vf_set1(0)
    for j in range(n):
        q[j] = round_signed(inverse * x[j], nmax, False)
        at[j] = standing(x[j], q[j], nmax)
        sum_lx = sum_lx + at[j].wxq
        sum_l2 = sum_l2 + at[j].wqq
    for _k in range(5):
        changed = False
        for j in range(n):
            slx = sum_lx - at[j].wxq
            sl2 = sum_l2 - at[j].wqq
            xl2 = x[j] * sl2
            inside = vf_min(xl2 - at[j].lo * slx, at[j].hi * slx - xl2)
            moves = vm_and(vf_gt(slx, vf_set1(0)), vm_not(vf_gt(inside, vf_set1(<float>1e-36))))
            if not vm_any(moves):
                continue
            l = vf_from_vi(vi_clamp(vi_nearest(xl2 / slx), -nmax, nmax - 1))
            w = x[j] * x[j]
            slx = slx + w * x[j] * l
            sl2 = sl2 + w * l * l
            better = vm_and(vm_and(moves, vf_ne(l, q[j])), vf_gt(sl2, vf_set1(0)))
            better = vm_and(better, vf_gt(slx * slx * sum_l2, sum_lx * sum_lx * sl2))
            if vm_any(better):
                changed = True
                q[j] = vf_select(better, l, q[j])
                at[j] = standing(x[j], q[j], nmax)
                sum_lx = vf_select(better, slx, sum_lx)
                sum_l2 = vf_select(better, sl2, sum_l2)
        if not changed:
            break
    for j in range(n):
        q[j] = vf_select(dead, vf_set1(0), q[j] + vf_set1(<float>nmax))
    return vf_select(vm_and(vm_not(dead), vf_gt(sum_l2, vf_set1(0))), sum_lx / sum_l2, vf_set1(0))
