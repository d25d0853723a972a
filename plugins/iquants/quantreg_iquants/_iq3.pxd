# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Shared by IQ3_XXS and IQ3_S: the search for the scale and the codebook points of a sub-block.

What the formats store. A weight is sign * scale * level, with the levels 1, 3, 5 .. 15 written as coordinates 0..7. Four
weights form a point, and only the points of a codebook (256 or 512 of the 8^4 = 4096 places) can be stored, as their index.
A sub-block of 32 weights has eight points and a 4-bit scale.

What the reference searches. For each sub-block it tries n scales around largest / 15 (31 in IQ3_XXS, 19 in IQ3_S). At each it

    1. rounds each group of four magnitudes to a place;
    2. if the codebook has no point at that place, computes the weighted distance to each point in a list of the nearest
       points (38 at most) and takes the nearest;
    3. fits the scale to the eight points it has chosen, and remembers the best fit.

Then it repeats steps 1 and 2 at the fitted scale and fits once more. Nearly all of its time goes into step 2.

What we search. Here the lanes are the n scales of one sub-block (try_scales). Larger scales give smaller coordinates, so along
the scales a group of four passes through a few places only. The scales that share a place form a run, and all of a run
choose from the same list. So find_points walks each list once for a whole run, not once for each scale:

- A term of a distance, weight * (scale * level - x)^2, depends on one coordinate and its level only. There are 4 * 8 of them.
  They are computed for all scales at once, as the rows of a table that has one column for each scale.
- The distance to a point is then the sum of four rows, for LANES scales at once. An entry of a list holds the numbers of
  its four rows as bytes, so nothing is unpacked.
- A point is left out if one listed before it lies between it and the place in every coordinate: it cannot win.

Afterwards step 3 continues with one super-block per lane (search_points). In the second round there is only one scale, so
there the lanes are the points of a list (move_again).

Why the bytes are the same. Every distance has the reference's terms and order of additions, and the first of several equally
near points wins. Leaving points out is right while terms grow away from the place. If a weight lies so near the middle
between two levels that rounding decides, the whole list is used.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from quantreg_iquants._codebook cimport nearest_points, split_coordinates, unpack_codebook
from quantreg_kernels.lanes cimport (
    HAS_LOOKUP, LANES, lowest_bit, vf, vf_abs, vf_bits, vf_eq, vf_from_vi, vf_gt, vf_le, vf_lookup8, vf_lookup16, vf_lt,
    vf_max, vf_min, vf_reduce_min, vf_select, vf_set1, vf_sqrt, vi, vi_bits, vi_clamp, vi_eq, vi_load, vi_nearest, vi_next,
    vi_select, vi_set1, vi_store, vi_transpose, vm, vm_and, vm_any, vm_bits, vm_first, vm_from_bits,
)
from quantreg_kernels.search cimport drop_infinite

cdef enum:
    POINTS = 512
    PLACES = 4096           # of four coordinates 0..7, 3 bits each
    MOST_ENTRIES = 25300    # in all lists, with room to read a whole vector at the last one
    ON_GRID = 1 << 30
    MOST_WORK = 1200        # 31 runs times 38 entries of the longest list, with room for a whole vector

# An entry is a point, ready for look-ups: byte i holds 8 * i + coordinate i, the number of a row of the table of terms.
# ON_GRID is set if the place itself is a codebook point; its list then has this one entry.
cdef struct Lists:
    uint16_t first[PLACES + 1]      # entries of place p: from first[p] up to first[p + 1]
    uint32_t rows[PLACES]           # bit r: an entry of the place reads row r. 0 if there is only one entry
    uint32_t entries[MOST_ENTRIES]

cdef struct Codebook:
    int n
    uint16_t points[POINTS]
    uint16_t index[PLACES]          # the index of the point at a place; undefined where there is none
    Lists every                     # the reference's lists
    Lists better                    # without points that cannot win


cdef inline uint32_t entry_at(int place) noexcept nogil:
    return <uint32_t>((place & 7) | ((place << 5) & 0x700) | ((place << 10) & 0x70000) | ((place << 15) & 0x7000000)
                      | 0x18100800)


cdef inline int place_of(uint32_t entry) noexcept nogil:
    return <int>((entry & 7) | ((entry >> 5) & 0o70) | ((entry >> 10) & 0o700) | ((entry >> 15) & 0o7000))


cdef inline bint no_nearer(int point, int other, int place) noexcept nogil:
    """Return whether, in every coordinate, `other` lies between the place and the point or coincides with one of them."""
    cdef int i, at, step
    for i in range(4):
        at = (place >> (3 * i)) & 7
        step = ((other >> (3 * i)) & 7) - at
        at = ((point >> (3 * i)) & 7) - at
        if (step > 0 and at < step) or (step < 0 and at > step):
            return False
    return True


cdef inline void build_lists(Codebook *b, Lists *lists, bint every, int n_distances) noexcept nogil:
    cdef uint8_t coordinates[4 * POINTS]
    cdef uint16_t nearest[POINTS]
    cdef int place, i, j, k, found, used = 0, next_point = 0
    split_coordinates(b.points, b.n, 4, 3, coordinates)
    for place in range(PLACES):
        lists.first[place] = <uint16_t>used
        lists.rows[place] = 0
        if next_point < b.n and b.points[next_point] == place:
            b.index[place] = <uint16_t>next_point
            lists.entries[used] = entry_at(place) | ON_GRID
            next_point += 1
            used += 1
            continue
        found = nearest_points(coordinates, b.n, 4, 3, place, n_distances, nearest)
        for k in range(found):
            j = k if every else 0
            while j < k and not no_nearer(b.points[nearest[k]], b.points[nearest[j]], place):
                j += 1
            if j < k:
                continue
            lists.entries[used] = entry_at(b.points[nearest[k]])
            for i in range(4):
                lists.rows[place] |= <uint32_t>1 << ((lists.entries[used] >> (8 * i)) & 255)
            used += 1
        if used - lists.first[place] == 1:
            lists.rows[place] = 0
    lists.first[PLACES] = <uint16_t>used


cdef inline void build_codebook(Codebook *b, const char *text, int n_distances) noexcept nogil:
    b.n = unpack_codebook(text, b.points)
    build_lists(b, &b.every, True, n_distances)
    build_lists(b, &b.better, False, n_distances)


# The scales tried for one sub-block, one per lane, in up to 8 vectors, and what the search for its points works with.
cdef struct Trials:
    vf step[8]              # peak / scale
    vf values[4]            # 1, 3 .. 15, twice
    # reset[l] is ORed into the smallest distances so far when a new run begins at lane l. It makes lanes below l negative, so
    # nothing replaces them any more, and the others NaN, so anything replaces them. reset[LANES] changes nothing.
    vi reset[LANES + 1]
    vf half_inverse[8]
    vf scaled[64]           # scaled[8 * k + c] = scale * (2 * c + 1) in vector k
    vf table[256]           # row 8 * i + c: the term of coordinate i at level 2 * c + 1. Rows that no list reads are stale
    vi points[256]          # [lane][group][scale]: the entries found
    uint32_t work_entry[MOST_WORK]
    int32_t work_vector[MOST_WORK]
    int32_t work_reset[MOST_WORK]


cdef inline vf value_of(const vf *values, vi entries, int i) noexcept nogil:
    """Return the level 1, 3 .. 15 of coordinate i."""
    if not HAS_LOOKUP:
        return vf_from_vi((((entries >> (8 * i)) & 7) << 1) | 1)
    return vf_lookup8(values, entries >> (8 * i))


cdef inline void find_points(const Codebook *b, Trials *t, const float *x, const float *root, int n,
                             vi *points) noexcept nogil:
    """Find the entry nearest to x[0], x[LANES], x[2 * LANES], x[3 * LANES] under each scale: lane c of points for scale c.

    root holds the weights of the four terms. The work arrays hold the lists of all runs one after the other, because the
    processor predicts one long loop better than many short ones. work_vector is the vector of scales that an entry is for.
    A run that crosses vectors appears once in each.
    """
    cdef vi place_room[9]
    cdef const int32_t *place = <const int32_t *>place_room
    cdef uint32_t ends, rows, entry
    cdef const int32_t *entries
    cdef const vf *column
    cdef const Lists *lists
    cdef vf v, rounded, value, weight, diff, best, error
    cdef vf remainder = vf_set1(0)
    cdef vi code, best_entry
    cdef vm stays
    cdef int vectors = (n + LANES - 1) // LANES
    cdef int i, j, k, row, c, end, many, n_work
    for k in range(vectors):
        code = vi_set1(0)
        for i in range(4):
            v = t.half_inverse[k] * vf_set1(x[i * LANES]) - vf_set1(<float>0.5)
            v = vf_min(vf_max(v, vf_set1(0)), vf_set1(7))
            rounded = v + vf_set1(12582912)  # the integer is in the low bits
            code = code | (vi_bits(rounded) << (3 * i))
            remainder = vf_max(remainder, vf_abs(v - (rounded - vf_set1(12582912))))
        place_room[k] = code & 0xfff
    place_room[vectors] = place_room[0]
    ends = 0
    for k in range(vectors):
        ends |= <uint32_t>(vm_bits(vi_eq(place_room[k], vi_next(place_room[k], place_room[k + 1])))) << (k * LANES)
    ends = ~ends | <uint32_t>1 << (n - 1)
    # The place holds the nearest level of each coordinate, and terms grow away from it on either side, even as rounded here.
    # That fails if a weight lies near the middle between two levels: then points that should not win can.
    lists = &b.every if vm_any(vf_gt(remainder, vf_set1(<float>0.49999))) else &b.better
    rows = 0
    n_work = 0
    c = 0
    while c < n:
        end = lowest_bit(ends) + 1
        ends &= ends - 1
        rows |= lists.rows[place[c]]
        entries = <const int32_t *>lists.entries + lists.first[place[c]]
        many = lists.first[place[c] + 1] - lists.first[place[c]]
        while c < end:
            for k in range(16 // LANES):
                vi_store(<int32_t *>t.work_entry + n_work + k * LANES, vi_load(entries + k * LANES))
                vi_store(t.work_vector + n_work + k * LANES, vi_set1(c // LANES))
                vi_store(t.work_reset + n_work + k * LANES, vi_set1(LANES))
            for j in range(16, many):  # few lists are longer
                t.work_entry[n_work + j] = entries[j]
                t.work_vector[n_work + j] = c // LANES
                t.work_reset[n_work + j] = LANES
            t.work_reset[n_work] = c % LANES
            n_work += many
            c = c // LANES * LANES + LANES
        c = end
    while rows:
        row = lowest_bit(rows)
        rows &= rows - 1
        value = vf_set1(x[(row >> 3) * LANES])
        weight = vf_set1(root[(row >> 3) * LANES])
        for k in range(vectors):
            diff = t.scaled[8 * k + (row & 7)] - value
            t.table[row * vectors + k] = weight * diff * diff
    best = vf_set1(0)
    best_entry = vi_set1(0)
    for j in range(n_work):
        entry = t.work_entry[j]
        column = t.table + t.work_vector[j]
        best = vf_bits(vi_bits(best) | t.reset[t.work_reset[j]])
        error = (column[(entry & 255) * vectors] + column[((entry >> 8) & 255) * vectors]
                 + column[((entry >> 16) & 255) * vectors] + column[((entry >> 24) & 31) * vectors])
        stays = vf_le(best, error)
        best_entry = vi_select(stays, best_entry, vi_set1(<int32_t>entry))
        best = vf_min(best, error)
        points[t.work_vector[j]] = best_entry


cdef inline vf look_up(const vf *table, vi entries, int i) noexcept nogil:
    """Look up coordinate i of each entry in rows 8 * i to 8 * i + 7 of a table of 32 floats."""
    if LANES == 8:
        return vf_lookup8(table + i, entries >> (8 * i))
    return vf_lookup16(table + i // 2 * (16 // LANES), entries >> (8 * i))


cdef inline void move_again(const Codebook *b, const vf *x, const vf *root, vf scale, unsigned int lanes, bint keep,
                            vi *points) noexcept nogil:
    """Find the points nearest at the fitted scale, in the given lanes (super-blocks). Within a list, the lanes are points.

    keep: a group whose place was a codebook point keeps it.
    """
    cdef vf table[32]
    cdef vf tables[32]      # by lane
    cdef vf column[8]
    cdef const uint32_t *entries
    cdef uint32_t *point
    cdef vf inverse = vf_set1(1) / scale
    cdef vf diff, error
    cdef vi place, entry
    cdef float best, least
    cdef int i, j, k, lane, at, many
    for k in range(8):
        place = vi_set1(0)
        for i in range(4):
            place = place | (vi_clamp(vi_nearest(vf_set1(<float>0.5) * (inverse * x[4 * k + i] - vf_set1(1))), 0, 7) << (3 * i))
            for j in range(8):
                diff = scale * vf_set1(<float>(2 * j + 1)) - x[4 * k + i]
                table[8 * i + j] = root[4 * k + i] * diff * diff
        for i in range(32 // LANES):
            vi_transpose(<vi *>tables + i * LANES, <const vi *>table + i * LANES)
        for lane in range(LANES):
            point = <uint32_t *>points + k * LANES + lane
            if not (lanes >> lane) & 1 or (keep and point[0] & ON_GRID):
                continue
            at = (<const int32_t *>&place)[lane]
            entries = b.every.entries + b.every.first[at]
            many = b.every.first[at + 1] - b.every.first[at]
            point[0] = entries[0]
            if many == 1:
                continue
            for i in range(32 // LANES):
                column[i] = tables[i * LANES + lane]
            best = INFINITY
            j = 0
            while j < many:
                entry = vi_load(<const int32_t *>entries + j)
                error = look_up(column, entry, 0) + look_up(column, entry, 1)
                error = error + look_up(column, entry, 2) + look_up(column, entry, 3)
                error = vf_select(vm_first(many - j), error, vf_set1(INFINITY))
                least = vf_reduce_min(error)
                if least < best:
                    best = least
                    point[0] = entries[j + lowest_bit(vm_bits(vf_eq(error, vf_set1(least))))]
                j += LANES


cdef inline void start_trials(Trials *t, int n) noexcept nogil:
    cdef int k, lane
    for k in range(32):
        (<float *>t.step)[k] = <float>15 + <float>(k - n // 2) * <float>0.2
    for k in range(16):
        (<float *>t.values)[k] = <float>(2 * (k & 7) + 1)
    for k in range(256):
        t.table[k] = vf_set1(0)
    for k in range(LANES + 1):
        for lane in range(LANES):
            (<uint32_t *>t.reset)[k * LANES + lane] = 0 if k == LANES else 0x80000000 if lane < k else 0xffffffff


cdef inline void try_scales(const Codebook *b, Trials *t, const float *x, const float *w, const float *wx, const float *root,
                            float peak, int n, vi *points, float *sums_lx, float *sums_l2) noexcept nogil:
    """Find the eight points of one sub-block under each of n scales, and the sums that say how well they fit.

    x, w, wx and root are one lane of vectors: the next weight lies LANES floats further on.
    """
    cdef vf lx[8]
    cdef vf l2[8]
    cdef vf scale, inverse, q
    cdef int vectors = (n + LANES - 1) // LANES
    cdef int i, k, c
    for k in range(vectors):
        inverse = t.step[k] / vf_set1(peak)
        scale = vf_set1(1) / inverse
        for c in range(8):
            t.scaled[8 * k + c] = scale * vf_set1(<float>(2 * c + 1))
        # a tiny peak has an infinite inverse; the reference then rounds everything to 0
        t.half_inverse[k] = vf_set1(<float>0.5) * drop_infinite(inverse)
        lx[k] = vf_set1(0)
        l2[k] = vf_set1(0)
    for i in range(8):
        find_points(b, t, x + 4 * i * LANES, root + 4 * i * LANES, n, points + i * vectors)
    for i in range(32):
        for k in range(vectors):
            q = value_of(t.values, points[i // 4 * vectors + k], i % 4)
            lx[k] = lx[k] + vf_set1(wx[i * LANES]) * q
            l2[k] = l2[k] + vf_set1(w[i * LANES]) * q * q
    for k in range(vectors):
        (<vf *>sums_lx)[k * LANES] = lx[k]
        (<vf *>sums_l2)[k * LANES] = l2[k]


cdef inline vf search_points(const Codebook *b, Trials *t, const vf *x, const vf *w, vf peak, unsigned int active, int n,
                             bint keep, vi *chosen) noexcept nogil:
    """Return the fitted scale for the 32 magnitudes x, and write the indices of their eight points to chosen.

    t comes from start_trials, and peak is the largest x. In lanes that are not active, the scale is 0. keep is as
    in move_again (IQ3_XXS keeps, IQ3_S does not). Where the weights overflow the scale is infinite, so that the row is
    refused; the reference aborts there.
    """
    cdef vi *points = t.points
    cdef vf root[32]
    cdef vf wx[32]
    cdef vf lx[32]          # [scale][lane]
    cdef vf l2[32]
    cdef vi best_points[8]
    cdef vi best_trial = vi_set1(-1)
    cdef vf scale, best, q, sum_lx, sum_l2
    cdef vf total = vf_set1(8) * peak
    cdef vm better
    cdef int vectors = (n + LANES - 1) // LANES
    cdef int lane, i, k, trial
    cdef unsigned int again = 0, sane
    cdef uint32_t entry
    cdef bint on_grid
    for k in range(32):
        root[k] = vf_sqrt(w[k])
        wx[k] = w[k] * x[k]
        total = total + w[k]
    sane = vm_bits(vf_lt(total, vf_set1(INFINITY)))  # so that the table of terms holds no NaN
    for lane in range(LANES):
        if (active & sane) >> lane & 1:
            try_scales(b, t, <const float *>x + lane, <const float *>w + lane, <const float *>wx + lane,
                       <const float *>root + lane, (<const float *>&peak)[lane], n, points + 8 * lane * vectors,
                       <float *>(lx + lane), <float *>(l2 + lane))
    for k in range(vectors):
        vi_transpose(<vi *>lx + k * LANES, <const vi *>lx + k * LANES)
        vi_transpose(<vi *>l2 + k * LANES, <const vi *>l2 + k * LANES)
    scale = peak / vf_set1(15)
    best = vf_set1(0)
    for k in range(n):
        better = vm_and(vf_gt(l2[k], vf_set1(0)), vf_gt(lx[k] * lx[k], best * l2[k]))
        scale = vf_select(better, lx[k] / l2[k], scale)
        best = vf_select(better, scale * lx[k], best)
        best_trial = vi_select(better, vi_set1(k), best_trial)
    for i in range(8):
        best_points[i] = vi_set1(<int32_t>entry_at(0))
    for lane in range(LANES):
        if not (active & sane) >> lane & 1:
            continue
        trial = (<const int32_t *>&best_trial)[lane]
        on_grid = keep
        if trial >= 0:
            on_grid = True
            for i in range(8):
                entry = (<const uint32_t *>points)[(8 * lane + i) * vectors * LANES + trial]
                (<uint32_t *>best_points)[i * LANES + lane] = entry
                on_grid = on_grid and entry & ON_GRID
        if not on_grid:
            again |= <unsigned int>1 << lane
    again &= vm_bits(vf_gt(scale, vf_set1(0)))
    if again:
        move_again(b, x, root, scale, again, keep, best_points)
        sum_lx = vf_set1(0)
        sum_l2 = vf_set1(0)
        for i in range(32):
            q = value_of(t.values, best_points[i // 4], i % 4)
            sum_lx = sum_lx + wx[i] * q
            sum_l2 = sum_l2 + w[i] * q * q
        scale = vf_select(vm_and(vm_from_bits(again), vf_gt(sum_l2, vf_set1(0))), sum_lx / sum_l2, scale)
    for i in range(8):
        for lane in range(LANES):
            k = place_of((<const uint32_t *>best_points)[i * LANES + lane])
            (<int32_t *>chosen)[i * LANES + lane] = b.index[k]
    scale = vf_select(vm_and(vf_eq(scale, scale), vm_from_bits(sane)), scale, vf_set1(INFINITY))
    return vf_select(vm_from_bits(active), scale, vf_set1(0))
