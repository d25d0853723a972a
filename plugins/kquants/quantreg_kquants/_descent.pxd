# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The scale search of Q3_K without importance: coordinate descent over the q of a sub-block.

The reference rounds 16 weights under one scale. Then it goes through them up to five times and improves one q at a time.
With weight j left out, the best scale for the others is slx / sl2, where

    slx = sum of w x q over the other weights        w = x * x is the error weight
    sl2 = sum of w q^2 over the other weights

so the best q[j] is x[j] * sl2 / slx, rounded. It replaces the old one if slx is positive and the fit with it is better.

Three things make this fast. All of them leave the reference's bits as they are.

- The first scale gives the weight of largest magnitude the lowest q, which is negative. If that weight is positive, no x q is
  positive. Then slx is not positive either, and no q ever changes. (Rounding does not alter this: a sum of such terms is
  never above any of them.) Only the other sub-blocks, about half, need the descent. They are collected from all lanes and
  loaded again, one per lane.
- Most steps change nothing. The quotient rounds to the present q if q - 1/2 < x sl2 / slx < q + 1/2. Multiplied by slx,
  that is a test of x sl2 against two products. Where it is clear in every lane, the step ends there.
- If x sl2 lies outside these bounds by clearly less than slx, the quotient rounds to the next integer on that side. The
  division is only done for what remains.
"""

from libc.stdint cimport int32_t

from quantreg_kernels.lanes cimport (
    LANES, lanes_load, vf, vf_bits, vf_eq, vf_from_vi, vf_ge, vf_gt, vf_le, vf_lt, vf_min, vf_ne, vf_select,
    vf_set1, vf_store, vi_clamp, vi_gather, vi_load, vi_nearest, vm, vm_and, vm_any, vm_bits, vm_not, vm_or,
)
from quantreg_kernels.search cimport largest, round_signed


# One sub-block per lane. For each x: its q, the terms of that in the two sums, and the bounds between which x sl2 / slx
# rounds to it.
#
# The order of the members matters. A processor compares only the low 12 bits of addresses to decide whether a load depends
# on a store that has not finished, so a load waits for any store that lies a multiple of 4 KiB away. At 16 lanes each of
# these arrays is 1 KiB long. Laid out one after the other, x[j] and q[j] can only collide with entries of the same j, and
# these are stored after x[j] and q[j] have been loaded.
cdef struct Terms:
    vf x[16]
    vf q[16]
    vf wxq[16]
    vf wqq[16]
    vf lo[16]
    vf hi[16]


# What search_descents works with. Sub-block j of lane l has the number LANES * j + l.
cdef struct Descents:
    Terms at
    vf q[256]                       # what the descents found: 16 vectors for each LANES numbers
    vf inverse[16]                  # of the first scale of each sub-block, or 0: see first_scale
    int count                       # how many sub-blocks needed the descent
    int32_t number[16 * LANES]      # and which


cdef inline void set_terms(Terms *at, int j, vf q, vf wxq, vf wqq, int nmax) noexcept nogil:
    """Record q as entry j.

    At an end of the range, quotients further out clamp to q as well, up to where the reference's bit trick stops rounding.
    That is about 2^22, so the bound on that side is 4e6.
    """
    at.q[j] = q
    at.wxq[j] = wxq
    at.wqq[j] = wqq
    at.lo[j] = vf_select(vf_gt(q, vf_set1(<float>-nmax)), q - vf_set1(<float>0.49999), vf_set1(<float>-4e6))
    at.hi[j] = vf_select(vf_lt(q, vf_set1(<float>(nmax - 1))), q + vf_set1(<float>0.49999), vf_set1(<float>4e6))


cdef inline vf first_q(vf inverse, vf x, int nmax) noexcept nogil:
    """Round x under the first scale. |inverse * x| is at most nmax, but for rounding errors, so only the top is clamped."""
    return round_signed(inverse * x, nmax, False, True, False)


cdef inline vf first_scale(const vf *x, int nmax, vf *inverse) noexcept nogil:
    """Return the scale fitted to the first q of 16 weights.

    inverse becomes what x is multiplied by before it is rounded, or 0 where all x are all but zero.
    """
    cdef vf peak, amax, sum_lx, sum_l2, l, w
    cdef int j
    largest(x, 16, &peak, &amax)
    inverse[0] = vf_select(vf_lt(amax, vf_set1(<float>1e-15)), vf_set1(0), vf_set1(<float>-nmax) / peak)
    sum_lx = vf_set1(0)
    sum_l2 = vf_set1(0)
    for j in range(16):
        l = first_q(inverse[0], x[j], nmax)
        w = x[j] * x[j]
        sum_lx = sum_lx + w * x[j] * l
        sum_l2 = sum_l2 + w * l * l
    return vf_select(vf_gt(sum_l2, vf_set1(0)), sum_lx / sum_l2, vf_set1(0))


cdef inline vf descend(Terms *at, vf inverse, int nmax) noexcept nogil:
    """Find q in -nmax..nmax - 1 for the 16 weights at.x, from the first q on; return the scale.

    The bounds use 0.49999, not 0.5: the rounding errors of the products are about a millionth of slx, and 0.00001 is
    ten times that. A move to the next integer keeps the same distance from both ends of its range. Below the normal range
    of float32 errors are absolute: 1e-36 is far above them, and for a slx below 1e-30 the division decides.
    """
    cdef vf sum_lx, sum_l2, l, v, w, wxq, wqq, slx, sl2, xl2, above, below, inside
    cdef vm moves, by_one, better, changed
    cdef int j, _k
    sum_lx = vf_set1(0)
    sum_l2 = vf_set1(0)
    for j in range(16):
        v = at.x[j]
        l = first_q(inverse, v, nmax)
        w = v * v
        wxq = w * v * l
        wqq = w * l * l
        set_terms(at, j, l, wxq, wqq, nmax)
        sum_lx = sum_lx + wxq
        sum_l2 = sum_l2 + wqq
    for _k in range(5):
        changed = vf_lt(vf_set1(0), vf_set1(0))
        for j in range(16):
            v = at.x[j]
            slx = sum_lx - at.wxq[j]
            sl2 = sum_l2 - at.wqq[j]
            xl2 = v * sl2
            above = xl2 - at.lo[j] * slx
            below = at.hi[j] * slx - xl2
            inside = vf_min(above, below)
            moves = vm_and(vf_gt(slx, vf_set1(0)), vm_not(vf_gt(inside, vf_set1(<float>1e-36))))
            if not vm_any(moves):
                continue
            l = at.q[j] + vf_select(vf_lt(below, above), vf_set1(1), vf_set1(-1))
            by_one = vm_and(vf_gt(slx, vf_set1(<float>1e-30)), vf_lt(inside, vf_set1(<float>-2e-5) * slx))
            by_one = vm_and(by_one, vf_gt(inside, vf_set1(<float>-0.9999) * slx))
            by_one = vm_and(by_one, vm_and(vf_le(l, vf_set1(<float>(nmax - 1))), vf_ge(l, vf_set1(<float>-nmax))))
            if vm_any(vm_and(moves, vm_not(by_one))):
                l = vf_from_vi(vi_clamp(vi_nearest(xl2 / slx), -nmax, nmax - 1))
                moves = vm_and(moves, vf_ne(l, at.q[j]))
            w = v * v
            slx = slx + w * v * l
            sl2 = sl2 + w * l * l
            better = vm_and(moves, vf_gt(sl2, vf_set1(0)))
            better = vm_and(better, vf_gt(slx * slx * sum_l2, sum_lx * sum_lx * sl2))
            changed = vm_or(changed, better)
            l = vf_select(better, l, at.q[j])
            set_terms(at, j, l, w * v * l, w * l * l, nmax)
            sum_lx = vf_select(better, slx, sum_lx)
            sum_l2 = vf_select(better, sl2, sum_l2)
        if not vm_any(changed):
            break
    return vf_select(vf_gt(sum_l2, vf_set1(0)), sum_lx / sum_l2, vf_set1(0))


cdef inline void search_descents(const float *const *src, const vf *x, int nmax, Descents *s, vf *scale) noexcept nogil:
    """Find the scale of each of 16 sub-blocks of 16 weights.

    src points at each lane's block of 256 weights, and x holds the same weights in lanes. fetch_q returns the q.
    """
    cdef const float *sub_block[LANES]
    cdef float found[LANES]
    cdef int32_t *number = s.number
    cdef unsigned int bits
    cdef int count = 0
    cdef int b, j, l
    for j in range(16):
        scale[j] = first_scale(x + 16 * j, nmax, &s.inverse[j])
        bits = vm_bits(vf_gt(s.inverse[j], vf_set1(0)))
        for l in range(LANES):
            number[count] = LANES * j + l  # overwritten unless it counts: a branch would be hard to predict
            count += (bits >> l) & 1
    s.count = count
    for b in range((s.count + LANES - 1) // LANES):
        for l in range(LANES):
            if LANES * b + l >= s.count:
                number[l] = s.number[s.count - 1]  # idle lanes repeat the last one
            sub_block[l] = src[number[l] % LANES] + 16 * (number[l] // LANES)
        lanes_load(s.at.x, sub_block, 0, 16)
        vf_store(found, descend(&s.at, vf_bits(vi_gather(<const int32_t *>s.inverse, vi_load(number))), nmax))
        for l in range(LANES):
            (<float *>scale)[number[l]] = found[l]
        for j in range(16):
            s.q[16 * b + j] = s.at.q[j]
        number += LANES


cdef inline void fetch_q(const Descents *s, const vf *x, int nmax, vf *q) noexcept nogil:
    """Write the q in 0..2 * nmax - 1 that search_descents found: x is about scale * (q - nmax)."""
    cdef const float *found = <const float *>s.q
    cdef vf inverse
    cdef int i, j, lane, sub
    for i in range(256):
        inverse = s.inverse[i // 16]
        q[i] = vf_select(vf_eq(inverse, vf_set1(0)), vf_set1(0), first_q(inverse, x[i], nmax) + vf_set1(<float>nmax))
    for i in range(s.count):
        sub = s.number[i] // LANES
        lane = s.number[i] % LANES
        for j in range(16):
            (<float *>&q[16 * sub + j])[lane] = found[(16 * (i // LANES) + j) * LANES + i % LANES] + <float>nmax
