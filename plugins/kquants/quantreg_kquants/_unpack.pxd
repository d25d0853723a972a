# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Decoding of the K-quants: 16 weights at a time, kept as bytes until all bits of q are in place. And their products."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy

from quantreg_kernels.dot cimport (
    Sum, add_product, keep_stored, vf_fma, vf_from_vq, vf_pair_f16, vi_pick, vi_shr_each, vq,
)
from quantreg_kernels.lanes cimport (
    LANES, vb, vf, vf_flip, vf_from_vi, vf_load, vf_lookup16, vf_select, vf_set1, vf_set1_f16, vf_store, vi, vi_from_vb,
    vi_load_u8, vi_shr, vm_first,
)

cdef inline vb field(vb b, int at, int bits, int to) noexcept nogil:
    """Take `bits` bits of each byte, starting at bit `at`, and move them to bit `to`."""
    b = b >> (at - to) if at > to else b << (to - at)
    return b & <int>((((1 << bits) - 1) << to) * 0x01010101)


cdef inline void put_above_min(float *out, vb q, float scale, float low) noexcept nogil:
    """Write 16 weights scale * q - low."""
    cdef vi v[4]
    cdef int i
    vi_from_vb(v, q)
    for i in range(16 // LANES):
        vf_store(out + i * LANES, vf_set1(scale) * vf_from_vi(v[i]) - vf_set1(low))


cdef inline void put_centred(float *out, vb q, int zero, float scale) noexcept nogil:
    """Write 16 weights scale * (q - zero)."""
    cdef vi v[4]
    cdef int i
    vi_from_vb(v, q)
    for i in range(16 // LANES):
        vf_store(out + i * LANES, vf_set1(scale) * vf_from_vi(v[i] - zero))


cdef inline void k4_steps(const uint8_t *block, float *steps) noexcept nogil:
    """Write d * scale[j] to steps[j] and dmin * min[j] to steps[8 + j], from the first 16 bytes of Q4_K or Q5_K.

    pack_k4 in _search.pxd draws these bytes. Each u is four scales or four mins, one per byte.
    """
    cdef vf d = vf_set1_f16(block)
    cdef vf dmin = vf_set1_f16(block + 2)
    cdef uint32_t a, b, c
    cdef uint32_t u[4]
    cdef int i
    memcpy(&a, block + 4, 4)
    memcpy(&b, block + 8, 4)
    memcpy(&c, block + 12, 4)
    u[0] = a & 0x3f3f3f3f
    u[1] = (c & 0x0f0f0f0f) | ((a >> 2) & 0x30303030)
    u[2] = b & 0x3f3f3f3f
    u[3] = ((c >> 4) & 0x0f0f0f0f) | ((b >> 2) & 0x30303030)
    for i in range(16 // LANES):
        vf_store(steps + i * LANES, vf_select(vm_first(8 - i * LANES), d, dmin)
                 * vf_from_vi(vi_load_u8(<const uint8_t *>u + i * LANES)))


# ---- products: w = scale * q - low has one rounding in vf_fma too, because scale * q has at most 24 bits ----

cdef enum:
    NO_HIGH = -0x7f7f8000   # 0x80 in all bytes but the lowest: only the low bits have a byte
    HIGH = -0x7f800000      # 0x80 in the upper two bytes

# How the first 16 bytes of Q4_K or Q5_K hold the scales and mins: lane j of 16 is what k4_steps writes to steps[j].
cdef struct K4:
    vi where            # which byte holds the low bits, and which one, in its top bits, the high bits
    vi mask             # the low bits in their byte
    vi shift


cdef inline void fill_k4(K4 *k4) noexcept nogil:
    cdef int32_t *where = <int32_t *>&k4.where
    cdef int32_t *mask = <int32_t *>&k4.mask
    cdef int32_t *shift = <int32_t *>&k4.shift
    cdef int j
    if LANES != 16:
        return
    for j in range(4):
        where[j] = NO_HIGH | (4 + j)
        where[j + 4] = HIGH | ((4 + j) << 8) | (12 + j)
        where[j + 8] = NO_HIGH | (8 + j)
        where[j + 12] = HIGH | ((8 + j) << 8) | (12 + j)
        mask[j] = mask[j + 8] = 63
        mask[j + 4] = 15
        mask[j + 12] = 240
        shift[j] = shift[j + 4] = shift[j + 8] = 0
        shift[j + 12] = 4


cdef inline void k4_dot_steps(const K4 *k4, const uint8_t *block, float *steps) noexcept nogil:
    """Do what k4_steps does, and negate the mins. With 16 lanes this takes few shuffles: the products have many."""
    cdef vi v
    cdef int j
    if LANES == 16:
        v = vi_pick(block, k4.where)
        v = vi_shr_each(v & k4.mask, k4.shift) | (vi_shr(v, 10) & 48)
        vf_store(steps, vf_flip(vf_pair_f16(block) * vf_from_vi(v), 0xff00))
    else:
        k4_steps(block, steps)
        for j in range(8, 16):
            steps[j] = -steps[j]
    keep_stored(steps)


cdef inline void add_nibbles(Sum *s, const uint8_t *packed, const float *steps, const float *x) noexcept nogil:
    """Add 64 products: low nibbles with steps[0] and steps[8] as scale and -low, high ones with steps[1] and [9]."""
    cdef float ramp[16]
    cdef vf low, high
    cdef vi b
    cdef int i, l
    if LANES == 16:  # the 16 weights that there can be, looked up
        for l in range(16):
            ramp[l] = <float>l
        low = vf_fma(vf_set1(steps[0]), vf_load(ramp), vf_set1(steps[8]))
        high = vf_fma(vf_set1(steps[1]), vf_load(ramp), vf_set1(steps[9]))
        for i in range(32 // LANES):
            l = i * LANES
            b = vi_load_u8(packed + l)
            add_product(s, l, vf_lookup16(&low, b), x)
            add_product(s, 32 + l, vf_lookup16(&high, vi_shr(b, 4)), x)
    else:
        for i in range(32 // LANES):
            l = i * LANES
            b = vi_load_u8(packed + l)
            add_product(s, l, vf_fma(vf_set1(steps[0]), vf_from_vi(b & 15), vf_set1(steps[8])), x)
        for i in range(32 // LANES):  # after the others: the columns have an order
            l = i * LANES
            b = vi_load_u8(packed + l)
            add_product(s, 32 + l, vf_fma(vf_set1(steps[1]), vf_from_vi(b >> 4), vf_set1(steps[9])), x)


cdef inline void add_above_min(Sum *s, vq q, const float *steps, const float *x) noexcept nogil:
    """Add 64 products: q of the first 32 with steps[0] and steps[8], of the others with steps[1] and steps[9]."""
    cdef int i, j
    for i in range(64 // LANES):
        j = i * LANES
        add_product(s, j, vf_fma(vf_set1(steps[j // 32]), vf_from_vq(q, j // LANES), vf_set1(steps[8 + j // 32])), x)
