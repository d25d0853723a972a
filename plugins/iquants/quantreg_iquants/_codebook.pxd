# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Codebooks: the points that a group of 4 or 8 weights may take.

A point is an integer that holds coordinate i in `bits` bits from bit `bits * i` up. A codebook lists its points in increasing
order. The source keeps the differences between consecutive points as text, in base 28: '#' to '>' are the last digit of a
difference, '?' to 'Z' the digits before it.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memchr, memset

cdef enum:
    MOST_POINTS = 2048


cdef inline int unpack_codebook(const char *text, uint16_t *points) noexcept nogil:
    """Write the points that `text` packs; return their number."""
    cdef int n = 0, point = -1, step = 0
    cdef int digit
    while text[0]:
        digit = text[0] - 35  # '#'
        if digit >= 28:
            step = (step + digit - 28) * 28
        else:
            point += step + digit
            points[n] = <uint16_t>point
            n += 1
            step = 0
        text += 1
    return n


cdef inline void split_coordinates(const uint16_t *points, int n, int dims, int bits, uint8_t *coordinates) noexcept nogil:
    """Set coordinates[i * n + k] to coordinate i of point k, the order that nearest_points reads."""
    cdef int i, k
    for i in range(dims):
        for k in range(n):
            coordinates[i * n + k] = (points[k] >> (bits * i)) & ((1 << bits) - 1)


cdef inline int nearest_points(const uint8_t *coordinates, int n, int dims, int bits, int at, int n_distances,
                               uint16_t *nearest) noexcept nogil:
    """Write the indices of the points at the n_distances smallest distances from the point `at`; return how many there are.

    They are sorted by distance, then by index. Encoders take the first of several equally good points, so the order
    decides bytes.
    """
    cdef uint8_t distance[MOST_POINTS]  # squared: at most 4 * 7 * 7 or 8 * 3 * 3
    cdef uint8_t level, step, least, floor = 0  # all are bytes, or the compiler does not vectorize the loops
    cdef const uint8_t *found
    cdef int found_n = 0
    cdef int i, k, _d
    memset(distance, 0, n)
    for i in range(dims):
        level = (at >> (bits * i)) & ((1 << bits) - 1)
        for k in range(n):
            step = coordinates[i * n + k] - level
            step = step if step < 128 else -step  # GCC does not vectorize the square of a byte that has wrapped
            distance[k] += <uint8_t>(step * step)
    for _d in range(n_distances):
        least = 255
        for k in range(n):
            step = distance[k] | <uint8_t>-(distance[k] < floor)
            if step < least:
                least = step
        if least == 255:
            break
        floor = least + 1
        found = <const uint8_t *>memchr(distance, least, n)
        while found != NULL:
            k = <int>(found - distance)
            nearest[found_n] = <uint16_t>k
            found_n += 1
            found = <const uint8_t *>memchr(found + 1, least, n - k - 1)
    return found_n
