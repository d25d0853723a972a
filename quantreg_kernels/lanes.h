/* Fixed-width vector lanes: one quant block per lane, so that every lane does the scalar reference's operations in the
 * scalar reference's order. The only C in the project; lanes.pxd shows it to Cython, which sees vf, vi and vm as opaque
 * scalars and writes arithmetic on them as ordinary expressions.
 *
 *   vf  LANES floats            + - * / and unary minus are element-wise; a float operand is broadcast
 *   vi  LANES int32             + - * & | ^ << >> likewise (>> keeps the sign)
 *   vm  LANES booleans          what comparisons give and select() takes
 *
 * LANES is 16 (AVX-512), 8 (AVX2) or 4 (everything else). No operation here contracts, reassociates or approximates. */
#ifndef QUANTREG_LANES_H
#define QUANTREG_LANES_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define LANES 16
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__F16C__)
#define LANES 8
#include <immintrin.h>
#else
#define LANES 4
#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#endif

#define LANE_FN static inline __attribute__((always_inline))

/* may_alias: the same memory is read as either */
typedef float vf __attribute__((vector_size(LANES * 4), may_alias));
typedef int32_t vi __attribute__((vector_size(LANES * 4), may_alias));
typedef uint32_t vu_ __attribute__((vector_size(LANES * 4), may_alias));
#if LANES == 16
typedef __mmask16 vm;
#else
typedef vi vm;
#endif

/* ---- make, load, store ---- */

LANE_FN vf vf_set1(float a) { return a - (vf){0}; }
LANE_FN vi vi_set1(int32_t a) { return a - (vi){0}; }
LANE_FN vf vf_load(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
LANE_FN vi vi_load(const int32_t *p) { vi v; memcpy(&v, p, sizeof v); return v; }
LANE_FN void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
LANE_FN void vi_store(int32_t *p, vi v) { memcpy(p, &v, sizeof v); }
LANE_FN vi vi_bits(vf v) { return (vi)v; }     /* the bit pattern, not the value */
LANE_FN vf vf_bits(vi v) { return (vf)v; }
LANE_FN float vf_get(vf v, int lane) { return v[lane]; }
LANE_FN int32_t vi_get(vi v, int lane) { return v[lane]; }
LANE_FN vi vi_shr(vi v, int n) { return (vi)((vu_)v >> n); } /* logical shift right */

/* LANES consecutive small integers, widened */
LANE_FN vi vi_load_u8(const uint8_t *p) {
#if LANES == 16
    __m128i b; memcpy(&b, p, 16); return (vi)_mm512_cvtepu8_epi32(b);
#elif LANES == 8
    int64_t b; memcpy(&b, p, 8); return (vi)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(b));
#elif defined(__SSE2__)
    int32_t b; memcpy(&b, p, 4);
    return (vi)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(b), _mm_setzero_si128()), _mm_setzero_si128());
#else
    vi v = {p[0], p[1], p[2], p[3]}; return v;
#endif
}
LANE_FN vi vi_load_i8(const int8_t *p) {
#if LANES == 16
    __m128i b; memcpy(&b, p, 16); return (vi)_mm512_cvtepi8_epi32(b);
#elif LANES == 8
    int64_t b; memcpy(&b, p, 8); return (vi)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(b));
#elif defined(__SSE2__)
    int32_t b; memcpy(&b, p, 4);
    __m128i w = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_cvtsi32_si128(b)); /* each byte on top of a zero */
    return (vi)_mm_unpacklo_epi16(_mm_setzero_si128(), w) >> 24;
#else
    vi v = {p[0], p[1], p[2], p[3]}; return v;
#endif
}
LANE_FN vi vi_load_u16(const uint16_t *p) {
#if LANES == 16
    __m256i b; memcpy(&b, p, 32); return (vi)_mm512_cvtepu16_epi32(b);
#elif LANES == 8
    __m128i b; memcpy(&b, p, 16); return (vi)_mm256_cvtepu16_epi32(b);
#elif defined(__SSE2__)
    int64_t b; memcpy(&b, p, 8); return (vi)_mm_unpacklo_epi16(_mm_cvtsi64_si128(b), _mm_setzero_si128());
#else
    uint16_t h[4]; memcpy(h, p, 8);
    vi v = {h[0], h[1], h[2], h[3]}; return v;
#endif
}

/* 16 signed bytes to 16 / LANES vectors */
LANE_FN void vi_load_i8x16(vi *v, const uint8_t *p) {
#if LANES == 4 && defined(__SSE2__)
    __m128i b; memcpy(&b, p, 16);
    __m128i z = _mm_setzero_si128(), lo = _mm_unpacklo_epi8(z, b), hi = _mm_unpackhi_epi8(z, b);
    v[0] = (vi)_mm_unpacklo_epi16(z, lo) >> 24;
    v[1] = (vi)_mm_unpackhi_epi16(z, lo) >> 24;
    v[2] = (vi)_mm_unpacklo_epi16(z, hi) >> 24;
    v[3] = (vi)_mm_unpackhi_epi16(z, hi) >> 24;
#else
    for (int i = 0; i < 16 / LANES; i++) v[i] = vi_load_i8((const int8_t *)p + LANES * i);
#endif
}
/* The reverse: 16 integers of 0..255 (u8) or -128..127 (i8), in 16 / LANES vectors, to 16 bytes */
LANE_FN void vi_store_u8x16(uint8_t *p, const vi *v) {
#if LANES == 16
    __m128i b = _mm512_cvtepi32_epi8((__m512i)v[0]); memcpy(p, &b, 16);
#elif LANES == 8
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)v[0], (__m256i)v[1]), 0xd8);
    __m128i b = _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)); memcpy(p, &b, 16);
#elif defined(__SSE2__)
    __m128i w = _mm_packs_epi32((__m128i)v[0], (__m128i)v[1]), x = _mm_packs_epi32((__m128i)v[2], (__m128i)v[3]);
    __m128i b = _mm_packus_epi16(w, x); memcpy(p, &b, 16);
#else
    for (int i = 0; i < 16; i++) p[i] = (uint8_t)v[i / LANES][i % LANES];
#endif
}
LANE_FN void vi_store_i8x16(uint8_t *p, const vi *v) {
#if LANES == 16
    vi_store_u8x16(p, v);
#elif LANES == 8
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)v[0], (__m256i)v[1]), 0xd8);
    __m128i b = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)); memcpy(p, &b, 16);
#elif defined(__SSE2__)
    __m128i w = _mm_packs_epi32((__m128i)v[0], (__m128i)v[1]), x = _mm_packs_epi32((__m128i)v[2], (__m128i)v[3]);
    __m128i b = _mm_packs_epi16(w, x); memcpy(p, &b, 16);
#else
    vi_store_u8x16(p, v);
#endif
}
/* LANES integers of -32768..32767 to 2 * LANES bytes */
LANE_FN void vi_store_i16(uint8_t *p, vi v) {
#if LANES == 16
    __m256i b = _mm512_cvtepi32_epi16((__m512i)v); memcpy(p, &b, 32);
#elif LANES == 8
    __m128i b = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    memcpy(p, &b, 16);
#elif defined(__SSE2__)
    int64_t b = _mm_cvtsi128_si64(_mm_packs_epi32((__m128i)v, (__m128i)v)); memcpy(p, &b, 8);
#else
    for (int i = 0; i < LANES; i++) { int16_t b = (int16_t)v[i]; memcpy(p + 2 * i, &b, 2); }
#endif
}

/* lanes 1 and up of a, then lane 0 of b */
LANE_FN vi vi_next(vi a, vi b) {
#if LANES == 16
    return (vi)_mm512_alignr_epi32((__m512i)b, (__m512i)a, 1);
#elif LANES == 8
    return __builtin_shufflevector(a, b, 1, 2, 3, 4, 5, 6, 7, 8);
#else
    return __builtin_shufflevector(a, b, 1, 2, 3, 4);
#endif
}

/* 16 bytes as four words, for taking bit fields out of all of them at once: & | << >> work on the words, so mask after a
 * shift; then widened to 16 / LANES vectors of 0..255. */
typedef uint32_t vb __attribute__((vector_size(16), may_alias));
LANE_FN vb vb_load(const uint8_t *p) { vb b; memcpy(&b, p, 16); return b; }
LANE_FN void vi_from_vb(vi *v, vb b) {
#if LANES == 16
    v[0] = (vi)_mm512_cvtepu8_epi32((__m128i)b);
#elif LANES == 8
    v[0] = (vi)_mm256_cvtepu8_epi32((__m128i)b);
    v[1] = (vi)_mm256_cvtepu8_epi32(_mm_unpackhi_epi64((__m128i)b, (__m128i)b));
#elif defined(__SSE2__)
    __m128i z = _mm_setzero_si128(), lo = _mm_unpacklo_epi8((__m128i)b, z), hi = _mm_unpackhi_epi8((__m128i)b, z);
    v[0] = (vi)_mm_unpacklo_epi16(lo, z);
    v[1] = (vi)_mm_unpackhi_epi16(lo, z);
    v[2] = (vi)_mm_unpacklo_epi16(hi, z);
    v[3] = (vi)_mm_unpackhi_epi16(hi, z);
#else
    uint8_t p[16]; memcpy(p, &b, 16);
    for (int i = 0; i < 16; i++) v[i / LANES][i % LANES] = p[i];
#endif
}

/* ---- compare and choose ---- */

#if LANES == 16
LANE_FN vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
LANE_FN vm vf_le(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ); }
LANE_FN vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
LANE_FN vm vf_ne(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NEQ_UQ); }
LANE_FN vm vi_lt(vi a, vi b) { return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, _MM_CMPINT_LT); }
LANE_FN vm vi_eq(vi a, vi b) { return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, _MM_CMPINT_EQ); }
LANE_FN vf vf_select(vm m, vf a, vf b) { return (vf)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a); }
LANE_FN vi vi_select(vm m, vi a, vi b) { return (vi)_mm512_mask_blend_epi32(m, (__m512i)b, (__m512i)a); }
LANE_FN vm vm_and(vm a, vm b) { return (vm)(a & b); }
LANE_FN vm vm_or(vm a, vm b) { return (vm)(a | b); }
LANE_FN vm vm_not(vm a) { return (vm)~a; }
LANE_FN unsigned vm_bits(vm m) { return m; }
#else
LANE_FN vm vf_lt(vf a, vf b) { return a < b; }
LANE_FN vm vf_le(vf a, vf b) { return a <= b; }
LANE_FN vm vf_eq(vf a, vf b) { return a == b; }
LANE_FN vm vf_ne(vf a, vf b) { return a != b; }
LANE_FN vm vi_lt(vi a, vi b) { return a < b; }
LANE_FN vm vi_eq(vi a, vi b) { return a == b; }
LANE_FN vm vm_and(vm a, vm b) { return a & b; }
LANE_FN vm vm_or(vm a, vm b) { return a | b; }
LANE_FN vm vm_not(vm a) { return ~a; }
#if LANES == 8
LANE_FN vf vf_select(vm m, vf a, vf b) { return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)m); }
LANE_FN vi vi_select(vm m, vi a, vi b) { return (vi)vf_select(m, (vf)a, (vf)b); }
LANE_FN unsigned vm_bits(vm m) { return (unsigned)_mm256_movemask_ps((__m256)m); }
#else
LANE_FN vi vi_select(vm m, vi a, vi b) { return (a & m) | (b & ~m); }
LANE_FN vf vf_select(vm m, vf a, vf b) { return (vf)vi_select(m, (vi)a, (vi)b); }
#if defined(__SSE2__)
LANE_FN unsigned vm_bits(vm m) { return (unsigned)_mm_movemask_ps((__m128)m); }
#else
LANE_FN unsigned vm_bits(vm m) { return (m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8); }
#endif
#endif
#endif
LANE_FN vm vm_from_bits(unsigned bits) { /* the reverse of vm_bits; higher bits are ignored */
#if LANES == 16
    return (vm)bits;
#else
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = 1 << i;
    return (vi_set1((int32_t)bits) & lane) == lane;
#endif
}
LANE_FN vi vi_count(vi v, vm m) { /* v, plus 1 where m */
#if LANES == 16
    return (vi)_mm512_mask_add_epi32((__m512i)v, m, (__m512i)v, _mm512_set1_epi32(1));
#else
    return v - m;
#endif
}
LANE_FN vi vi_add_where(vm m, vi a, vi b) { /* a + b where m, else a */
#if LANES == 16
    return (vi)_mm512_mask_add_epi32((__m512i)a, m, (__m512i)a, (__m512i)b);
#else
    return a + (b & m);
#endif
}
LANE_FN vm vf_gt(vf a, vf b) { return vf_lt(b, a); }
LANE_FN vm vf_ge(vf a, vf b) { return vf_le(b, a); }
LANE_FN vm vi_gt(vi a, vi b) { return vi_lt(b, a); }
LANE_FN int vm_any(vm m) { return vm_bits(m) != 0; }
LANE_FN int vm_all(vm m) { return vm_bits(m) == (1u << LANES) - 1; }
LANE_FN vm vm_first(int n) { /* the first n lanes */
    vi index;
    for (int i = 0; i < LANES; i++) index[i] = i;
    return vi_lt(index, vi_set1(n));
}

/* ---- arithmetic ---- */

/* a < b ? a : b and a > b ? a : b: with a NaN on either side the result is b, as in the scalar expression */
LANE_FN vf vf_min(vf a, vf b) {
#if LANES == 16
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
    return vf_select(vf_lt(a, b), a, b);
#endif
}
LANE_FN vf vf_max(vf a, vf b) {
#if LANES == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return vf_select(vf_lt(b, a), a, b);
#endif
}
LANE_FN vi vi_min(vi a, vi b) {
#if LANES == 16
    return (vi)_mm512_min_epi32((__m512i)a, (__m512i)b);
#elif LANES == 8
    return (vi)_mm256_min_epi32((__m256i)a, (__m256i)b);
#else
    return vi_select(vi_lt(a, b), a, b);
#endif
}
LANE_FN vi vi_max(vi a, vi b) {
#if LANES == 16
    return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif LANES == 8
    return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    return vi_select(vi_lt(b, a), a, b);
#endif
}
LANE_FN vi vi_clamp(vi v, int32_t lo, int32_t hi) { return vi_max(vi_min(v, vi_set1(hi)), vi_set1(lo)); }
LANE_FN vf vf_clamp(vf v, float lo, float hi) { return vf_max(vf_min(v, vf_set1(hi)), vf_set1(lo)); }
LANE_FN vf vf_abs(vf v) { return (vf)((vi)v & 0x7fffffff); }
LANE_FN vf vf_sqrt(vf v) {
#if LANES == 16
    return (vf)_mm512_sqrt_ps((__m512)v);
#elif LANES == 8
    return (vf)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__)
    return (vf)_mm_sqrt_ps((__m128)v);
#else
    for (int i = 0; i < LANES; i++) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}
LANE_FN vf vf_from_vi(vi v) { return __builtin_convertvector(v, vf); }
/* towards zero, as a C cast; the caller keeps |v| < 2^31, because processors disagree beyond */
LANE_FN vi vi_trunc(vf v) {
#if LANES == 16
    return (vi)_mm512_cvttps_epi32((__m512)v);
#elif LANES == 8
    return (vi)_mm256_cvttps_epi32((__m256)v);
#elif defined(__SSE2__)
    return (vi)_mm_cvttps_epi32((__m128)v);
#else
    return __builtin_convertvector(v, vi);
#endif
}

/* Round to nearest, ties to even, by adding 1.5 * 2^23: the integer sits in the low mantissa bits. vi_nearest keeps the
 * bit trick's result for any input, also beyond +-2^22 where it is no longer the rounded value, since ggml's files hold
 * it. vf_nearest is the same value as a float, holds for |v| < 2^22 only, and may be -0.0 at one level and 0.0 at another. */
LANE_FN vi vi_nearest(vf v) { return ((vi)(v + 12582912.0f) & 0x007fffff) - 0x00400000; }
/* The same in one instruction where there is one, for |v| < 2^22 only. */
LANE_FN vi vi_rint(vf v) {
#if LANES == 16
    return (vi)_mm512_cvtps_epi32((__m512)v);
#elif LANES == 8
    return (vi)_mm256_cvtps_epi32((__m256)v);
#elif defined(__SSE2__)
    return (vi)_mm_cvtps_epi32((__m128)v);
#else
    return vi_nearest(v);
#endif
}
LANE_FN vf vf_nearest(vf v) {
#if LANES == 16
    return (vf)_mm512_roundscale_ps((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif LANES == 8
    return (vf)_mm256_round_ps((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    return (v + 12582912.0f) - 12582912.0f;
#endif
}
/* Round to nearest, ties away from zero, as C's roundf, for |v| < 2^23: the largest float below 0.5 is added, because 0.5
 * itself would carry 0.49999997 over to 1. */
LANE_FN vi vi_roundf(vf v) { return vi_trunc(v + (vf)(((vi)v & (int32_t)0x80000000) | 0x3effffff)); }
LANE_FN vf vf_roundf(vf v) { return (vf)((vi)vf_from_vi(vi_roundf(v)) | ((vi)v & (int32_t)0x80000000)); }

/* ---- small codes to values ---- */

/* lane l = element index[l] & 15 of a table of 16 floats */
LANE_FN vf vf_lookup16(const vf *table, vi index) {
#if LANES == 16
    return (vf)_mm512_permutexvar_ps((__m512i)index, (__m512)table[0]);
#elif LANES == 8
    __m256 lo = _mm256_permutevar8x32_ps((__m256)table[0], (__m256i)index);
    __m256 hi = _mm256_permutevar8x32_ps((__m256)table[1], (__m256i)index);
    return (vf)_mm256_blendv_ps(lo, hi, (__m256)(index << 28));
#else
    const float *t = (const float *)table;
    return (vf){t[index[0] & 15], t[index[1] & 15], t[index[2] & 15], t[index[3] & 15]};
#endif
}
/* lane l = element index[l] & 7 of a table of 8 floats, which must be repeated to fill 16 */
LANE_FN vf vf_lookup8(const vf *table, vi index) {
#if LANES == 8
    return (vf)_mm256_permutevar8x32_ps((__m256)table[0], (__m256i)index);
#else
    return vf_lookup16(table, index);
#endif
}
/* lane l = element index[l] & 3 of a table of 4 floats, which must be repeated to fill the vector */
LANE_FN vf vf_lookup4(vf table, vi index) {
#if LANES == 16
    return (vf)_mm512_permutevar_ps((__m512)table, (__m512i)index);
#elif LANES == 8
    return (vf)_mm256_permutevar_ps((__m256)table, (__m256i)index);
#else
    vf even = __builtin_shufflevector(table, table, 0, 0, 0, 0), odd = __builtin_shufflevector(table, table, 1, 1, 1, 1);
    vf even2 = __builtin_shufflevector(table, table, 2, 2, 2, 2), odd2 = __builtin_shufflevector(table, table, 3, 3, 3, 3);
    vi low = (index << 31) >> 31, high = (index << 30) >> 31;
    return vf_select(high, vf_select(low, odd2, even2), vf_select(low, odd, even));
#endif
}
/* lane l = base[index[l]] */
LANE_FN vi vi_gather(const int32_t *base, vi index) {
#if LANES == 16
    return (vi)_mm512_i32gather_epi32((__m512i)index, base, 4);
#elif LANES == 8
    return (vi)_mm256_i32gather_epi32(base, (__m256i)index, 4);
#else
    return (vi){base[index[0]], base[index[1]], base[index[2]], base[index[3]]};
#endif
}
/* v with the sign of lane l flipped where bit l is set; higher bits are ignored */
LANE_FN vf vf_flip(vf v, uint32_t bits) {
#if LANES == 16
    return (vf)_mm512_mask_xor_epi32((__m512i)v, (__mmask16)bits, (__m512i)v, _mm512_set1_epi32((int32_t)0x80000000));
#elif LANES == 8
    __m256i up = _mm256_sllv_epi32(_mm256_set1_epi32((int32_t)bits), _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
    return (vf)((vi)v ^ ((vi)up & (int32_t)0x80000000));
#else
    vi bit = {1, 2, 4, 8};
    return (vf)((vi)v ^ (((vi_set1((int32_t)bits) & bit) == bit) << 31));
#endif
}
/* LANES / 4 runs of four floats */
LANE_FN vf vf_load_fours(const float *const *p) {
#if LANES == 16
    __m256 lo = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[0])), _mm_loadu_ps(p[1]), 1);
    __m256 hi = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[2])), _mm_loadu_ps(p[3]), 1);
    return (vf)_mm512_insertf32x8(_mm512_castps256_ps512(lo), hi, 1);
#elif LANES == 8
    return (vf)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[0])), _mm_loadu_ps(p[1]), 1);
#else
    return vf_load(p[0]);
#endif
}
/* lane l = bits 2 * l and 2 * l + 1; higher bits are ignored */
LANE_FN vi vi_spread2(uint32_t bits) {
    vi v = vi_set1((int32_t)bits);
#if LANES == 16
    return (vi)_mm512_srlv_epi32((__m512i)v, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)) & 3;
#elif LANES == 8
    return (vi)_mm256_srlv_epi32((__m256i)v, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14)) & 3;
#elif defined(__SSE2__)
    /* no shift by lane: isolate the two bits, then multiply them up to bits 6 and 7 */
    __m128i only = _mm_and_si128((__m128i)v, _mm_setr_epi32(3, 12, 48, 192));
    return (vi)_mm_mullo_epi16(only, _mm_setr_epi32(64, 16, 4, 1)) >> 6;
#else
    vi w = {v[0], v[0] >> 2, v[0] >> 4, v[0] >> 6};
    return w & 3;
#endif
}

/* ---- half precision: the low 16 bits of each lane ---- */

LANE_FN vf vf_from_f16(vi h) {
#if LANES == 16
    return (vf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)h));
#elif LANES == 8
    __m256i p = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)(h & 0xffff), (__m256i)(h & 0xffff)), 0x08);
    return (vf)_mm256_cvtph_ps(_mm256_castsi256_si128(p));
#else
    /* exponent and mantissa shifted into place; a subnormal is the mantissa of a number from 0.5 on, minus 0.5. Nothing
     * here multiplies a subnormal float, which takes many times longer on most processors. */
    vi sign = (h & 0x8000) << 16, rest = (h & 0x7fff) << 13;
    vi tiny = (vi)((vf)((h & 0x7fff) | 0x3f000000) - 0.5f);
    vi v = vi_select(vi_lt(h & 0x7fff, vi_set1(0x0400)), tiny, rest + (112 << 23));
    vi top = vi_select(vi_lt(h & 0x7fff, vi_set1(0x7c00)), v, rest | 0x7f800000);
    top = vi_select(vi_lt(vi_set1(0x7c00), h & 0x7fff), top | 0x00400000, top); /* a NaN becomes quiet */
    return (vf)(top | sign);
#endif
}
/* to nearest, ties to even; beyond the range infinity; any NaN becomes a NaN */
LANE_FN vi vi_f16(vf v) {
#if LANES == 16
    return (vi)_mm512_cvtepu16_epi32(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif LANES == 8
    return (vi)_mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    vi bits = (vi)v, sign = vi_shr(bits, 16) & 0x8000, a = bits & 0x7fffffff;
    /* normal: round the 13 bits that go, ties to even, then move the bias from 127 to 15 */
    vi normal = vi_shr(a + 0x0fff + (vi_shr(a, 13) & 1), 13) - ((127 - 15) << 10);
    /* subnormal: adding 0.5 lets the adder shift and round; the mantissa bits are the result */
    vi tiny = (vi)((vf)a + 0.5f) - (vi)vf_set1(0.5f);
    vi h = vi_select(vi_lt(a, vi_set1(113 << 23)), tiny, normal);
    h = vi_select(vi_lt(a, vi_set1(143 << 23)), h, vi_set1(0x7c00));
    h = vi_select(vi_lt(vi_set1(0x7f800000), a), vi_set1(0x7e00), h);
    return h | sign;
#endif
}

/* LANES consecutive halves at any alignment; one half to every lane; and back */
LANE_FN vf vf_load_f16(const uint8_t *p) {
#if LANES == 16
    __m256i h; memcpy(&h, p, 32); return (vf)_mm512_cvtph_ps(h);
#elif LANES == 8
    __m128i h; memcpy(&h, p, 16); return (vf)_mm256_cvtph_ps(h);
#else
    return vf_from_f16(vi_load_u16((const uint16_t *)p));
#endif
}
LANE_FN vf vf_set1_f16(const uint8_t *p) {
    uint16_t h; memcpy(&h, p, 2);
#if LANES == 16
    return (vf)_mm512_cvtph_ps(_mm256_set1_epi16((int16_t)h));
#elif LANES == 8
    return (vf)_mm256_cvtph_ps(_mm_set1_epi16((int16_t)h));
#else
    int32_t a = h & 0x7fff, sign = (int32_t)((uint32_t)(h & 0x8000) << 16);
    if (a < 0x0400 || a >= 0x7c00) return vf_from_f16(vi_set1(h));
    return (vf)vi_set1(((a << 13) + (112 << 23)) | sign);
#endif
}
LANE_FN void vf_store_f16(uint8_t *p, vf v) {
#if LANES == 16
    __m256i h = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); memcpy(p, &h, 32);
#elif LANES == 8
    __m128i h = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); memcpy(p, &h, 16);
#else
    vi_store_i16(p, (vi_f16(v) << 16) >> 16);
#endif
}

/* ---- between memory order and lane order ---- */

/* out[j] lane l = in[l] element j, for LANES vectors: a square transpose. in and out may be the same. */
LANE_FN void vi_transpose(vi *out, const vi *in) {
#if LANES == 16
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32((__m512i)in[i], (__m512i)in[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32((__m512i)in[i], (__m512i)in[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            b[i + 2 * k] = _mm512_unpacklo_epi64(a[i + k], a[i + k + 2]);
            b[i + 2 * k + 1] = _mm512_unpackhi_epi64(a[i + k], a[i + k + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int k = 0; k < 4; k++) {
            a[i + k] = _mm512_shuffle_i32x4(b[i + k], b[i + k + 4], 0x88);
            a[i + k + 4] = _mm512_shuffle_i32x4(b[i + k], b[i + k + 4], 0xdd);
        }
    for (int k = 0; k < 4; k++) {
        out[k] = (vi)_mm512_shuffle_i32x4(a[k], a[k + 8], 0x88);
        out[k + 8] = (vi)_mm512_shuffle_i32x4(a[k], a[k + 8], 0xdd);
        out[k + 4] = (vi)_mm512_shuffle_i32x4(a[k + 4], a[k + 12], 0x88);
        out[k + 12] = (vi)_mm512_shuffle_i32x4(a[k + 4], a[k + 12], 0xdd);
    }
#elif LANES == 8
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32((__m256i)in[i], (__m256i)in[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32((__m256i)in[i], (__m256i)in[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            b[i + 2 * k] = _mm256_unpacklo_epi64(a[i + k], a[i + k + 2]);
            b[i + 2 * k + 1] = _mm256_unpackhi_epi64(a[i + k], a[i + k + 2]);
        }
    for (int k = 0; k < 4; k++) {
        out[k] = (vi)_mm256_permute2x128_si256(b[k], b[k + 4], 0x20);
        out[k + 4] = (vi)_mm256_permute2x128_si256(b[k], b[k + 4], 0x31);
    }
#else
    vi a = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5), b = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7);
    vi c = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5), d = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
    out[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    out[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    out[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    out[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
#endif
}

/* lane l = the largest (smallest) element of rows[l], for LANES vectors: half the elements go at each step of a transpose */
LANE_FN vf lanes_extreme_(const vf *rows, int largest) {
#define EXTREME_(a, b) (largest ? vf_max((vf)(a), (vf)(b)) : vf_min((vf)(a), (vf)(b)))
    vf a[LANES / 2], b[LANES / 4];
#if LANES == 16
    vf c[2];
    for (int i = 0; i < 8; i++)
        a[i] = EXTREME_(_mm512_unpacklo_ps((__m512)rows[2 * i], (__m512)rows[2 * i + 1]),
                        _mm512_unpackhi_ps((__m512)rows[2 * i], (__m512)rows[2 * i + 1]));
    for (int i = 0; i < 4; i++)
        b[i] = EXTREME_(_mm512_unpacklo_pd((__m512d)a[2 * i], (__m512d)a[2 * i + 1]),
                        _mm512_unpackhi_pd((__m512d)a[2 * i], (__m512d)a[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        c[i] = EXTREME_(_mm512_shuffle_f32x4((__m512)b[2 * i], (__m512)b[2 * i + 1], 0x88),
                        _mm512_shuffle_f32x4((__m512)b[2 * i], (__m512)b[2 * i + 1], 0xdd));
    return EXTREME_(_mm512_shuffle_f32x4((__m512)c[0], (__m512)c[1], 0x88),
                    _mm512_shuffle_f32x4((__m512)c[0], (__m512)c[1], 0xdd));
#elif LANES == 8
    for (int i = 0; i < 4; i++)
        a[i] = EXTREME_(_mm256_unpacklo_ps((__m256)rows[2 * i], (__m256)rows[2 * i + 1]),
                        _mm256_unpackhi_ps((__m256)rows[2 * i], (__m256)rows[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        b[i] = EXTREME_(_mm256_unpacklo_pd((__m256d)a[2 * i], (__m256d)a[2 * i + 1]),
                        _mm256_unpackhi_pd((__m256d)a[2 * i], (__m256d)a[2 * i + 1]));
    return EXTREME_(_mm256_permute2f128_ps((__m256)b[0], (__m256)b[1], 0x20),
                    _mm256_permute2f128_ps((__m256)b[0], (__m256)b[1], 0x31));
#else
    for (int i = 0; i < 2; i++)
        a[i] = EXTREME_(__builtin_shufflevector(rows[2 * i], rows[2 * i + 1], 0, 4, 1, 5),
                        __builtin_shufflevector(rows[2 * i], rows[2 * i + 1], 2, 6, 3, 7));
    b[0] = EXTREME_(__builtin_shufflevector(a[0], a[1], 0, 1, 4, 5), __builtin_shufflevector(a[0], a[1], 2, 3, 6, 7));
    return b[0];
#endif
#undef EXTREME_
}
LANE_FN vf lanes_max(const vf *rows) { return lanes_extreme_(rows, 1); }
LANE_FN vf lanes_min(const vf *rows) { return lanes_extreme_(rows, 0); }

LANE_FN float vf_reduce_max(vf v) { /* the largest element */
#if LANES == 16
    return _mm512_reduce_max_ps((__m512)v);
#else
#if LANES == 8
    v = vf_max(v, (vf)_mm256_permute2f128_ps((__m256)v, (__m256)v, 0x01));
    v = vf_max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
    v = vf_max(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
#else
    v = vf_max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
    v = vf_max(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
#endif
    return v[0];
#endif
}

LANE_FN float vf_reduce_min(vf v) { /* the smallest element */
#if LANES == 16
    v = vf_min(v, (vf)_mm512_shuffle_f32x4((__m512)v, (__m512)v, 0x4e));
    v = vf_min(v, (vf)_mm512_shuffle_f32x4((__m512)v, (__m512)v, 0xb1));
    v = vf_min(v, (vf)_mm512_permute_ps((__m512)v, 0x4e));
    v = vf_min(v, (vf)_mm512_permute_ps((__m512)v, 0xb1));
#elif LANES == 8
    v = vf_min(v, (vf)_mm256_permute2f128_ps((__m256)v, (__m256)v, 0x01));
    v = vf_min(v, (vf)_mm256_permute_ps((__m256)v, 0x4e));
    v = vf_min(v, (vf)_mm256_permute_ps((__m256)v, 0xb1));
#else
    v = vf_min(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
    v = vf_min(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
#endif
    return v[0];
}
LANE_FN void prefetch(const void *p) { __builtin_prefetch(p); }
LANE_FN int lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); } /* of vm_bits: the first lane; bits is not 0 */

/* out[j] lane l = src[l][offset + j] for j < n; n is a multiple of 16. */
LANE_FN void lanes_load(vf *out, const float *const *src, intptr_t offset, int n) {
    for (int j = 0; j < n; j += LANES) {
        vi rows[LANES];
        for (int l = 0; l < LANES; l++) rows[l] = (vi)vf_load(src[l] + offset + j);
        vi_transpose((vi *)out + j, rows);
    }
}

/* The reverse, to the bytes from dst[l] + 4 * offset on, for the first `live` lanes. */
LANE_FN void lanes_store(uint8_t *const *dst, intptr_t offset, const vf *in, int n, int live) {
    for (int j = 0; j < n; j += LANES) {
        vi rows[LANES];
        vi_transpose(rows, (const vi *)in + j);
        for (int l = 0; l < live; l++) vi_store((int32_t *)(dst[l] + 4 * (offset + j)), rows[l]);
    }
}

/* Four words of each lane side by side: the s-th 16 bytes of quads[k] are lane 4 * s + k. */
LANE_FN void lanes_quads_(vi *quads, const vi *w) {
#if LANES == 16
    __m512i a = _mm512_unpacklo_epi32((__m512i)w[0], (__m512i)w[1]), b = _mm512_unpackhi_epi32((__m512i)w[0], (__m512i)w[1]);
    __m512i c = _mm512_unpacklo_epi32((__m512i)w[2], (__m512i)w[3]), d = _mm512_unpackhi_epi32((__m512i)w[2], (__m512i)w[3]);
    quads[0] = (vi)_mm512_unpacklo_epi64(a, c), quads[1] = (vi)_mm512_unpackhi_epi64(a, c);
    quads[2] = (vi)_mm512_unpacklo_epi64(b, d), quads[3] = (vi)_mm512_unpackhi_epi64(b, d);
#elif LANES == 8
    __m256i a = _mm256_unpacklo_epi32((__m256i)w[0], (__m256i)w[1]), b = _mm256_unpackhi_epi32((__m256i)w[0], (__m256i)w[1]);
    __m256i c = _mm256_unpacklo_epi32((__m256i)w[2], (__m256i)w[3]), d = _mm256_unpackhi_epi32((__m256i)w[2], (__m256i)w[3]);
    quads[0] = (vi)_mm256_unpacklo_epi64(a, c), quads[1] = (vi)_mm256_unpackhi_epi64(a, c);
    quads[2] = (vi)_mm256_unpacklo_epi64(b, d), quads[3] = (vi)_mm256_unpackhi_epi64(b, d);
#else
    vi_transpose(quads, w);
#endif
}

/* One lane, opaque to the compiler: it would turn a loop of stores into scatter instructions, which are slower. */
LANE_FN int32_t lane_word_(vi v, int l) {
    int32_t w = v[l];
    __asm__("" : "+r"(w));
    return w;
}

/* 4 * n bytes to each of the first `live` lanes: dst[l] + offset receives lane l of words[0], words[1] ... */
LANE_FN void lanes_store_words(uint8_t *const *dst, intptr_t offset, const vi *words, int n, int live) {
    int j = 0;
    for (; j + LANES <= n; j += LANES) {
        vi rows[LANES];
        vi_transpose(rows, words + j);
        for (int l = 0; l < live; l++) vi_store((int32_t *)(dst[l] + offset + 4 * j), rows[l]);
    }
    for (; j + 4 <= n; j += 4) {
        vi quads[4];
        lanes_quads_(quads, words + j);
        for (int l = 0; l < live; l++) memcpy(dst[l] + offset + 4 * j, (const char *)&quads[l % 4] + 16 * (l / 4), 16);
    }
    for (; j < n; j++)
        for (int l = 0; l < live; l++) {
            int32_t w = lane_word_(words[j], l);
            memcpy(dst[l] + offset + 4 * j, &w, 4);
        }
}

/* n bytes to each live lane from n vectors whose lanes hold 0..255; n is a multiple of 4, at most 256. */
LANE_FN void lanes_store_bytes(uint8_t *const *dst, intptr_t offset, const vi *bytes, int n, int live) {
    vi words[64];
    for (int j = 0; j < n / 4; j++)
        words[j] = bytes[4 * j] | (bytes[4 * j + 1] << 8) | (bytes[4 * j + 2] << 16) | (bytes[4 * j + 3] << 24);
    lanes_store_words(dst, offset, words, n / 4, live);
}

/* the low 16 bits of each live lane to dst[l] + offset, little-endian */
LANE_FN void lanes_store_u16(uint8_t *const *dst, intptr_t offset, vi v, int live) {
    for (int l = 0; l < live; l++) {
        uint16_t h = (uint16_t)v[l];
        memcpy(dst[l] + offset, &h, 2);
    }
}

#endif
