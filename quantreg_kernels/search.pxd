# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Scale searches, one block or sub-block per lane.

Each search takes n weights x with error weights w, and finds the scale (and min) under which rounding to small integers q
loses least. The candidates, their order and the order of every sum are ggml's, so the result has ggml's bits. q is kept as
floats, which hold small integers exactly.

A search does not keep the q of its best candidate, only the scale it was rounded with. It rounds again at the end.
"""

from libc.math cimport INFINITY

from quantreg_kernels.lanes cimport (
    vf, vf_abs, vf_eq, vf_from_vi, vf_ge, vf_gt, vf_le, vf_lt, vf_max, vf_min, vf_ne, vf_nearest, vf_select, vf_set1, vi,
    vi_clamp, vi_min, vi_nearest, vi_set1, vm, vm_all, vm_and, vm_any,
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
    """Find the first element of largest magnitude, with its sign, and that magnitude."""
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
    """Replace an infinite inverse scale by 0. In the reference's bit trick infinity times anything rounds to 0, as 0 does."""
    return vf_select(vf_eq(vf_abs(inverse), vf_set1(INFINITY)), vf_set1(0), inverse)


cdef inline vf round_into(vf v, int nmax, bint exact, bint above=True) noexcept nogil:
    """Return v rounded and clamped to 0..nmax.

    exact follows the reference's bit trick, whose result beyond +-2^22 is not the rounded value. above says whether v
    can round to more than nmax.
    """
    if exact:
        return vf_from_vi(vi_clamp(vi_nearest(v), 0, nmax))
    v = vf_nearest(v)
    return vf_max(vf_min(v, vf_set1(<float>nmax)) if above else v, vf_set1(0))


# One problem of search_mins: its range and sums, and its best candidate so far.
cdef struct MinFit:
    vf lo       # smallest x, 0 at most
    vf hi       # largest x
    vf sum_w    # sum of w
    vf sum_x    # sum of w x
    vf scale
    vf error
    vf low      # minus the fitted minimum; the next candidate starts from it
    vf start    # the low that the best candidate was rounded with
    vf inverse  # its inverse scale


# Sums over one candidate: of w q, w q^2 and w q x.
cdef struct MinSums:
    vf l
    vf l2
    vf xl


cdef inline MinFit first_min_fit(const vf *x, const vf *w, vf *q, int n, int nmax, bint absolute) noexcept nogil:
    """Return the first candidate: the range from the smallest to the largest x divided evenly."""
    cdef MinFit f
    cdef int j
    f.lo = f.hi = x[0]
    f.sum_w = w[0]
    f.sum_x = w[0] * x[0]
    for j in range(1, n):
        f.lo = vf_min(x[j], f.lo)
        f.hi = vf_max(x[j], f.hi)
        f.sum_w = f.sum_w + w[j]
        f.sum_x = f.sum_x + w[j] * x[j]
    f.lo = vf_select(vf_gt(f.lo, vf_set1(0)), vf_set1(0), f.lo)  # -0.0 stays: it is stored
    f.inverse = vf_set1(<float>nmax) / (f.hi - f.lo)
    f.scale = vf_set1(1) / f.inverse
    f.inverse = drop_infinite(f.inverse)
    f.low = f.start = f.lo
    for j in range(n):
        q[j] = round_into(f.inverse * (x[j] - f.lo), nmax, False)
    f.error = vf_set1(0)
    add_errors(x, w, q, n, 1, &f.scale, &f.lo, absolute, &f.error)
    return f


cdef inline void add_roundings(const vf *x, const vf *w, vf *q, int n, int count, int nmax, const MinFit *f,
                               const vf *inverse, bint exact, bint above, MinSums *sums) noexcept nogil:
    """Round every x under one candidate per problem, and add to the sums."""
    cdef vf l, wl
    cdef int i, j, p
    for i in range(n):
        for p in range(count):
            j = p * n + i
            l = round_into(inverse[p] * (x[j] - f[p].low), nmax, exact, above)
            q[j] = l
            wl = w[j] * l
            sums[p].l = sums[p].l + wl
            sums[p].l2 = sums[p].l2 + wl * l
            sums[p].xl = sums[p].xl + wl * x[j]


cdef inline void add_errors(const vf *x, const vf *w, const vf *q, int n, int count, const vf *scale, const vf *low,
                            bint absolute, vf *error) noexcept nogil:
    """Add the weighted errors of scale * q + low to error."""
    cdef vf diff
    cdef int i, j, p
    for i in range(n):
        for p in range(count):
            j = p * n + i
            diff = scale[p] * q[j] + low[p] - x[j]
            if absolute:
                error[p] = error[p] + w[j] * vf_abs(diff)
            else:
                error[p] = error[p] + w[j] * (diff * diff)


cdef inline void search_mins(const vf *x, const vf *w, vf *q, vf *trial, int n, int count, int nmax, float first,
                             float step, int n_steps, bint absolute, vf *scale, vf *minimum) noexcept nogil:
    """Fit x by scale * q - minimum, with q in 0..nmax and minimum >= 0. Write q, scale and minimum.

    Candidate k = 0..n_steps rounds (x - low) * (first + step * k + nmax) / (largest - low), where low is minus the best
    minimum so far. Then scale and minimum are fitted to its q by weighted least squares. absolute compares candidates by
    |error| instead of its square.

    `count` problems (1 or 2) lie one after the other. Two at once take little more time than one, because one alone mostly
    waits for its own last operation.

    trial is scratch space for count * n values. It should not lie a multiple of 4 KiB from x or w: it is written and read in
    turn with them, and a load waits for an unfinished store that lies so.
    """
    cdef MinFit f[2]
    cdef MinSums sums[2]
    cdef vf inverse[2]
    cdef vf s[2]
    cdef vf m[2]
    cdef vf error[2]
    cdef vf det[2]
    cdef vf reach
    cdef vm plain, positive, better, flat
    cdef float offset
    cdef int j, k, p
    for p in range(count):
        f[p] = first_min_fit(x + p * n, w + p * n, trial, n, nmax, absolute)
    for k in range(n_steps + 1):
        offset = first + step * <float>k
        plain = vf_le(vf_set1(0), vf_set1(0))
        for p in range(count):
            inverse[p] = drop_infinite(vf_set1(offset + <float>nmax) / (f[p].hi - f[p].low))
            # a fitted low near the largest x, or above it, makes the products large or changes their sign
            reach = inverse[p] * (f[p].hi - f[p].lo)
            plain = vm_and(plain, vm_and(vf_ge(reach, vf_set1(0)), vf_le(reach, vf_set1(<float>1e6))))
            sums[p].l = vf_set1(0)
            sums[p].l2 = vf_set1(0)
            sums[p].xl = vf_set1(0)
        if not vm_all(plain):
            add_roundings(x, w, trial, n, count, nmax, f, inverse, True, True, sums)
        elif offset < <float>0.49:  # no product exceeds nmax + offset by more than rounding errors, so none rounds above nmax
            add_roundings(x, w, trial, n, count, nmax, f, inverse, False, False, sums)
        else:
            add_roundings(x, w, trial, n, count, nmax, f, inverse, False, True, sums)
        for p in range(count):
            det[p] = f[p].sum_w * sums[p].l2 - sums[p].l * sums[p].l
            s[p] = (f[p].sum_w * sums[p].xl - f[p].sum_x * sums[p].l) / det[p]
            m[p] = (sums[p].l2 * f[p].sum_x - sums[p].l * sums[p].xl) / det[p]
            positive = vf_gt(m[p], vf_set1(0))
            if vm_any(positive):
                s[p] = vf_select(positive, sums[p].xl / sums[p].l2, s[p])
                m[p] = vf_select(positive, vf_set1(0), m[p])
            error[p] = vf_set1(0)
        add_errors(x, w, trial, n, count, s, m, absolute, error)
        for p in range(count):
            better = vm_and(vf_gt(det[p], vf_set1(0)), vf_lt(error[p], f[p].error))
            f[p].error = vf_select(better, error[p], f[p].error)
            f[p].scale = vf_select(better, s[p], f[p].scale)
            f[p].start = vf_select(better, f[p].low, f[p].start)
            f[p].inverse = vf_select(better, inverse[p], f[p].inverse)
            f[p].low = vf_select(better, m[p], f[p].low)
    for p in range(count):
        flat = vf_le(f[p].hi, f[p].lo)
        for j in range(p * n, p * n + n):
            q[j] = vf_select(flat, vf_set1(0), round_into(f[p].inverse * (x[j] - f[p].start), nmax, True))
        scale[p] = vf_select(flat, vf_set1(0), f[p].scale)
        minimum[p] = -vf_select(flat, f[p].lo, f[p].low)


cdef inline vf search_min(const vf *x, const vf *w, vf *q, vf *trial, int n, int nmax, float first, float step,
                          int n_steps, bint absolute, vf *minimum) noexcept nogil:
    """Do search_mins for one problem; return the scale."""
    cdef vf scale
    search_mins(x, w, q, trial, n, 1, nmax, first, step, n_steps, absolute, &scale, minimum)
    return scale


cdef inline vf round_signed(vf v, int nmax, bint exact, bint from_above=True, bint from_below=True) noexcept nogil:
    """Return v rounded and clamped to -nmax..nmax - 1. exact is as in round_into.

    from_above and from_below say whether that side of the clamp can be needed.
    """
    if exact:
        return vf_from_vi(vi_clamp(vi_nearest(v), -nmax, nmax - 1))
    v = vf_nearest(v)
    if from_above:
        v = vf_min(v, vf_set1(<float>(nmax - 1)))
    if from_below:
        v = vf_max(v, vf_set1(<float>-nmax))
    return v


cdef inline vf symmetric(const vf *x, const vf *w, vf *q, int n, int nmax, bint exact) noexcept nogil:
    """See search_symmetric and search_symmetric_exact. A candidate wins if its sum_lx^2 / sum_l2 is larger: with the
    scale fitted to it, that is what it takes off the sum of w x^2."""
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
        # offset 0 first, then -9 to 9 without 0
        offset = 0 if k == 0 else k - 10 if k < 10 else k - 9
        inverse = vf_set1(-(<float>nmax + <float>0.1 * <float>offset)) / peak
        sum_lx = vf_set1(0)
        sum_l2 = vf_set1(0)
        for j in range(n):
            # |inverse * x| is at most nmax + offset / 10. With offset <= -6 that rounds to nmax - 1, with offset <= 4 to nmax
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
    """Fit x by scale * (q - nmax), with q in 0..2 * nmax - 1. Write q and return the scale.

    The candidates are 19 inverse scales around -nmax / largest. x is finite. Where it is all but zero, q is 0, not nmax.
    """
    return symmetric(x, w, q, n, nmax, False)


cdef inline vf search_symmetric_exact(const vf *x, const vf *w, vf *q, int n, int nmax) noexcept nogil:
    """Do the same for x that may be infinite or NaN: scales of sub-blocks whose sums have overflowed."""
    return symmetric(x, w, q, n, nmax, True)


cdef inline vf wrap_u8(vi l) noexcept nogil:
    """Wrap l to 0..255, because the reference keeps it in an unsigned byte."""
    return vf_from_vi(l & 255)


cdef inline vf search_positive(const vf *x, const vf *w, vf *q, int n, int nmax) noexcept nogil:
    """Fit x by scale * q, with q in 0..nmax. Write q and return the scale.

    This takes the best of 9 roundings, and then improves one q at a time in up to 5 rounds. x is the scales or mins of
    sub-blocks, or the magnitudes of IQ2_XXS, so few elements are negative, if any.
    """
    cdef vf peak = vf_set1(0)
    cdef vf inverse, best_inverse, scale, best, error, diff, sum_lx, sum_l2, l, slx, sl2, wx, moved
    cdef vm dead, try_it, better
    cdef vi new_l
    cdef int j, k, _k
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
    for _k in range(5):
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
