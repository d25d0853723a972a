"""Vector lanes for codecs. lanes.h says what each function does, docs/lanes.md how to write a codec with them."""

from libc.stdint cimport int8_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "quantreg_kernels/lanes.h" nogil:
    enum:
        LANES
        HAS_LOOKUP  # whether vf_lookup16 and its like take few instructions

    # Cython takes these for scalars and writes `a * b + c` into the C code, where they are vectors. So:
    # - Do not mix vf and vi in one expression, and do not compare them with `<`: use vf_lt and its like.
    # - Write a constant beside a vf as vf_set1(<float>0.5). A vi takes plain ints.
    # - Set cdivision=True, in a .pxd too: Cython's own check for division by zero would compare a vector.
    ctypedef float vf
    ctypedef int vi
    ctypedef int vm
    ctypedef unsigned int vb

    vf vf_set1(float a)
    vi vi_set1(int32_t a)
    vf vf_load(const float *p)
    vi vi_load(const int32_t *p)
    void vf_store(float *p, vf v)
    void vi_store(int32_t *p, vi v)
    vi vi_bits(vf v)
    vf vf_bits(vi v)
    float vf_get(vf v, int lane)
    int32_t vi_get(vi v, int lane)
    vi vi_shr(vi v, int n)
    vi vi_load_u8(const uint8_t *p)
    vi vi_load_i8(const int8_t *p)
    vi vi_load_u16(const uint16_t *p)
    void vi_load_i8x16(vi *v, const uint8_t *p)
    void vi_store_u8x16(uint8_t *p, const vi *v)
    void vi_store_i8x16(uint8_t *p, const vi *v)
    void vi_store_i16(uint8_t *p, vi v)
    vi vi_next(vi a, vi b)
    vb vb_load(const uint8_t *p)
    void vi_from_vb(vi *v, vb b)

    vm vf_lt(vf a, vf b)
    vm vf_le(vf a, vf b)
    vm vf_gt(vf a, vf b)
    vm vf_ge(vf a, vf b)
    vm vf_eq(vf a, vf b)
    vm vf_ne(vf a, vf b)
    vm vi_lt(vi a, vi b)
    vm vi_gt(vi a, vi b)
    vm vi_eq(vi a, vi b)
    vf vf_select(vm m, vf a, vf b)
    vi vi_select(vm m, vi a, vi b)
    vm vm_and(vm a, vm b)
    vm vm_or(vm a, vm b)
    vm vm_not(vm a)
    vi vi_count(vi v, vm m)
    vi vi_add_where(vm m, vi a, vi b)
    unsigned int vm_bits(vm m)
    vm vm_from_bits(unsigned int bits)
    bint vm_any(vm m)
    bint vm_all(vm m)
    vm vm_first(int n)

    vf vf_min(vf a, vf b)
    vf vf_max(vf a, vf b)
    vi vi_min(vi a, vi b)
    vi vi_max(vi a, vi b)
    vi vi_clamp(vi v, int32_t lo, int32_t hi)
    vf vf_abs(vf v)
    vf vf_sqrt(vf v)
    vf vf_from_vi(vi v)
    vi vi_trunc(vf v)
    vi vi_nearest(vf v)
    vi vi_rint(vf v)
    vf vf_nearest(vf v)
    vi vi_roundf(vf v)

    vf vf_lookup16(const vf *table, vi index)
    vf vf_lookup8(const vf *table, vi index)
    vf vf_lookup4(vf table, vi index)
    vi vi_gather(const int32_t *base, vi index)
    vf vf_flip(vf v, uint32_t bits)
    vf vf_load_fours(const float *const *p)
    vi vi_spread2(uint32_t bits)

    vf vf_from_f16(vi h)
    vi vi_f16(vf v)
    vf vf_load_f16(const uint8_t *p)
    vf vf_set1_f16(const uint8_t *p)
    void vf_store_f16(uint8_t *p, vf v)

    void vi_transpose(vi *out, const vi *src)
    float vf_reduce_max(vf v)
    float vf_reduce_min(vf v)
    int lowest_bit(uint64_t bits)
    void prefetch(const void *p)
    vf lanes_max(const vf *rows)
    vf lanes_min(const vf *rows)
    void lanes_load(vf *out, const float *const *src, Py_ssize_t offset, int n)
    void lanes_load_ahead(vf *out, const float *const *src, Py_ssize_t offset, int n, Py_ssize_t ahead)
    void lanes_store(uint8_t *const *dst, Py_ssize_t offset, const vf *src, int n, int live)
    void lanes_store_words(uint8_t *const *dst, Py_ssize_t offset, const vi *words, int n, int live)
    void lanes_store_bytes(uint8_t *const *dst, Py_ssize_t offset, const vi *bytes, int n, int live)
    void lanes_store_u16(uint8_t *const *dst, Py_ssize_t offset, vi v, int live)
