# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What IQ3_XXS and IQ3_S share: codebooks of four coordinates 0..7, standing for 1, 3 .. 15, and the scale search over them.

The search rounds a sub-block of 32 magnitudes under n scales, moves each group of four to a point of the codebook where
it is none, and keeps the scale whose points fit best; then it does so again at the fitted scale. Here the lanes are the n
scales of one sub-block: as the scale falls a group's coordinates only grow, so the scales fall into a few runs of one
place each, and a place's list of nearest points is walked once for the whole run.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from quantreg_iquants._codebook cimport nearest_points, split_coordinates, unpack_codebook
from quantreg_kernels.lanes cimport (
    LANES, lowest_bit, vf, vf_abs, vf_bits, vf_eq, vf_from_vi, vf_gt, vf_le, vf_lookup8, vf_lookup16, vf_lt, vf_max, vf_min,
    vf_reduce_min, vf_select, vf_set1, vf_sqrt, vi, vi_bits, vi_clamp, vi_eq, vi_load, vi_nearest, vi_next, vi_select,
    vi_set1, vi_store, vi_transpose, vm, vm_and, vm_any, vm_bits, vm_first, vm_from_bits,
)
from quantreg_kernels.search cimport drop_infinite

cdef enum:
    POINTS = 512
    PLACES = 4096           # of four coordinates 0..7, 3 bits each
    MOST_ENTRIES = 25300    # with room for a whole vector at the last
    ON_GRID = 1 << 30
    MOST_WORK = 1200        # 31 runs of the longest list, 38

# An entry is a point ready for look-ups: byte i holds 8 * i + coordinate i, a row of a table of four times eight; bit 30
# is set where the place itself is the point.
cdef struct Lists:
    uint16_t first[PLACES + 1]      # of a place's entries: the place itself, or the nearest points
    uint32_t rows[PLACES]           # the set of rows that these entries touch; 0 where there is no choice
    uint32_t entries[MOST_ENTRIES]

cdef struct Codebook:
    int n
    uint16_t points[POINTS]
    uint16_t index[PLACES]          # of the point at a place of the codebook
    Lists every
    Lists better                    # without those that are no nearer in any coordinate than one before them


cdef inline uint32_t entry_at(int place) noexcept nogil:
    return <uint32_t>((place & 7) | ((place << 5) & 0x700) | ((place << 10) & 0x70000) | ((place << 15) & 0x7000000)
                      | 0x18100800)


cdef inline int place_of(uint32_t entry) noexcept nogil:
    return <int>((entry & 7) | ((entry >> 5) & 0o70) | ((entry >> 10) & 0o700) | ((entry >> 15) & 0o7000))


cdef inline bint no_nearer(int point, int other, int place) noexcept nogil:
    """Whether in every coordinate `other` lies between the place and the point, or on either."""
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


# The scales tried for one sub-block, one a lane, in up to 8 vectors.
cdef struct Trials:
    vf step[8]              # peak / scale
    vf values[4]            # 1, 3 .. 15, twice
    vi reset[LANES + 1]     # reset[l], set in a least error so far: lanes below l are done and keep it, the others begin anew
    vf half_inverse[8]
    vf scaled[64]           # scaled[8 * k + c] = scale * (2 * c + 1) in vector k
    # row 8 * i + level: the error of coordinate i at that level. Rows that no list needs keep what they held.
    vf table[256]


cdef inline vf value_of(const vf *values, vi entries, int i) noexcept nogil:
    """Coordinate i as the value 1, 3 .. 15 that it stands for."""
    if LANES == 4:
        return vf_from_vi((((entries >> (8 * i)) & 7) << 1) | 1)
    return vf_lookup8(values, entries >> (8 * i))


cdef inline void find_points(const Codebook *b, Trials *t, const float *x, const float *root, int n,
                             vi *points) noexcept nogil:
    """Lane c of points = the entry nearest to x[0], x[LANES], x[2 * LANES], x[3 * LANES] under scale c, weighed by root."""
    cdef vi place_room[9]
    cdef uint32_t work_entry[MOST_WORK]
    cdef int32_t work_vector[MOST_WORK]
    cdef int32_t work_reset[MOST_WORK]
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
            rounded = v + vf_set1(12582912)  # in the low bits
            code = code | (vi_bits(rounded) << (3 * i))
            remainder = vf_max(remainder, vf_abs(v - (rounded - vf_set1(12582912))))
        place_room[k] = code & 0xfff
    place_room[vectors] = place_room[0]
    ends = 0
    for k in range(vectors):
        ends |= <uint32_t>(vm_bits(vi_eq(place_room[k], vi_next(place_room[k], place_room[k + 1])))) << (k * LANES)
    ends = ~ends | <uint32_t>1 << (n - 1)
    # Among the levels of a coordinate, errors grow away from the place on either side, also as rounded here, unless it
    # lies so near the middle of two levels that rounding decides. Then points that should not win may.
    lists = &b.every if vm_any(vf_gt(remainder, vf_set1(<float>0.49999))) else &b.better
    # every run's list, one after the other: one long loop is predictable where many short ones are not
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
                vi_store(<int32_t *>work_entry + n_work + k * LANES, vi_load(entries + k * LANES))
                vi_store(work_vector + n_work + k * LANES, vi_set1(c // LANES))
                vi_store(work_reset + n_work + k * LANES, vi_set1(LANES))
            for j in range(16, many):  # seldom
                work_entry[n_work + j] = entries[j]
                work_vector[n_work + j] = c // LANES
                work_reset[n_work + j] = LANES
            work_reset[n_work] = c % LANES
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
        entry = work_entry[j]
        column = t.table + work_vector[j]
        best = vf_bits(vi_bits(best) | t.reset[work_reset[j]])
        error = (column[(entry & 255) * vectors] + column[((entry >> 8) & 255) * vectors]
                 + column[((entry >> 16) & 255) * vectors] + column[((entry >> 24) & 31) * vectors])
        stays = vf_le(best, error)
        best_entry = vi_select(stays, best_entry, vi_set1(<int32_t>entry))
        best = vf_min(best, error)
        points[work_vector[j]] = best_entry


cdef inline vf look_up(const vf *table, vi entries, int i) noexcept nogil:
    """From rows 8 * i .. 8 * i + 7 of a table of 32 floats."""
    if LANES == 8:
        return vf_lookup8(table + i, entries >> (8 * i))
    return vf_lookup16(table + i // 2 * (16 // LANES), entries >> (8 * i))


cdef inline void move_again(const Codebook *b, const vf *x, const vf *root, vf scale, unsigned int lanes, bint keep,
                            vi *points) noexcept nogil:
    """The second round: the points nearest at the fitted scale, in the given lanes. Here a list's points are the lanes."""
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
        for lane in range(LANES):  # a NaN gives way to whatever comes, a negative number to nothing
            (<uint32_t *>t.reset)[k * LANES + lane] = 0 if k == LANES else 0x80000000 if lane < k else 0xffffffff


cdef inline void try_scales(const Codebook *b, Trials *t, const float *x, const float *w, const float *wx, const float *root,
                            float peak, int n, vi *points, float *sums_lx, float *sums_l2) noexcept nogil:
    """One sub-block, LANES floats between its weights, under n scales: the eight points under each, and how they fit."""
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
        # under an infinite inverse, of a tiny peak, the reference rounds everything to 0
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
    """x is about scale * point for groups of four of the 32 magnitudes x: the best of n scales, fitted. Fills chosen with the
    indices of the eight points; both are 0 in lanes that are not active.

    t is from start_trials, peak the largest x. keep: groups that were on the codebook stay as they are in the second round.
    A scale is infinite where the weights overflow; the reference aborts on these.
    """
    cdef vi points[256]     # [lane][group][scale]
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
    sane = vm_bits(vf_lt(total, vf_set1(INFINITY)))  # no NaN gets into the table of errors
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
