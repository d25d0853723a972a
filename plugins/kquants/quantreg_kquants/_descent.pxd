# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The scale search of Q3_K without importance."""

from quantreg_kernels.lanes cimport (
    vf, vf_from_vi, vf_gt, vf_lt, vf_min, vf_ne, vf_select, vf_set1, vi_clamp, vi_nearest, vm, vm_and, vm_any, vm_not,
)
from quantreg_kernels.search cimport largest, round_signed


# What search_descent knows of each q: its terms in the two sums, and between what it stays. A load waits for a store under way
# to an address with the same low 12 bits, so these arrays of 16 lie behind each other, and behind those of x and q: x[j] then
# only meets what belongs to the same j, which is stored later.
cdef struct Standing:
    vf wxq[16]
    vf wqq[16]
    vf lo[16]
    vf hi[16]


cdef inline void stand(Standing *at, int j, vf q, vf wxq, vf wqq, int nmax) noexcept nogil:
    """An end of the range is clamped to from as far as the bit trick rounds, about 2^22."""
    at.wxq[j] = wxq
    at.wqq[j] = wqq
    at.lo[j] = vf_select(vf_gt(q, vf_set1(<float>-nmax)), q - vf_set1(<float>0.49999), vf_set1(<float>-4e6))
    at.hi[j] = vf_select(vf_lt(q, vf_set1(<float>(nmax - 1))), q + vf_set1(<float>0.49999), vf_set1(<float>4e6))


cdef inline vf search_descent(const vf *x, vf *q, Standing *at, int nmax) noexcept nogil:
    """As search_symmetric of 16 with error weights x * x, but one rounding, then up to 5 rounds of improving one q at a time.

    Few steps change a q. That none does is seen without the division: x * sl2 / slx rounds to q where x * sl2 lies between
    lo * slx and hi * slx. Their rounding errors are a millionth of slx, and 0.49999 leaves ten times that; below the normal
    range the errors are absolute, and 1e-36 is far above them.
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
        stand(at, j, l, wxq, wqq, nmax)
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
                stand(at, j, l, w * v * l, w * l * l, nmax)
                q[j] = l
                sum_lx = vf_select(better, slx, sum_lx)
                sum_l2 = vf_select(better, sl2, sum_l2)
        if not changed:
            break
    for j in range(16):
        q[j] = vf_select(dead, vf_set1(0), q[j] + vf_set1(<float>nmax))
    return vf_select(vm_and(vm_not(dead), vf_gt(sum_l2, vf_set1(0))), sum_lx / sum_l2, vf_set1(0))
