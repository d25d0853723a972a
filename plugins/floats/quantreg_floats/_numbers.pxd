# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Loops over rows of plain numbers, shared by all codecs of this family."""

from libc.math cimport copysignf, fabsf
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs
from quantreg_kernels.lanes cimport (
    LANES, prefetch, vf, vf_abs, vf_bits, vf_ge, vf_load, vf_load_f16, vf_max, vf_set1, vf_store, vf_store_f16, vi, vi_bits,
    vi_load_u16, vi_shr, vi_store_i16, vm_any,
)
from quantreg_kernels.rows cimport AHEAD

ctypedef fused integer:
    int8_t
    int16_t
    int32_t
    int64_t

ctypedef fused number:
    int8_t
    int16_t
    int32_t
    int64_t
    float
    double


# ---- F32 and F64, and decoding of integers ----

cdef inline Py_ssize_t encode_exactly(const EncodeArgs *a, number kind) noexcept nogil:
    """Copy every value. The type can hold each float32. Only the type of `kind` counts, not its value, here and below."""
    cdef const float *x
    cdef uint8_t *y
    cdef number v
    cdef Py_ssize_t row, j
    for row in range(a.n_rows):
        x = a.src + row * a.src_stride
        y = a.dst + row * a.dst_stride
        for j in range(a.n_cols):
            v = <number>x[j]
            memcpy(y + j * <Py_ssize_t>sizeof(number), &v, sizeof(number))
    return a.n_rows


cdef inline Py_ssize_t decode_numbers(const DecodeArgs *a, number kind) noexcept nogil:
    """Convert to the nearest float32, ties to even. Doubles beyond the range become infinities."""
    cdef const uint8_t *x
    cdef float *y
    cdef number v
    cdef Py_ssize_t row, j
    for row in range(a.n_rows):
        x = a.src + row * a.src_stride
        y = a.dst + row * a.dst_stride
        for j in range(a.n_cols):
            memcpy(&v, x + j * <Py_ssize_t>sizeof(number), sizeof(number))
            y[j] = <float>v
    return a.n_rows


# ---- integers ----

cdef inline float nearest(float v) noexcept nogil:
    """Round to the nearest integer, ties to even, by adding and subtracting 2^23. Larger floats have no fraction.

    rintf is vectorized only with SSE4.1, and arithmetic under a condition not at all.
    """
    cdef float magic = copysignf(<float>8388608 if fabsf(v) < <float>8388608 else <float>0, v)
    return (v + magic) - magic


cdef inline Py_ssize_t encode_integers(const EncodeArgs *a, integer kind) noexcept nogil:
    """Convert to the nearest integer, ties to even. A row with a value that does not fit is refused."""
    cdef const float *x
    cdef uint8_t *y
    cdef float limit = <float>2 * <float>(<uint64_t>1 << (8 * sizeof(integer) - 2))
    cdef float r
    cdef integer v
    cdef int misfits
    cdef Py_ssize_t row, j
    for row in range(a.n_rows):
        x = a.src + row * a.src_stride
        y = a.dst + row * a.dst_stride
        misfits = 0
        for j in range(a.n_cols):
            r = nearest(x[j])
            misfits |= (r < -limit) | (r >= limit)
            r = r if r >= -limit else -limit
            r = r if r < limit else 0
            v = <integer>r
            memcpy(y + j * <Py_ssize_t>sizeof(integer), &v, sizeof(integer))
        if misfits:
            return row
    return a.n_rows


# ---- F16, and BF16 with `brain` ----

cdef inline void store_halves(uint8_t *y, vf v, bint brain) noexcept nogil:
    """Store LANES floats, rounded to nearest, ties to even."""
    cdef vi bits
    if brain:
        bits = vi_bits(v)
        vi_store_i16(y, (bits + 0x7fff + (vi_shr(bits, 16) & 1)) >> 16)
    else:
        vf_store_f16(y, v)


cdef inline vf load_halves(const uint8_t *x, bint brain) noexcept nogil:
    if brain:
        return vf_bits(vi_load_u16(<const uint16_t *>x) << 16)
    return vf_load_f16(x)


cdef inline Py_ssize_t encode_halves(const EncodeArgs *a, bint brain, float limit) noexcept nogil:
    """Convert to F16 or BF16. A row with a magnitude of `limit` or more, which would round to infinity, is refused."""
    cdef float x_rest[LANES]
    cdef uint8_t y_rest[2 * LANES]
    cdef const float *x
    cdef uint8_t *y
    cdef vf v, peak
    cdef Py_ssize_t row, j, whole = a.n_cols - a.n_cols % LANES
    for row in range(a.n_rows):
        x = a.src + row * a.src_stride
        y = a.dst + row * a.dst_stride
        peak = vf_set1(0)
        j = 0
        while j < whole:
            prefetch(x + j + AHEAD)
            v = vf_load(x + j)
            peak = vf_max(vf_abs(v), peak)
            store_halves(y + 2 * j, v, brain)
            j += LANES
        if j < a.n_cols:
            memset(x_rest, 0, sizeof(x_rest))
            memcpy(x_rest, x + j, (a.n_cols - j) * sizeof(float))
            v = vf_load(x_rest)
            peak = vf_max(vf_abs(v), peak)
            store_halves(y_rest, v, brain)
            memcpy(y + 2 * j, y_rest, 2 * (a.n_cols - j))
        if vm_any(vf_ge(peak, vf_set1(limit))):
            return row
    return a.n_rows


cdef inline Py_ssize_t decode_halves(const DecodeArgs *a, bint brain) noexcept nogil:
    """Convert to float32, which is exact. A NaN stays a NaN."""
    cdef uint8_t x_rest[2 * LANES]
    cdef float y_rest[LANES]
    cdef const uint8_t *x
    cdef float *y
    cdef Py_ssize_t row, j, whole = a.n_cols - a.n_cols % LANES
    for row in range(a.n_rows):
        x = a.src + row * a.src_stride
        y = a.dst + row * a.dst_stride
        j = 0
        while j < whole:
            vf_store(y + j, load_halves(x + 2 * j, brain))
            j += LANES
        if j < a.n_cols:
            memset(x_rest, 0, sizeof(x_rest))
            memcpy(x_rest, x + 2 * j, 2 * (a.n_cols - j))
            vf_store(y_rest, load_halves(x_rest, brain))
            memcpy(y + j, y_rest, (a.n_cols - j) * sizeof(float))
    return a.n_rows
