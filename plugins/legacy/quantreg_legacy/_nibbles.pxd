# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The codecs of Q4_0, Q4_1, Q5_0 and Q5_1.

They differ in the bits of q (`bits`, 4 or 5) and in whether a block has a min besides its scale (`minimum`). A block is

    d     float16                 x = d * (q - 8), or d * (q - 16) with 5 bits; with a min, x = d * q + m
    m     float16                 only with a min
    high  32 bits                 only with 5 bits: bit j is the top bit of weight j
    low   16 bytes                byte j holds the low 4 bits of weight j (low nibble) and of weight 16 + j (high nibble)

Every call passes constants for both, so the compiler leaves one path in each codec. Without importance the encoders work in
memory order (_blocks.pxd). With importance they search, with one block per lane.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from quantreg_kernels.abi cimport IMPORTANCE_COLUMNS, DecodeArgs, EncodeArgs, ScoreArgs
from quantreg_kernels.dot cimport Sum, add_product, end_sum, prefetch_block, start_sum, vf_fma
from quantreg_kernels.half cimport store_u16
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store, vf, vf_from_vi, vf_load, vf_lookup16, vf_min, vf_select, vf_set1, vf_set1_f16,
    vf_sqrt, vf_store, vi, vi_f16, vi_get, vi_gt, vi_load_u8, vi_select, vi_set1, vi_shr, vi_store_u8x16, vi_transpose,
    vi_trunc, vm, vm_bits, vm_from_bits,
)
from quantreg_kernels.rows cimport Group, as_encode_args, fill_group, keep_finite_rows
from quantreg_kernels.search cimport search_min, search_symmetric
from quantreg_legacy._blocks cimport BLOCK, MOST_VECTORS, block_peak, block_range, infinite_halves, inverse_of


# ---- error weights: sigma^2 is the mean square of the whole row, so rows are walked in batches ----

# A walk over all blocks, in batches of up to LANES rows.
cdef struct Walk:
    EncodeArgs rows             # the rows of this batch
    Py_ssize_t first_row
    Py_ssize_t block            # the next block, counted within the batch
    float sigma2[LANES]         # mean square of each row of the batch
    Group g


cdef inline void mean_squares(const EncodeArgs *a, float *out) noexcept nogil:
    """Write the mean square of up to LANES rows.

    The reference adds from the first weight of a row to the last, so a row cannot be split. The lanes are rows.
    """
    cdef const float *src[LANES]
    cdef vf x[BLOCK]
    cdef vf total = vf_set1(0)
    cdef float single = 0
    cdef Py_ssize_t k
    cdef int j
    if a.n_rows == 1:
        for k in range(a.n_cols):
            single = single + a.src[k] * a.src[k]
        out[0] = single / <float>a.n_cols
        return
    for j in range(LANES):
        src[j] = a.src + (j if j < a.n_rows else a.n_rows - 1) * a.src_stride
    for k in range(a.n_cols // BLOCK):
        lanes_load(x, src, k * BLOCK, BLOCK)
        for j in range(BLOCK):
            total = total + x[j] * x[j]
    vf_store(out, total / vf_set1(<float>a.n_cols))


cdef inline void begin_walk(Walk *walk) noexcept nogil:
    memset(&walk.rows, 0, sizeof(EncodeArgs))
    walk.first_row = 0
    walk.block = 0


cdef inline int next_group(Walk *walk, const EncodeArgs *a, Py_ssize_t type_size) noexcept nogil:
    """Point walk.g at the next LANES blocks. Return how many are live, 0 at the end."""
    cdef int live = <int>fill_group(&walk.g, &walk.rows, walk.block, BLOCK, type_size)
    if live == 0:
        walk.first_row += walk.rows.n_rows
        if walk.first_row >= a.n_rows:
            return 0
        memcpy(&walk.rows, a, min(a.struct_size, <Py_ssize_t>sizeof(EncodeArgs)))
        walk.rows.src += walk.first_row * a.src_stride
        walk.rows.dst += walk.first_row * a.dst_stride
        if a.importance != NULL:
            walk.rows.importance += walk.first_row * a.importance_stride
        walk.rows.n_rows = min(a.n_rows - walk.first_row, <Py_ssize_t>LANES)
        walk.block = 0
        if a.importance_kind == IMPORTANCE_COLUMNS:
            mean_squares(&walk.rows, walk.sigma2)
        live = <int>fill_group(&walk.g, &walk.rows, 0, BLOCK, type_size)
    walk.block += live
    return live


cdef inline void load_weighted(const Walk *walk, vf *x, vf *w) noexcept nogil:
    """Load the weights and the error weights of a group.

    Error weights are importance * sqrt(sigma^2 + x^2) if it is one value per column, else the importance itself.
    """
    cdef float sigma2[LANES]
    cdef vf s
    cdef int j
    lanes_load(x, walk.g.src, 0, BLOCK)
    lanes_load(w, walk.g.importance, 0, BLOCK)
    if walk.rows.importance_kind == IMPORTANCE_COLUMNS:
        for j in range(LANES):
            sigma2[j] = walk.sigma2[walk.g.row[j]]
        s = vf_load(sigma2)
        for j in range(BLOCK):
            w[j] = w[j] * vf_sqrt(s + x[j] * x[j])


cdef inline Py_ssize_t score_blocks(const ScoreArgs *s) noexcept nogil:
    """Do all that score_rows has to do."""
    cdef EncodeArgs a = as_encode_args(s)
    cdef Walk walk
    cdef vf x[BLOCK]
    cdef vf w[BLOCK]
    begin_walk(&walk)
    while next_group(&walk, &a, BLOCK * sizeof(float)):
        load_weighted(&walk, x, w)
        lanes_store(walk.g.dst, 0, w, BLOCK, walk.g.live)
    return s.n_rows


# ---- encode and decode ----

cdef inline int top_of(int bits) noexcept nogil:
    """Return the largest q."""
    return (1 << bits) - 1


cdef inline Py_ssize_t bytes_of(int bits, bint minimum) noexcept nogil:
    """Return type_size."""
    return 2 + (2 if minimum else 0) + BLOCK * bits // 8


cdef inline void store_block(uint8_t *y, int bits, bint minimum, int d, int m, const vi *q) noexcept nogil:
    """Write one block. d and m are float16 bits, and q holds the weights in memory order."""
    cdef vi low[MOST_VECTORS]
    cdef uint32_t high = 0
    cdef int half = BLOCK // 2 // LANES
    cdef int i
    store_u16(y, <uint16_t>d)
    y += 2
    if minimum:
        store_u16(y, <uint16_t>m)
        y += 2
    if bits == 5:
        for i in range(BLOCK // LANES):
            high |= <uint32_t>vm_bits(vi_gt(q[i], vi_set1(15))) << (LANES * i)
        memcpy(y, &high, 4)
        y += 4
    for i in range(half):
        if bits == 5:
            low[i] = (q[i] & 15) | ((q[half + i] & 15) << 4)
        else:
            low[i] = q[i] | (q[half + i] << 4)
    vi_store_u8x16(y, low)


cdef inline unsigned int encode_group(const float *x, uint8_t *y, int bits, bint minimum) noexcept nogil:
    """Encode LANES blocks without importance: see encode_group_t."""
    cdef vf low, d, inverse, shift
    cdef vm infinite
    cdef vi dh, mh
    cdef vi q[MOST_VECTORS]
    cdef float lows[LANES]
    cdef float inverses[LANES]
    cdef float shifts[LANES]
    cdef int ds[LANES]
    cdef int ms[LANES]
    cdef int i, l
    cdef vf v, s, b, m
    cdef Py_ssize_t type_size = bytes_of(bits, minimum)
    if minimum:
        block_range(x, &low, &d)
        d = d / vf_set1(<float>top_of(bits))
        inverse = inverse_of(d, &infinite)
        shift = vf_set1(<float>0.5)
    else:
        low = vf_set1(0)
        d = block_peak(x) / vf_set1(<float>-(1 << (bits - 1)))
        inverse = inverse_of(d, &infinite)
        shift = vf_select(infinite, vf_set1(0), vf_set1(<float>(1 << (bits - 1)) + <float>0.5))
    dh = vi_f16(d)
    mh = vi_f16(low)
    vf_store(lows, low)
    vf_store(inverses, inverse)
    vf_store(shifts, shift)
    memcpy(ds, &dh, sizeof(ds))
    memcpy(ms, &mh, sizeof(ms))
    for l in range(LANES):
        s = vf_set1(inverses[l])
        b = vf_set1(shifts[l])
        m = vf_set1(lows[l])
        for i in range(BLOCK // LANES):
            v = vf_load(x + BLOCK * l + LANES * i)
            if minimum:
                q[i] = vi_trunc((v - m) * s + vf_set1(<float>0.5))
            else:
                q[i] = vi_trunc(vf_min(v * s + b, vf_set1(<float>top_of(bits))))
        store_block(y, bits, minimum, ds[l], ms[l], q)
        y += type_size
    return infinite_halves(dh) | (infinite_halves(mh) if minimum else 0)


# What a search reads (x, w) and writes (q, trial). The order of the members matters: at 16 lanes each array is 2 KiB long,
# and a load waits for an unfinished store that lies a multiple of 4 KiB away. In this order only q and trial, and x and w,
# are 4 KiB apart. The wrong order costs a third of the speed.
cdef struct Searched:
    vf x[BLOCK]
    vf q[BLOCK]
    vf w[BLOCK]
    vf trial[BLOCK]


cdef inline Py_ssize_t encode_weighted(const EncodeArgs *a, int bits, bint minimum) noexcept nogil:
    """Do all that encode_rows has to do with importance."""
    cdef Walk walk
    cdef Searched s
    cdef vi rows[MOST_VECTORS][LANES]
    cdef vi block[MOST_VECTORS]
    cdef vf low
    cdef vi d, m
    cdef Py_ssize_t bad
    cdef Py_ssize_t type_size = bytes_of(bits, minimum)
    cdef int i, j, l
    begin_walk(&walk)
    while next_group(&walk, a, type_size):
        load_weighted(&walk, s.x, s.w)
        if minimum:
            d = vi_f16(search_min(s.x, s.w, s.q, s.trial, BLOCK, top_of(bits), <float>-0.9, <float>0.05, 36, False,
                                  &low))
            m = vi_f16(-low)
        else:
            d = m = vi_f16(search_symmetric(s.x, s.w, s.q, BLOCK, 1 << (bits - 1)))
        bad = keep_finite_rows(&walk.g, d, m)
        for i in range(BLOCK // LANES):
            for j in range(LANES):
                rows[i][j] = vi_trunc(s.q[LANES * i + j])
            vi_transpose(rows[i], rows[i])
        for l in range(walk.g.live):
            for i in range(BLOCK // LANES):
                block[i] = rows[i][l]
            store_block(walk.g.dst[l], bits, minimum, vi_get(d, l), vi_get(m, l), block)
        if bad >= 0:
            return walk.first_row + bad
    return a.n_rows


cdef inline void decode_block(const uint8_t *p, float *out, int bits, bint minimum) noexcept nogil:
    cdef vf d = vf_set1_f16(p)
    cdef vf m = vf_set1(0)
    cdef vi b
    cdef vi q[2]
    cdef uint32_t high = 0
    cdef int i, half
    p += 2
    if minimum:
        m = vf_set1_f16(p)
        p += 2
    if bits == 5:
        memcpy(&high, p, 4)
        p += 4
    for i in range(BLOCK // 2 // LANES):
        b = vi_load_u8(p + LANES * i)
        q[0] = b & 15
        q[1] = b >> 4
        for half in range(2):
            if bits == 5:
                q[half] = vi_select(vm_from_bits(high >> (16 * half + LANES * i)), q[half] | 16, q[half])
            if minimum:
                vf_store(out + 16 * half + LANES * i, vf_from_vi(q[half]) * d + m)
            else:
                vf_store(out + 16 * half + LANES * i, vf_from_vi(q[half] - (1 << (bits - 1))) * d)


cdef inline Py_ssize_t decode_blocks(const DecodeArgs *a, int bits, bint minimum) noexcept nogil:
    """Do all that decode_rows has to do."""
    cdef Py_ssize_t type_size = bytes_of(bits, minimum)
    cdef const uint8_t *p
    cdef float *out
    cdef Py_ssize_t row, _k
    for row in range(a.n_rows):
        p = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            decode_block(p, out, bits, minimum)
            p += type_size
            out += BLOCK
    return a.n_rows


cdef inline float dot_nibbles(const uint8_t *p, const float *x, Py_ssize_t n_cols, bint minimum) noexcept nogil:
    """Return the sum of a row of Q4_0 or Q4_1 times x. The weights are those of decode_block: d * q is exact."""
    cdef float ramp[16]
    cdef Sum s
    cdef vf d, m, table
    cdef vi b
    cdef int header = 4 if minimum else 2
    cdef int c, i, j
    cdef Py_ssize_t k = 0, n_blocks = n_cols // BLOCK
    for j in range(16):
        ramp[j] = <float>(j if minimum else j - 8)
    start_sum(&s)
    while k < n_blocks:
        prefetch_block(p, 2 * (header + 16))
        for c in range(2):  # two blocks, so that the compiler knows which part of the sum is whose
            if k + c < n_blocks:
                d = vf_set1_f16(p)
                m = vf_set1_f16(p + 2) if minimum else vf_set1(0)
                if LANES == 16:  # the 16 weights that there can be, looked up
                    table = vf_fma(vf_load(ramp), d, m) if minimum else vf_load(ramp) * d
                for i in range(16 // LANES):
                    j = i * LANES
                    b = vi_load_u8(p + header + j)
                    if LANES == 16:
                        add_product(&s, 32 * c + j, vf_lookup16(&table, b), x)
                        add_product(&s, 32 * c + j + 16, vf_lookup16(&table, vi_shr(b, 4)), x)
                    elif minimum:
                        add_product(&s, 32 * c + j, vf_fma(vf_from_vi(b & 15), d, m), x)
                        add_product(&s, 32 * c + j + 16, vf_fma(vf_from_vi(b >> 4), d, m), x)
                    else:
                        add_product(&s, 32 * c + j, vf_from_vi((b & 15) - 8) * d, x)
                        add_product(&s, 32 * c + j + 16, vf_from_vi((b >> 4) - 8) * d, x)
                p += header + 16
        k += 2
        x += 2 * BLOCK
    return end_sum(&s)
