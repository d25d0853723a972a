# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Codebooks of IQ1 and IQ2: eight weights are one point, each coordinate 0, 1 or 2.

A point's code is its eight coordinates, two bits each; its index is the same in base 3, dense enough for a table. A table
entry for a point of the codebook is below zero, ~(number << 16 | code); for any other point it says where the codes of
the codebook's nearest points are listed.
"""

from libc.float cimport FLT_MAX
from libc.stdint cimport int32_t, uint8_t, uint16_t

from quantreg_kernels.lanes cimport (
    LANES, lowest_bit, vf, vf_bits, vf_eq, vf_le, vf_lookup4, vf_min, vf_reduce_min, vf_set1, vf_store, vi, vi_gather,
    vi_load_u16, vi_set1, vi_shr, vi_transpose, vm_bits,
)
from quantreg_iquants._codebook cimport nearest_points, split_coordinates, unpack_codebook

cdef enum:
    INDICES = 6561          # 3^8
    MOST_VECTORS = 76       # of any list, four points each


cdef struct Codebook:
    int32_t table[INDICES]
    uint16_t *lists         # codes, each list in whole vectors of LANES; the rest of the last holds NO_POINT


cdef enum:
    NO_POINT = 0xffff       # coordinates 3: infinitely far away


cdef inline void build_codebook(Codebook *b, const uint16_t *points, int n, int n_distances) noexcept nogil:
    """The table and the lists (b.lists has room): points at the n_distances smallest distances, nearest first."""
    cdef uint8_t coordinates[8 * 2048]
    cdef uint16_t nearest[2048]
    cdef int index, code, i, k, found, used = 0
    split_coordinates(points, n, 8, 2, coordinates)
    k = 0
    for index in range(INDICES):
        code = code_at(index)
        if k < n and points[k] == code:  # both in increasing order
            b.table[index] = ~(k << 16 | code)
            k += 1
            continue
        found = nearest_points(coordinates, n, 8, 2, code, n_distances, nearest)
        b.table[index] = used << 8 | ((found + LANES - 1) // LANES)
        for i in range(found):
            b.lists[used * LANES + i] = points[nearest[i]]
        used += (found + LANES - 1) // LANES
        for i in range(found, (b.table[index] & 255) * LANES):
            b.lists[(b.table[index] >> 8) * LANES + i] = NO_POINT


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
    """The number of a point of the codebook."""
    return vi_shr(~vi_gather(b.table, index_of(code)), 16)


cdef inline int nearest_point(const Codebook *b, int32_t entry, const float *x, const float *w, float scale, vf levels,
                              float slack, bint *clear) noexcept nogil:
    """The code in the list of `entry` that has the least sum of w * (scale * level - x)^2; the first of equals.

    levels holds the three levels of a coordinate and infinity, repeated. clear: all others are worse by more than one part
    in 10^4 and slack * scale^2.
    """
    cdef vf table[8]
    cdef vf distance[MOST_VECTORS]
    cdef const uint16_t *codes = b.lists + (entry >> 8) * LANES
    cdef vf diff, d, least, limit
    cdef vf reach = vf_set1(scale) * levels
    cdef vi code
    cdef int n = entry & 255
    cdef int best = -1
    cdef int i, j
    cdef unsigned int close, equal
    cdef bint several = False, seen = False
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
    for j in range(n):
        close = vm_bits(vf_le(distance[j], limit))
        if close:
            several = several or seen or close & (close - 1)
            seen = True
            equal = vm_bits(vf_eq(distance[j], least))
            if best < 0 and equal:
                best = j * LANES + lowest_bit(equal)
    clear[0] = not several
    return codes[best if best > 0 else 0]


cdef inline void rows_of_lanes(float *out, const vf *v, int n) noexcept nogil:
    """out[l * n + j] = lane l of v[j]; n is a multiple of 16."""
    cdef vi rows[LANES]
    cdef int j, l
    for j in range(n // LANES):
        vi_transpose(rows, <const vi *>v + j * LANES)
        for l in range(LANES):
            vf_store(out + l * n + j * LANES, vf_bits(rows[l]))
