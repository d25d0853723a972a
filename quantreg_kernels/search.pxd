# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Scale searches, one problem a lane.

Each finds, for n weights x[0..n) with error weights w, the scale (and minimum) under which rounding to small integers loses
least. The candidates, their order, and every sum's order are ggml's, so the result has ggml's bits. Integers are kept as
floats: they are small enough to be exact.

A candidate's integers are not stored: the scale that won is, and the integers are computed from it once at the end.
"""

from libc.math cimport INFINITY

from quantreg_kernels.lanes cimport (
    vf, vf_abs, vf_eq, vf_from_vi, vf_gt, vf_le, vf_lt, vf_max, vf_min, vf_ne, vf_nearest, vf_select, vf_set1, vi,
    vi_clamp, vi_min, vi_nearest, vi_set1, vm, vm_all, vm_and, vm_any, vm_not, vm_or,
)


cdef inline vf sum_of_squares(const vf *x, int n) noexcept nogil:
    cdef vf total = vf_set1(0)
    cdef int j
    for j in range(n):
        total = total + x[j] * x[j]
    return total


cdef inline vf sum_of(const vf *x, int n) noexcept nogil:
    cdef vf total = vf_set1(0)
    cdef int j
    for j in range(n):
        total = total + x[j]
    return total


cdef inline void largest(const vf *x, int n, vf *value, vf *magnitude) noexcept nogil:
    """The first element of greatest magnitude, with its sign, and its magnitude."""
    cdef vf best = vf_set1(0)
    cdef vf amax = vf_set1(0)
    cdef vf a
    cdef int j
    for j in range(n):
        a = vf_abs(x[j])
        best = vf_select(vf_gt(a, amax), x[j], best)
        amax = vf_max(a, amax)
    value[0] = best
    magnitude[0] = amax


cdef inline vf drop_infinite(vf inverse) noexcept nogil:
    """0 for an infinite inverse scale: infinity times anything rounds to 0 in the bit trick, and so does 0."""
    return vf_select(vf_eq(vf_abs(inverse), vf_set1(INFINITY)), vf_set1(0), inverse)


cdef inline vf round_into(vf v, int nmax, bint exact) noexcept nogil:
    """v rounded and clamped to 0..nmax. exact follows the bit trick beyond +-2^22, where its result is no rounding."""
    if exact:
        return vf_from_vi(vi_clamp(vi_nearest(v), 0, nmax))
    return vf_max(vf_min(vf_nearest(v), vf_set1(<float>nmax)), vf_set1(0))


# Sums over one candidate rounding.
cdef struct MinSums:
    vf l
    vf l2
    vf xl


cdef inline MinSums sums_of_rounding(const vf *x, const vf *w, vf *q, int n, int nmax, vf low, vf inverse,
                                     bint exact) noexcept nogil:
    cdef MinSums s
    cdef vf l, wl
    cdef int j
    s.l = vf_set1(0)
    s.l2 = vf_set1(0)
    s.xl = vf_set1(0)
    for j in range(n):
        l = round_into(inverse * (x[j] - low), nmax, exact)
        q[j] = l
        wl = w[j] * l
        s.l = s.l + wl
        s.l2 = s.l2 + wl * l
        s.xl = s.xl + wl * x[j]
    return s


cdef inline vf error_of(const vf *x, const vf *w, const vf *q, int n, vf scale, vf low, bint absolute) noexcept nogil:
    cdef vf error = vf_set1(0)
    cdef vf diff
    cdef int j
    for j in range(n):
        diff = scale * q[j] + low - x[j]
        if absolute:
            error = error + w[j] * vf_abs(diff)
        else:
            error = error + w[j] * (diff * diff)
    return error


cdef inline vf search_min(const vf *x, const vf *w, vf *q, int n, int nmax, float first, float step, int n_steps,
                          bint absolute, vf *minimum) noexcept nogil:
    """x is about scale * q - minimum with q in 0..nmax, minimum >= 0: weighted least squares over n_steps + 1 roundings.

    Candidate k rounds (x - low) * (first + step * k + nmax) / (max - low), where low is the best minimum so far. absolute
    weighs |error| instead of its square. Returns the scale; writes q and minimum.
    """
    cdef vf lo = x[0], hi = x[0]
    cdef vf sum_w = w[0], sum_x = w[0] * x[0]
    cdef vf low, span, inverse, scale, best, best_inverse, best_low, error, det, s, m
    cdef vm flat, better, positive
    cdef MinSums sums
    cdef int j, k
    for j in range(1, n):
        lo = vf_min(x[j], lo)
        hi = vf_max(x[j], hi)
        sum_w = sum_w + w[j]
        sum_x = sum_x + w[j] * x[j]
    lo = vf_select(vf_gt(lo, vf_set1(0)), vf_set1(0), lo)  # -0.0 stays: it is stored
    flat = vf_le(hi, lo)
    span = hi - lo
    inverse = vf_set1(<float>nmax) / span
    scale = vf_set1(1) / inverse
    best_inverse = drop_infinite(inverse)
    best_low = low = lo
    for j in range(n):
        q[j] = round_into(best_inverse * (x[j] - lo), nmax, False)
    best = error_of(x, w, q, n, scale, lo, absolute)
    for k in range(n_steps + 1):
        inverse = drop_infinite(vf_set1(first + step * <float>k + <float>nmax) / (hi - low))
        # a fitted minimum far from the smallest x can make the products large
        if vm_any(vf_gt(vf_abs(inverse) * span, vf_set1(<float>1e6))):
            sums = sums_of_rounding(x, w, q, n, nmax, low, inverse, True)
        else:
            sums = sums_of_rounding(x, w, q, n, nmax, low, inverse, False)
        det = sum_w * sums.l2 - sums.l * sums.l
        s = (sum_w * sums.xl - sum_x * sums.l) / det
        m = (sums.l2 * sum_x - sums.l * sums.xl) / det
        positive = vf_gt(m, vf_set1(0))
        s = vf_select(positive, sums.xl / sums.l2, s)
        m = vf_select(positive, vf_set1(0), m)
        error = error_of(x, w, q, n, s, m, absolute)
        better = vm_and(vf_gt(det, vf_set1(0)), vf_lt(error, best))
        best = vf_select(better, error, best)
        scale = vf_select(better, s, scale)
        best_low = vf_select(better, low, best_low)
        best_inverse = vf_select(better, inverse, best_inverse)
        low = vf_select(better, m, low)
    for j in range(n):
        q[j] = vf_select(flat, vf_set1(0), round_into(best_inverse * (x[j] - best_low), nmax, True))
    minimum[0] = -vf_select(flat, lo, low)
    return vf_select(flat, vf_set1(0), scale)


cdef inline vf round_signed(vf v, int nmax, bint exact, bint from_above=True, bint from_below=True) noexcept nogil:
    """v rounded and clamped to -nmax..nmax - 1; exact as in round_into. from_above and from_below: whether that side of
    the clamp can be needed."""
    if exact:
        return vf_from_vi(vi_clamp(vi_nearest(v), -nmax, nmax - 1))
    v = vf_nearest(v)
    if from_above:
        v = vf_min(v, vf_set1(<float>(nmax - 1)))
    if from_below:
        v = vf_max(v, vf_set1(<float>-nmax))
    return v


cdef inline vf symmetric(const vf *x, const vf *w, vf *q, int n, int nmax, bint exact) noexcept nogil:
    cdef vf wx[32]
    cdef vf peak, amax, inverse, best_inverse, scale, best, sum_lx, sum_l2, l
    cdef vm dead, better
    cdef int j, k, offset
    largest(x, n, &peak, &amax)
    dead = vf_lt(amax, vf_set1(<float>1e-15))
    peak = vf_select(dead, vf_set1(1), peak)
    scale = vf_set1(0)
    best = vf_set1(0)
    best_inverse = vf_set1(0)
    for j in range(n):
        wx[j] = w[j] * x[j]
    for k in range(19):
        # the plain rounding first, then 0.1 steps from -9 to 9 without 0
        offset = 0 if k == 0 else k - 10 if k < 10 else k - 9
        inverse = vf_set1(-(<float>nmax + <float>0.1 * <float>offset)) / peak
        sum_lx = vf_set1(0)
        sum_l2 = vf_set1(0)
        for j in range(n):
            # |inverse * x| is at most nmax + offset / 10, so -0.6 rounds to nmax - 1 and 0.4 to nmax
            l = round_signed(inverse * x[j], nmax, exact, offset > -6, offset > 4)
            sum_lx = sum_lx + wx[j] * l
            sum_l2 = sum_l2 + w[j] * l * l
        if k == 0:
            scale = vf_select(vf_ne(sum_l2, vf_set1(0)), sum_lx / sum_l2, vf_set1(0))
            best = scale * sum_lx
            best_inverse = inverse
        else:
            better = vm_and(vf_gt(sum_l2, vf_set1(0)), vf_gt(sum_lx * sum_lx, best * sum_l2))
            scale = vf_select(better, sum_lx / sum_l2, scale)
            best = vf_select(better, scale * sum_lx, best)
            best_inverse = vf_select(better, inverse, best_inverse)
    for j in range(n):
        l = round_signed(best_inverse * x[j], nmax, exact)
        q[j] = vf_select(dead, vf_set1(0), l + vf_set1(<float>nmax))
    return vf_select(dead, vf_set1(0), scale)


cdef inline vf search_symmetric(const vf *x, const vf *w, vf *q, int n, int nmax) noexcept nogil:
    """x is about scale * (q - nmax) with q in 0..2 * nmax - 1: best of 19 roundings around -nmax / largest.

    Returns the scale; writes q (all 0, not nmax, where x is all but zero). x is finite.
    """
    return symmetric(x, w, q, n, nmax, False)


cdef inline vf search_symmetric_exact(const vf *x, const vf *w, vf *q, int n, int nmax) noexcept nogil:
    """The same for scales of scales, which are infinite or NaN where the weights below them overflowed."""
    return symmetric(x, w, q, n, nmax, True)


cdef inline vf wrap_u8(vi l) noexcept nogil:
    """The reference keeps these integers in bytes, so a negative one wraps."""
    return vf_from_vi(l & 255)


cdef inline vf search_positive(const vf *x, const vf *w, vf *q, int n, int nmax) noexcept nogil:
    """x is about scale * q with q in 0..nmax: best of 9 roundings, then up to 5 rounds of improving one q at a time.

    For scales of scales: x >= 0 but for rounding noise. Returns the scale; writes q.
    """
    cdef vf peak = vf_set1(0)
    cdef vf inverse, best_inverse, scale, best, error, diff, sum_lx, sum_l2, l, slx, sl2, wx, moved
    cdef vm dead, try_it, better
    cdef vi new_l
    cdef int j, k
    cdef bint changed
    for j in range(n):
        peak = vf_select(vf_gt(peak, x[j]), peak, x[j])
    dead = vf_lt(peak, vf_set1(<float>1e-15))
    peak = vf_select(dead, vf_set1(1), peak)
    best_inverse = inverse = vf_set1(<float>nmax) / peak
    scale = vf_set1(1) / inverse
    best = vf_set1(0)
    for j in range(n):
        diff = x[j] - scale * wrap_u8(vi_nearest(inverse * x[j]))
        best = best + w[j] * diff * diff
    for k in range(-4, 5):
        if k == 0:
            continue
        inverse = vf_set1(<float>0.1 * <float>k + <float>nmax) / peak
        scale = vf_set1(1) / inverse
        error = vf_set1(0)
        for j in range(n):
            diff = x[j] - scale * vf_from_vi(vi_min(vi_nearest(inverse * x[j]), vi_set1(nmax)))
            error = error + w[j] * diff * diff
        better = vf_lt(error, best)
        best = vf_select(better, error, best)
        best_inverse = vf_select(better, inverse, best_inverse)
    sum_lx = vf_set1(0)
    sum_l2 = vf_set1(0)
    for j in range(n):
        new_l = vi_min(vi_nearest(best_inverse * x[j]), vi_set1(nmax))
        l = vf_from_vi(new_l)
        q[j] = wrap_u8(new_l)
        sum_lx = sum_lx + w[j] * x[j] * l
        sum_l2 = sum_l2 + w[j] * l * l
    for k in range(5):
        changed = False
        for j in range(n):
            wx = w[j] * x[j]
            slx = sum_lx - wx * q[j]
            sl2 = sum_l2 - w[j] * q[j] * q[j]
            try_it = vm_and(vf_gt(slx, vf_set1(0)), vf_gt(sl2, vf_set1(0)))
            new_l = vi_min(vi_nearest(x[j] * sl2 / slx), vi_set1(nmax))
            l = vf_from_vi(new_l)
            try_it = vm_and(try_it, vf_ne(l, q[j]))
            slx = slx + wx * l
            sl2 = sl2 + w[j] * l * l
            better = vm_and(try_it, vf_gt(slx * slx * sum_l2, sum_lx * sum_lx * sl2))
            if vm_any(better):
                changed = True
                q[j] = vf_select(better, wrap_u8(new_l), q[j])
                sum_lx = vf_select(better, slx, sum_lx)
                sum_l2 = vf_select(better, sl2, sum_l2)
        if not changed:
            break
    for j in range(n):
        q[j] = vf_select(dead, vf_set1(0), q[j])
    moved = vf_select(vf_gt(sum_l2, vf_set1(0)), sum_lx / sum_l2, vf_set1(0))
    return vf_select(dead, vf_set1(0), moved)


# What search_descent knows of one q in each lane: its terms in the two sums, and between what it stays.
cdef struct Standing:
    vf wxq
    vf wqq
    vf lo
    vf hi


cdef inline Standing standing(vf x, vf q, int nmax) noexcept nogil:
    cdef Standing s
    cdef vf w = x * x
    s.wxq = w * x * q
    s.wqq = w * q * q
    s.lo = vf_select(vf_gt(q, vf_set1(<float>-nmax)), q - vf_set1(<float>0.49999), vf_set1(<float>-1e30))
    s.hi = vf_select(vf_lt(q, vf_set1(<float>(nmax - 1))), q + vf_set1(<float>0.49999), vf_set1(<float>1e30))
    return s


cdef inline vf search_descent(const vf *x, vf *q, int n, int nmax) noexcept nogil:
    """As search_symmetric with error weights x * x, but one rounding, then up to 5 rounds of improving one q at a time.

    Few steps change a q. That none does is seen without the division: x * sl2 / slx rounds to q where x * sl2 lies between
    lo * slx and hi * slx. Their rounding errors are a millionth of slx, and 0.49999 leaves ten times that; products below
    the normal range would not, hence 1e-36.
    """
    cdef Standing at[32]
    cdef vf peak, amax, inverse, sum_lx, sum_l2, l, w, slx, sl2, xl2
    cdef vm dead, better, stay, moves
    cdef int j, k
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
    for k in range(5):
        changed = False
        for j in range(n):
            slx = sum_lx - at[j].wxq
            sl2 = sum_l2 - at[j].wqq
            xl2 = x[j] * sl2
            stay = vm_and(vm_and(vf_gt(xl2, at[j].lo * slx), vf_lt(xl2, at[j].hi * slx)), vf_gt(slx, vf_set1(<float>1e-36)))
            moves = vm_and(vf_gt(slx, vf_set1(0)), vm_not(stay))
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
