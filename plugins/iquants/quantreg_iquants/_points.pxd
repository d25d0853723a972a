# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The last step of decoding: small signed integers to floats."""

from libc.stdint cimport int8_t, uint8_t

from quantreg_kernels.lanes cimport LANES, vf_from_vi, vf_set1, vf_store, vi, vi_load_i8x16


cdef inline void scale_points(const int8_t *q, const float *scale, int sub, float *out) noexcept nogil:
    """Write the 256 weights q times scale. There is one scale for each `sub` weights."""
    cdef vi v[4]
    cdef int i, j
    for i in range(16):
        vi_load_i8x16(v, <const uint8_t *>q + 16 * i)
        for j in range(16 // LANES):
            vf_store(out + 16 * i + j * LANES, vf_set1(scale[16 * i // sub]) * vf_from_vi(v[j]))
