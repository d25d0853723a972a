# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Codebooks of IQ1 and IQ2: eight weights are one point, each coordinate 0, 1 or 2.

A point's code is its eight coordinates, two bits each; its index is the same in base 3, dense enough for a table. A table
entry for a point of the codebook is below zero, ~(number << 16 | code). For any other point it says where the codes of the
codebook's nearest points are listed, among which an encoder chooses: `at << 14 | all << 7 | few << 1`, where `few` vectors
of LANES codes at `at` are followed by `all` vectors. All are the list as the reference has it, nearest first. Few are those
of them that can win if every coordinate of the listed-for point is the nearest level to its weight: a point that moves
further away from there than another one, in some coordinates and in no other direction, is never better.
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
    MOST_VECTORS = 76       # of any list, four points each
    NO_POINT = 0xffff       # fills a list's last vector: coordinates 3, infinitely far away
    ANY_LEVEL = 1           # added to an entry: choose among all


cdef struct Codebook:
    int32_t table[INDICES]
    uint16_t *lists


cdef inline uint32_t moves(int code, int origin) noexcept nogil:
    """Four bits a coordinate: 1 for a step up, 3 for two, 4 and 12 down. A subset is a shorter way in the same direction."""
    cdef uint32_t bits = 0
    cdef int i, step
    for i in range(8):
        step = (code >> (2 * i) & 3) - (origin >> (2 * i) & 3)
        bits |= <uint32_t>(3 if step == 2 else 12 if step == -2 else 4 if step == -1 else step) << (4 * i)
    return bits


cdef inline int put_list(uint16_t *out, const uint16_t *codes, int n) noexcept nogil:
    """Returns how many vectors were filled."""
    cdef int vectors = (n + LANES - 1) // LANES
    cdef int i
    for i in range(vectors * LANES):
        out[i] = codes[i] if i < n else NO_POINT
    return vectors


cdef inline void build_codebook(Codebook *b, const uint16_t *points, int n, int n_distances) noexcept nogil:
    """The table and the lists (b.lists has room): points at the n_distances smallest distances, nearest first."""
    cdef uint8_t coordinates[8 * 2048]
    cdef uint16_t nearest[2048]
    cdef uint16_t winners[2048]
    cdef uint32_t ways[2048]
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
    """From base 4 to base 3: pairs of digits, then fours, then all eight."""
    code = (code & 0x3333) + (vi_shr(code, 2) & 0x3333) * 3
    code = (code & 0x0f0f) + (vi_shr(code, 4) & 0x0f0f) * 9
    return (code & 0xff) + vi_shr(code, 8) * 81


cdef inline vi number_of(const Codebook *b, vi code) noexcept nogil:
    """The number of a point of the codebook. Lanes that are not used may hold any code, and must not read elsewhere."""
    return vi_shr(~vi_gather(b.table, vi_clamp(index_of(code), 0, INDICES - 1)), 16)


cdef inline int nearest_point(const Codebook *b, int32_t entry, const float *x, const float *w, float scale, vf levels,
                              float slack, bint *clear) noexcept nogil:
    """The code in the list of `entry` that has the least sum of w * (scale * level - x)^2; the first of equals.

    levels holds the three levels of a coordinate and infinity, repeated. clear: all others of the list are worse by more
    than one part in 10^4 plus slack * scale^2.
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
    """out[l * n + j] = lane l of v[j]; n is a multiple of 16."""
    cdef vi rows[LANES]
    cdef int j, l
    for j in range(n // LANES):
        vi_transpose(rows, <const vi *>v + j * LANES)
        for l in range(LANES):
            vf_store(out + l * n + j * LANES, vf_bits(rows[l]))
