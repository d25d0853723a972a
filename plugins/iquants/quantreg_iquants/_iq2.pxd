# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Shared by IQ2_XXS, IQ2_XS and IQ2_S: the search for the scale and the codebook points of a sub-block.

What the formats store. A weight is sign * scale * level. The encoder takes the levels as 1, 3 and 5; the decoder as 1, 25/8
and 43/8. The levels of eight weights form a point, and only the points of a codebook (256, 512 or 1024 of the 6561) can
be stored, as their number. A sub-block of 16 or 32 weights shares one 4-bit scale. In IQ2_XXS and IQ2_XS eight weights have
seven sign bits: the number of minus signs is made even by giving the least important weight the wrong sign.

What the reference searches. For each sub-block it tries 19 scales around largest / 5 (IQ2_XXS: 13 scales around a first fit
without the codebook). At each scale it

    1. rounds each group of eight magnitudes to a point of {1, 3, 5}^8;
    2. if the codebook lacks that point, computes the weighted distance to each codebook point in a list of its neighbors
       (up to a few hundred) and takes the nearest;
    3. fits the scale to the points it has chosen, and remembers the best fit.

Then it repeats steps 1 and 2 at the fitted scale and fits once more. Nearly all of its time goes into step 2.

What we search. Steps 1 and 3 run with one super-block per lane. Step 2 takes one group of one lane at a time through all
scales (find_points), with the neighbors in the lanes (nearest_point), and skips most of the scales:

- From one scale to the next the rounded point seldom changes. Consecutive scales with the same point form a run, and all
  scales of a run choose from the same list.
- For two neighbors a and b, the difference of their distances at scale s is

      sum of w * ((s a - x)^2 - (s b - x)^2)  =  s * (s * sum of w * (a^2 - b^2)  -  2 * sum of w * x * (a - b))

  which is s times a linear function of s, so it changes sign at most once for s > 0. If a is nearer than b at both
  ends of a run, it is nearer everywhere in the run.
- So each run is searched at both ends. If the same point wins both, it wins at all scales between them. If not, the run
  is split in the middle, and so on.
- Neighbors that cannot win are not looked at: see `few` in _codebook8.pxd.

Why the bytes are the same. A distance that is computed has the reference's terms and order of additions. A distance that
is skipped could matter only where rounding decides. So a winner counts at both ends of a run only if it is clearly
nearest, by far more than rounding errors (`clear`), and the shortened list is used only if no weight lies near
the middle between two levels (rounded_entry). Otherwise everything is computed.
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
from quantreg_iquants._codebook8 cimport ANY_LEVEL, Codebook, nearest_point, rows_of_lanes

cdef enum:
    BLOCK = 256
    MOST_STEPS = 19
    STRIDE = 4 * LANES      # from one step to the next


cdef inline vf levels() noexcept nogil:
    """Return 1, 3, 5 and infinity, repeated."""
    cdef float value[LANES]
    cdef int i
    for i in range(0, LANES, 4):
        value[i] = 1
        value[i + 1] = 3
        value[i + 2] = 5
        value[i + 3] = INFINITY
    return vf_load(value)


cdef inline vi take_signs(const vf *x, const vf *w, bint even, vf *magnitude) noexcept nogil:
    """Return the signs of eight weights, bit i set where x[i] is negative, and write their magnitudes.

    even: make the number of minus signs even, so that seven bits are enough. Where it is odd, the weight with the smallest
    w * x^2 gets the wrong sign, and its magnitude becomes negative.
    """
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
    """Return the table entry of the point that eight weights round to: 0.5 * (inverse * x - 1), clamped to 0..2.

    Two comparisons per weight do that. exact follows the reference's bit trick instead, whose result beyond +-2^22 is
    not the rounded value. The entry gets ANY_LEVEL if a weight lies near the middle between two levels.
    """
    cdef vi index = vi_set1(0), free
    cdef vf off = vf_set1(1)    # smallest distance of any weight from the middle between two levels (2 or 4)
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
    """Compute the sums of w q x and w q^2 over n weights, with q from the points `codes`."""
    cdef vf q
    cdef int j
    sum_qx[0] = vf_set1(0)
    sum_q2[0] = vf_set1(0)
    for j in range(n):
        q = vf_lookup4(level, vi_shr(codes[j // 8], 2 * (j % 8)))
        sum_qx[0] = sum_qx[0] + wx[j] * q
        sum_q2[0] = sum_q2[0] + w[j] * q * q


# The steps of one search, one per scale tried. For each group of eight weights: the entry of the point it rounds to, and the
# code of the point it gets. The last three members hold one bit per step.
cdef struct Steps:
    vf scale[MOST_STEPS]
    vi entry[MOST_STEPS][4]
    vi code[MOST_STEPS][4]
    vi begins[4]        # a run begins here: the rounded point is not that of the step before
    vi lacking[4]       # the codebook lacks the rounded point
    vi any_level[4]     # the whole list has to be searched


# What find_points needs of one group in one lane.
cdef struct Search:
    const int32_t *entry        # of step 0; the next step's lies STRIDE further on
    const float *scale          # of step 0; the next step's lies LANES further on
    int32_t *code               # of step 0; the next step's lies STRIDE further on
    const float *x
    const float *w
    float slack
    bint clear[MOST_STEPS]


cdef inline void find_point(const Codebook *b, Search *s, vf level, int step) noexcept nogil:
    s.code[step * STRIDE] = nearest_point(b, s.entry[step * STRIDE], s.x, s.w, s.scale[step * LANES], level, s.slack,
                                          &s.clear[step])


cdef inline void find_points(const Codebook *b, Search *s, vf level, int n_steps, uint32_t begins, uint32_t lacking,
                             uint32_t any_level) noexcept nogil:
    """Find the point of every step whose rounded point the codebook lacks. See the head of this file.

    The searches that are certain to be needed come first: the ends of all runs, and the steps that need the whole list.
    They do not depend on each other, so the processor can overlap them. Runs whose ends disagree are then bisected.
    """
    cdef uint32_t left = begins & lacking, known
    cdef int first, last, i, a, z
    begins |= <uint32_t>1 << n_steps
    known = 0
    while left:
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


# The result of a search. The caller sets it to what holds if no step fits.
cdef struct Fit:
    vf scale
    vi code[4]
    vi entry[4]     # negative where the codebook holds the rounded point


cdef inline void start_fit(Fit *f, vf scale) noexcept nogil:
    """Set the result for the case that no step fits: this scale, and level 1 for every weight."""
    cdef int k
    f.scale = scale
    for k in range(4):
        f.code[k] = vi_set1(0)
        f.entry[k] = vi_set1(-1)


cdef inline void search_scale(const Codebook *b, Steps *s, const vf *x, const vf *w, int n, int reach, vf peak, vm alive,
                              bint all_again, Fit *found) noexcept nogil:
    """Find the best of the scales peak / (5 + 0.1 * step), step = -reach .. reach, for n = 16 or 32 magnitudes x.

    x is not negative, except for weights whose sign take_signs has changed. found holds what is right if no step fits.
    At the end the points are searched once more at the fitted scale: those of all groups (all_again), or only those
    that the codebook lacked. Lanes that are not alive get arbitrary results.
    """
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
    # peak is that of the weights that matter; one without importance can be so much larger that comparing is not enough
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
    """Return the 4-bit scale of a sub-block: the nearest share with scale = (2 * share + 1) / inverse, 0..15."""
    return vi_clamp(vi_nearest(vf_set1(<float>0.5) * (inverse * scale - vf_set1(1))), 0, 15)


cdef inline void build_grid(const uint16_t *points, int n, uint64_t *grid) noexcept nogil:
    """Fill the decoder's table: the eight magnitudes of each point as bytes, in eighths of the scale."""
    cdef uint64_t magnitude
    cdef int i, k
    for k in range(n):
        grid[k] = 0
        for i in range(8):
            magnitude = (points[k] >> (2 * i)) & 3
            magnitude = 8 if magnitude == 0 else 25 if magnitude == 1 else 43
            grid[k] |= magnitude << (8 * i)


cdef inline void build_signs(uint64_t *signs, int n) noexcept nogil:
    """Fill the decoder's table of signs: a byte of ones for each minus sign. With n = 128 the eighth sign makes the number
    of minus signs even."""
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
    """Write eight signed bytes. A byte is negated as ~b + 1; no magnitude is 0, so nothing carries into the next byte."""
    magnitudes = (magnitudes ^ signs) + (signs & <uint64_t>0x0101010101010101)
    memcpy(q, &magnitudes, 8)


cdef inline void unpack_shares(const uint8_t *shares, float d, float *scale) noexcept nogil:
    """Write the scales of 16 sub-blocks, from 4 bits each."""
    cdef int i
    for i in range(8):
        scale[2 * i] = d * (<float>0.5 + <float>(shares[i] & 15)) * <float>0.25
        scale[2 * i + 1] = d * (<float>0.5 + <float>(shares[i] >> 4)) * <float>0.25
