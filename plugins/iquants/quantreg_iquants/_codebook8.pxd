# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The codebooks of IQ1 and IQ2: eight weights share one point, and each coordinate is 0, 1 or 2.

There are 3^8 = 6561 possible points, and a codebook holds 256 to 2048 of them. An encoder rounds eight weights to a
possible point. If the codebook lacks it, the encoder takes the best of the codebook points nearest to it. The reference
lists these neighbors in advance, and so do we:

    code    a point as stored here: two bits per coordinate
    index   the same eight digits in base 3, which is dense enough to index a table
    entry   table[index], one of
                ~(number << 16 | code)                 the codebook holds the point (the entry is negative)
                at << 14 | all << 7 | few << 1         it does not: lists + at * LANES holds `few` vectors of LANES codes,
                                                       then `all` vectors

`all` is the reference's list, nearest first. `few` is the part of it that can win in the usual case, which is that every
coordinate of the rounded point is the level nearest to its weight. Then a neighbor loses if another neighbor deviates
from the rounded point in the same directions, in no more coordinates and no further: each of its terms
w * (scale * level - x)^2 is at least as large. An encoder that is not in the usual case adds ANY_LEVEL to the entry and gets
the whole list.
"""

from libc.float cimport FLT_MAX
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from quantreg_kernels.lanes cimport (
    LANES, lowest_bit, vf, vf_bits, vf_eq, vf_le, vf_lookup4, vf_min, vf_reduce_min, vf_set1, vf_store, vi, vi_clamp,
    vi_gather, vi_load_u16, vi_shr, vi_transpose, vm_bits,
)
from quantreg_iquants._codebook cimport nearest_points, split_coordinates

cdef enum:
    INDICES = 6561          # 3^8
    MOST_VECTORS = 76       # in the longest list at 4 lanes
    MOST_WINNERS = 63 * 4   # as many as `few` vectors hold at 4 lanes
    NO_POINT = 0xffff       # pads the last vector of a list: each coordinate is 3, which is infinitely far away
    ANY_LEVEL = 1           # added to an entry: search the whole list


cdef struct Codebook:
    int32_t table[INDICES]
    uint16_t *lists


cdef inline uint32_t moves(int code, int origin) noexcept nogil:
    """Return the way from origin to code, four bits per coordinate: 1 for one step up, 3 for two, 4 for one step down, 12
    for two. If the bits of one way are a subset of another's, it goes in the same directions and no further."""
    cdef uint32_t bits = 0
    cdef int i, step
    for i in range(8):
        step = (code >> (2 * i) & 3) - (origin >> (2 * i) & 3)
        bits |= <uint32_t>(3 if step == 2 else 12 if step == -2 else 4 if step == -1 else step) << (4 * i)
    return bits


cdef inline int put_list(uint16_t *out, const uint16_t *codes, int n) noexcept nogil:
    """Copy n codes to out, padded to whole vectors; return the number of vectors."""
    cdef int vectors = (n + LANES - 1) // LANES
    cdef int i
    for i in range(vectors * LANES):
        out[i] = codes[i] if i < n else NO_POINT
    return vectors


cdef inline void build_codebook(Codebook *b, const uint16_t *points, int n, int n_distances) noexcept nogil:
    """Fill the table and the lists. A list holds the points at the n_distances smallest distances, nearest first.

    The caller has set b.lists to enough room.
    """
    cdef uint8_t coordinates[8 * 2048]
    cdef uint16_t nearest[2048]
    cdef uint16_t winners[MOST_WINNERS]
    cdef uint32_t ways[MOST_WINNERS]
    cdef uint32_t way
    cdef int index, code, i, j, number, found, few, at, all_vectors, few_vectors
    split_coordinates(points, n, 8, 2, coordinates)
    number = 0
    at = 0
    for index in range(INDICES):
        code = code_at(index)
        if number < n and points[number] == code:  # both in increasing order
            b.table[index] = ~(number << 16 | code)
            number += 1
            continue
        found = nearest_points(coordinates, n, 8, 2, code, n_distances, nearest)
        few = 0
        for i in range(found):
            nearest[i] = points[nearest[i]]
            way = moves(nearest[i], code)
            j = 0
            while j < few and ways[j] & ~way:
                j += 1
            if j == few:
                ways[few] = way
                winners[few] = nearest[i]
                few += 1
        few_vectors = put_list(b.lists + at * LANES, winners, few)
        all_vectors = put_list(b.lists + (at + few_vectors) * LANES, nearest, found)
        b.table[index] = at << 14 | all_vectors << 7 | few_vectors << 1
        at += few_vectors + all_vectors


cdef inline int code_at(int index) noexcept nogil:
    cdef int code = 0
    cdef int i
    for i in range(8):
        code |= index % 3 << 2 * i
        index //= 3
    return code


cdef inline vi index_of(vi code) noexcept nogil:
    """Convert a code (base 4) to an index (base 3): first pairs of digits, then fours, then all eight."""
    code = (code & 0x3333) + (vi_shr(code, 2) & 0x3333) * 3
    code = (code & 0x0f0f) + (vi_shr(code, 4) & 0x0f0f) * 9
    return (code & 0xff) + vi_shr(code, 8) * 81


cdef inline vi number_of(const Codebook *b, vi code) noexcept nogil:
    """Return the number of a codebook point. The clamp keeps unused lanes, which may hold anything, inside the table."""
    return vi_shr(~vi_gather(b.table, vi_clamp(index_of(code), 0, INDICES - 1)), 16)


cdef inline int nearest_point(const Codebook *b, int32_t entry, const float *x, const float *w, float scale, vf levels,
                              float slack, bint *clear) noexcept nogil:
    """Return the code in the list of `entry` with the smallest sum of w * (scale * level - x)^2, the first if several tie.

    levels holds the three levels of a coordinate and infinity, repeated. The lanes are codes of the list. The terms of a
    coordinate only depend on its level, so they are computed once per level, looked up, and added in the reference's order.

    clear is set if every other code of the list is worse by more than one part in 10^4 plus slack * scale^2, which is
    far more than rounding can change.
    """
    cdef vf table[8]
    cdef vf distance[MOST_VECTORS]
    cdef const uint16_t *codes = b.lists + (entry >> 14) * LANES
    cdef vf diff, d, least, limit
    cdef vf reach = vf_set1(scale) * levels
    cdef vi code
    cdef uint64_t close = 0, equal = 0
    cdef int n = entry >> 1 & 63
    cdef int i, j
    if entry & ANY_LEVEL:
        codes += n * LANES
        n = entry >> 7 & 127
    for i in range(8):
        diff = reach - vf_set1(x[i])
        table[i] = vf_set1(w[i]) * diff * diff
    least = vf_set1(FLT_MAX)
    for j in range(n):
        code = vi_load_u16(codes + j * LANES)
        d = vf_lookup4(table[0], code)
        for i in range(1, 8):
            d = d + vf_lookup4(table[i], vi_shr(code, 2 * i))
        distance[j] = d
        least = vf_min(d, least)
    least = vf_set1(vf_reduce_min(least))
    limit = least * vf_set1(<float>1.0001) + vf_set1(slack * scale * scale + <float>1e-37)
    if n <= 64 // LANES:
        for j in range(n):
            close |= <uint64_t>vm_bits(vf_le(distance[j], limit)) << (j * LANES)
            equal |= <uint64_t>vm_bits(vf_eq(distance[j], least)) << (j * LANES)
        clear[0] = close & (close - 1) == 0
        return codes[lowest_bit(equal) if equal else 0]
    clear[0] = False
    for j in range(n):
        equal = vm_bits(vf_eq(distance[j], least))
        if equal:
            return codes[j * LANES + lowest_bit(equal)]
    return codes[0]


cdef inline void rows_of_lanes(float *out, const vf *v, int n) noexcept nogil:
    """Set out[l * n + j] to lane l of v[j]. n is a multiple of 16."""
    cdef vi rows[LANES]
    cdef int j, l
    for j in range(n // LANES):
        vi_transpose(rows, <const vi *>v + j * LANES)
        for l in range(LANES):
            vf_store(out + l * n + j * LANES, vf_bits(rows[l]))
