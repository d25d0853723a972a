# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What IQ2_XXS, IQ2_XS and IQ2_S share: the search for a scale at which the nearest points of a codebook fit best.

Weights are a sign times scale * 1, 3 or 5. A search tries inverse scales around 5 / largest. At each, eight weights at a
time round to a point of {1, 3, 5}^8, which is replaced by the best of the codebook's nearest points where the codebook
lacks it; the scale whose points fit best wins.

Lanes are super-blocks, except where points are looked for: there one group of eight weights is taken through all scales,
with the points in the lanes. Along the scales the rounded point changes only a few times. While it stays, the candidates
are the same list, and which of two candidates is nearer changes at most once: the difference of their weighted squared
distances is scale times a linear function of the scale. So a point that is clearly nearest at two scales is nearest at all
between, whatever the rounding errors.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int8_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from quantreg_kernels.lanes cimport (
    LANES, lowest_bit, prefetch, vf, vf_abs, vf_from_vi, vf_ge, vf_gt, vf_load, vf_lookup4, vf_lt, vf_max, vf_min,
    vf_select, vf_set1, vf_sqrt, vf_store, vi, vi_add_where, vi_clamp, vi_eq, vi_gather, vi_load_i8x16, vi_lt, vi_nearest,
    vi_select, vi_set1, vi_shr, vm, vm_and, vm_any, vm_bits, vm_not, vm_or,
)
from quantreg_kernels.search cimport sum_of
from quantreg_iquants._ternary cimport ANY_LEVEL, Codebook, nearest_point, rows_of_lanes

cdef enum:
    BLOCK = 256
    MOST_STEPS = 19
    STRIDE = 4 * LANES      # from one step to the next


cdef inline vf levels() noexcept nogil:
    """1, 3, 5 and infinity, repeated."""
    cdef float value[LANES]
    cdef int i
    for i in range(0, LANES, 4):
        value[i] = 1
        value[i + 1] = 3
        value[i + 2] = 5
        value[i + 3] = INFINITY
    return vf_load(value)


cdef inline vi take_signs(const vf *x, const vf *w, bint even, vf *magnitude) noexcept nogil:
    """Bit i: eight weights' signs. even: an odd number of minus signs is evened out by giving the cheapest weight the wrong
    one, so that seven bits are enough; its magnitude is then negative."""
    cdef vi signs = vi_set1(0)
    cdef vi flip, odd
    cdef vf cost, least
    cdef vm negative
    cdef int i
    for i in range(8):
        negative = vf_lt(x[i], vf_set1(0))
        magnitude[i] = vf_select(negative, -x[i], x[i])  # -0.0 stays
        signs = vi_add_where(negative, signs, vi_set1(1 << i))
    if even:
        flip = vi_set1(1)
        least = w[0] * x[0] * x[0]
        for i in range(1, 8):
            cost = w[i] * x[i] * x[i]
            flip = vi_select(vf_lt(cost, least), vi_set1(1 << i), flip)
            least = vf_select(vf_lt(cost, least), cost, least)
        odd = signs ^ (signs >> 4)
        odd = odd ^ (odd >> 2)
        odd = (odd ^ (odd >> 1)) & 1
        flip = vi_select(vi_eq(odd, vi_set1(1)), flip, vi_set1(0))
        signs = signs ^ flip
        for i in range(8):
            magnitude[i] = vf_select(vi_eq(flip & (1 << i), vi_set1(0)), magnitude[i], -magnitude[i])
    return signs


cdef inline vi rounded_entry(const Codebook *b, const vf *x, vf inverse, bint exact) noexcept nogil:
    """Entry of the point that eight weights round to: 0.5 * (inverse * x - 1) to nearest even, clamped to 0..2.

    exact follows the bit trick beyond +-2^22; otherwise comparing is enough.
    """
    cdef vi index = vi_set1(0), free
    cdef vf off = vf_set1(1)    # least distance of a weight from the middle between two levels
    cdef vf p, away
    cdef int power = 1
    cdef int i
    for i in range(8):
        p = inverse * x[i]
        away = vf_abs(p - vf_set1(3))
        if exact:
            off = vf_select(vf_lt(away, vf_set1(<float>4e6)), off, vf_set1(0))
            index = index + vi_clamp(vi_nearest(vf_set1(<float>0.5) * (p - vf_set1(1))), 0, 2) * vi_set1(power)
        else:
            index = vi_add_where(vf_gt(p, vf_set1(2)), index, vi_set1(power))
            index = vi_add_where(vf_ge(p, vf_set1(4)), index, vi_set1(power))
        off = vf_min(vf_abs(away - vf_set1(1)), off)
        power *= 3
    index = vi_gather(b.table, index)
    free = index | vi_select(vi_lt(index, vi_set1(0)), vi_set1(0), vi_set1(ANY_LEVEL))
    return vi_select(vf_gt(off, vf_set1(<float>1e-4)), index, free)


cdef inline void fit(const vf *wx, const vf *w, const vi *codes, int n, vf level, vf *sum_qx, vf *sum_q2) noexcept nogil:
    """Sums of w q x and w q^2 over n weights at the points `codes`."""
    cdef vf q
    cdef int j
    sum_qx[0] = vf_set1(0)
    sum_q2[0] = vf_set1(0)
    for j in range(n):
        q = vf_lookup4(level, vi_shr(codes[j // 8], 2 * (j % 8)))
        sum_qx[0] = sum_qx[0] + wx[j] * q
        sum_q2[0] = sum_q2[0] + w[j] * q * q


# The steps of one search: their scales, and for each group of eight weights what it rounds to and which point it gets. Of
# the lists, a bit a step: where one begins that is not the step's before, which steps need one, and which must choose
# among all.
cdef struct Steps:
    vf scale[MOST_STEPS]
    vi entry[MOST_STEPS][4]
    vi code[MOST_STEPS][4]
    vi begins[4]
    vi lacking[4]
    vi any_level[4]


# One group of one lane.
cdef struct Search:
    const int32_t *entry        # a step's is STRIDE after that of the step before
    const float *scale          # LANES after
    int32_t *code               # STRIDE after
    const float *x
    const float *w
    float slack
    bint clear[MOST_STEPS]


cdef inline void find_point(const Codebook *b, Search *s, vf level, int step) noexcept nogil:
    s.code[step * STRIDE] = nearest_point(b, s.entry[step * STRIDE], s.x, s.w, s.scale[step * LANES], level, s.slack,
                                          &s.clear[step])


cdef inline void find_points(const Codebook *b, Search *s, vf level, int n_steps, uint32_t begins, uint32_t lacking,
                             uint32_t any_level) noexcept nogil:
    """The points at every step that needs one."""
    cdef uint32_t left = begins & lacking, known
    cdef int first, last, i, a, z
    begins |= <uint32_t>1 << n_steps
    known = 0
    while left:  # first all of what is certain to be needed, so that searches overlap
        first = lowest_bit(left)
        left &= left - 1
        last = first + lowest_bit(begins >> (first + 1))
        find_point(b, s, level, first)
        known |= <uint32_t>1 << first
        if last > first:
            find_point(b, s, level, last)
            known |= <uint32_t>1 << last
    any_level &= lacking & ~known
    known |= any_level
    while any_level:
        find_point(b, s, level, lowest_bit(any_level))
        any_level &= any_level - 1
    left = begins & lacking
    while left:
        first = lowest_bit(left)
        left &= left - 1
        last = first + lowest_bit(begins >> (first + 1))
        a = first
        while a < last:
            z = a + 1 + lowest_bit(known >> (a + 1))
            if z > a + 1:
                if s.code[a * STRIDE] == s.code[z * STRIDE] and s.clear[a] and s.clear[z]:
                    for i in range(a + 1, z):
                        s.code[i * STRIDE] = s.code[a * STRIDE]
                else:
                    i = (a + z) // 2
                    find_point(b, s, level, i)
                    known |= <uint32_t>1 << i
                    continue
            a = z


# What a search returns, and what it starts from.
cdef struct Fit:
    vf scale
    vi code[4]
    vi entry[4]     # below 0 where rounding gave the point itself


cdef inline void start_fit(Fit *f, vf scale) noexcept nogil:
    """Where no step fits: the point of ones."""
    cdef int k
    f.scale = scale
    for k in range(4):
        f.code[k] = vi_set1(0)
        f.entry[k] = vi_set1(-1)


cdef inline void search_scale(const Codebook *b, const vf *x, const vf *w, int n, int reach, vf peak, vm alive, bint all_again,
                              Fit *found) noexcept nogil:
    """Best of the scales peak / (5 + 0.1 * step), step = -reach .. reach, for n = 16 or 32 weights x >= 0 (all but).

    found holds scale and codes for lanes where no step fits. The winner's points are looked for once more at the fitted
    scale: of all groups (all_again), or of those whose rounded point the codebook lacks. Lanes that are not alive get
    arbitrary results.
    """
    cdef Steps s
    cdef Search one
    cdef vf root[32]
    cdef vf wx[32]
    cdef float x_rows[32 * LANES]
    cdef float w_rows[32 * LANES]
    cdef vf level = levels()
    cdef vf best = vf_set1(0)
    cdef vf largest = vf_set1(0)
    cdef vf inverse, sum_qx, sum_q2, fitted
    cdef vm better, again, positive
    cdef vm on_grid
    cdef vm lacking[4]
    cdef vi before[4]
    cdef vf total[4]
    cdef vi entry
    cdef vi code[4]
    cdef unsigned int lanes = vm_bits(alive), todo
    cdef float slack = 0
    cdef bint clear, far
    cdef int groups = n // 8
    cdef int n_steps = 2 * reach + 1
    cdef int step, j, k, lane
    for j in range(n):
        root[j] = vf_sqrt(w[j])
        wx[j] = w[j] * x[j]
        largest = vf_max(vf_abs(x[j]), largest)
    # a weight of no importance may lie far above the others
    far = vm_any(vm_and(alive, vf_gt(largest * (vf_set1(6) / peak), vf_set1(<float>4e6))))
    for k in range(groups):
        total[k] = sum_of(root + 8 * k, 8)
    rows_of_lanes(x_rows, x, n)
    rows_of_lanes(w_rows, root, n)
    for k in range(groups):
        s.begins[k] = vi_set1(0)
        s.lacking[k] = vi_set1(0)
        s.any_level[k] = vi_set1(0)
    for step in range(n_steps):
        inverse = vf_set1(<float>5 + <float>(step - reach) * <float>0.1) / peak
        s.scale[step] = vf_set1(1) / inverse
        for k in range(groups):
            if far:
                entry = rounded_entry(b, x + 8 * k, inverse, True)
            else:
                entry = rounded_entry(b, x + 8 * k, inverse, False)
            on_grid = vi_lt(entry, vi_set1(0))
            s.entry[step][k] = entry
            s.code[step][k] = ~entry & 0xffff
            s.lacking[k] = s.lacking[k] | vi_select(on_grid, vi_set1(0), vi_set1(1 << step))
            s.any_level[k] = s.any_level[k] | (entry & ANY_LEVEL) << step
            entry = entry | ANY_LEVEL
            if step == 0:
                s.begins[k] = vi_set1(1)
            else:
                s.begins[k] = s.begins[k] | vi_select(vi_eq(entry, before[k]), vi_set1(0), vi_set1(1 << step))
            before[k] = entry
    for lane in range(LANES):
        if (lanes >> lane) & 1:
            for k in range(groups):
                todo = ((<const uint32_t *>s.begins)[k * LANES + lane] & (<const uint32_t *>s.lacking)[k * LANES + lane])
                while todo:
                    prefetch(b.lists + ((<const int32_t *>s.entry)[lowest_bit(todo) * STRIDE + k * LANES + lane] >> 14) * LANES)
                    todo &= todo - 1
    for lane in range(LANES):
        if (lanes >> lane) & 1:
            for k in range(groups):
                one.entry = <const int32_t *>s.entry + k * LANES + lane
                one.code = <int32_t *>s.code + k * LANES + lane
                one.scale = <const float *>s.scale + lane
                one.x = x_rows + lane * n + 8 * k
                one.w = w_rows + lane * n + 8 * k
                one.slack = (<const float *>total)[k * LANES + lane] * <float>25e-7
                find_points(b, &one, level, n_steps, (<const uint32_t *>s.begins)[k * LANES + lane],
                            (<const uint32_t *>s.lacking)[k * LANES + lane],
                            (<const uint32_t *>s.any_level)[k * LANES + lane])
    for step in range(n_steps):
        fit(wx, w, s.code[step], n, level, &sum_qx, &sum_q2)
        better = vm_and(vf_gt(sum_q2, vf_set1(0)), vf_gt(sum_qx * sum_qx, best * sum_q2))
        if vm_any(better):
            fitted = sum_qx / sum_q2
            found.scale = vf_select(better, fitted, found.scale)
            best = vf_select(better, fitted * sum_qx, best)
            for k in range(groups):
                found.code[k] = vi_select(better, s.code[step][k], found.code[k])
                found.entry[k] = vi_select(better, s.entry[step][k], found.entry[k])

    positive = vm_and(alive, vf_gt(found.scale, vf_set1(0)))
    inverse = vf_set1(1) / found.scale
    again = vf_lt(vf_set1(0), vf_set1(0))
    for k in range(groups):
        lacking[k] = positive if all_again else vm_and(positive, vm_not(vi_lt(found.entry[k], vi_set1(0))))
        again = vm_or(again, lacking[k])
        code[k] = found.code[k]
        todo = vm_bits(lacking[k])
        if todo:
            entry = rounded_entry(b, x + 8 * k, inverse, True)
            code[k] = vi_select(lacking[k], ~entry & 0xffff, code[k])
            todo = vm_bits(vm_and(lacking[k], vm_not(vi_lt(entry, vi_set1(0)))))
            for lane in range(LANES):
                if (todo >> lane) & 1:
                    (<int32_t *>&code[k])[lane] = nearest_point(
                        b, (<int32_t *>&entry)[lane], x_rows + lane * n + 8 * k, w_rows + lane * n + 8 * k,
                        (<float *>&found.scale)[lane], level, slack, &clear)
            found.code[k] = code[k]
    fit(wx, w, code, n, level, &sum_qx, &sum_q2)
    again = vm_and(again, vf_gt(sum_q2, vf_set1(0)))
    found.scale = vf_select(again, sum_qx / sum_q2, found.scale)


cdef inline vi share_of_31(vf scale, vf inverse) noexcept nogil:
    """The integer scale of a sub-block, 0..15, for scale = (2 * share + 1) / inverse."""
    return vi_clamp(vi_nearest(vf_set1(<float>0.5) * (inverse * scale - vf_set1(1))), 0, 15)


cdef inline void build_grid(const uint16_t *points, int n, uint64_t *grid) noexcept nogil:
    """For decoding: the eight magnitudes of each point, in eighths of the scale, as bytes."""
    cdef uint64_t magnitude
    cdef int i, k
    for k in range(n):
        grid[k] = 0
        for i in range(8):
            magnitude = (points[k] >> (2 * i)) & 3
            magnitude = 8 if magnitude == 0 else 25 if magnitude == 1 else 43
            grid[k] |= magnitude << (8 * i)


cdef inline void build_signs(uint64_t *signs, int n) noexcept nogil:
    """For decoding: a byte of all ones for each minus sign. n = 128: the eighth sign makes their number even."""
    cdef int bits, i, k
    for k in range(n):
        bits = k
        if n == 128:
            for i in range(7):
                bits ^= (k >> i & 1) << 7
        signs[k] = 0
        for i in range(8):
            if bits >> i & 1:
                signs[k] |= <uint64_t>255 << (8 * i)


cdef inline void put_signed(int8_t *q, uint64_t magnitudes, uint64_t signs) noexcept nogil:
    """Eight signed bytes: no magnitude is 0, so negating one byte carries nothing into the next."""
    magnitudes = (magnitudes ^ signs) + (signs & <uint64_t>0x0101010101010101)
    memcpy(q, &magnitudes, 8)


cdef inline void unpack_shares(const uint8_t *shares, float d, float *scale) noexcept nogil:
    """Scales of 16 sub-blocks from 4-bit integers."""
    cdef int i
    for i in range(8):
        scale[2 * i] = d * (<float>0.5 + <float>(shares[i] & 15)) * <float>0.25
        scale[2 * i + 1] = d * (<float>0.5 + <float>(shares[i] >> 4)) * <float>0.25
