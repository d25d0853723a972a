/* Vector lanes. Encoders put one block into each lane, so every lane does the operations of ggml's scalar reference in the
 * order of the reference. docs/lanes.md explains the idea with an example. lanes.pxd declares all this to Cython, which takes
 * the vector types for scalars.
 *
 *   vf  LANES floats            + - * / and unary minus work lane by lane; a float operand is broadcast
 *   vi  LANES int32             + - * & | ^ << >> likewise (>> keeps the sign)
 *   vm  LANES booleans          the result of a comparison, the condition of a select
 *
 * LANES is 16 with AVX-512, 8 with AVX2, else 4. No operation here contracts, reassociates or approximates.
 * QUANTREG_NEON, which the build files define at the level `neon`, adds arm64's own instructions. */
#ifndef QUANTREG_LANES_H
#define QUANTREG_LANES_H

#include <stdint.h>
#include <string.h>

#include "quantreg_kernels/platform.h"

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
#elif defined(QUANTREG_NEON)
#include <arm_neon.h>
#endif
#endif

/* Whether the CPU level has an instruction that looks up a table lane by lane */
#if LANES > 4 || defined(QUANTREG_NEON)
#define HAS_LOOKUP 1
#else
#define HAS_LOOKUP 0
#endif

#define LANE_FN static inline __attribute__((always_inline))

/* may_alias: codecs read the same memory as floats and as integers */
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

/* Lanes 1 and up of a, then lane 0 of b. */
LANE_FN vi vi_next(vi a, vi b) {
#if LANES == 16
    return (vi)_mm512_alignr_epi32((__m512i)b, (__m512i)a, 1);
#elif LANES == 8
    return __builtin_shufflevector(a, b, 1, 2, 3, 4, 5, 6, 7, 8);
#else
    return __builtin_shufflevector(a, b, 1, 2, 3, 4);
#endif
}

#include "quantreg_kernels/lanes_bytes.h"

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
#elif defined(QUANTREG_NEON)
LANE_FN unsigned vm_bits(vm m) { return vaddvq_u32((uint32x4_t)(m & (vi){1, 2, 4, 8})); }
#else
LANE_FN unsigned vm_bits(vm m) { return (m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8); }
#endif
#endif
#endif
LANE_FN vm vm_from_bits(unsigned bits) { /* undoes vm_bits; higher bits are ignored */
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
#if defined(QUANTREG_NEON) /* 16 bits of each lane fit into an ordinary register */
LANE_FN int vm_any(vm m) { return vget_lane_u64((uint64x1_t)vmovn_u32((uint32x4_t)m), 0) != 0; }
LANE_FN int vm_all(vm m) { return vget_lane_u64((uint64x1_t)vmovn_u32((uint32x4_t)m), 0) == UINT64_MAX; }
#else
LANE_FN int vm_any(vm m) { return vm_bits(m) != 0; }
LANE_FN int vm_all(vm m) { return vm_bits(m) == (1u << LANES) - 1; }
#endif
LANE_FN vm vm_first(int n) { /* the first n lanes */
    vi index;
    for (int i = 0; i < LANES; i++) index[i] = i;
    return vi_lt(index, vi_set1(n));
}

/* ---- arithmetic ---- */

/* a < b ? a : b, and a > b ? a : b. If either is a NaN the result is b, as in the scalar expression. NEON's fmin and fmax
 * would give the NaN. */
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
#elif defined(QUANTREG_NEON)
    return (vi)vminq_s32((int32x4_t)a, (int32x4_t)b);
#else
    return vi_select(vi_lt(a, b), a, b);
#endif
}
LANE_FN vi vi_max(vi a, vi b) {
#if LANES == 16
    return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif LANES == 8
    return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#elif defined(QUANTREG_NEON)
    return (vi)vmaxq_s32((int32x4_t)a, (int32x4_t)b);
#else
    return vi_select(vi_lt(b, a), a, b);
#endif
}
LANE_FN vi vi_clamp(vi v, int32_t lo, int32_t hi) { return vi_max(vi_min(v, vi_set1(hi)), vi_set1(lo)); }
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
/* Round towards zero, as a C cast does. The caller keeps |v| < 2^31, because processors differ beyond. */
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

/* Round to nearest, ties to even. ggml does it with a bit trick: after adding 1.5 * 2^23 the integer is in the low bits of the
 * mantissa. Beyond +-2^22 the result is not the rounded value, but files hold it, so vi_nearest gives it for every input. */
LANE_FN vi vi_nearest(vf v) { return ((vi)(v + 12582912.0f) & 0x007fffff) - 0x00400000; }
/* The same for |v| < 2^22 only, in one instruction where the CPU level has one. */
LANE_FN vi vi_rint(vf v) {
#if LANES == 16
    return (vi)_mm512_cvtps_epi32((__m512)v);
#elif LANES == 8
    return (vi)_mm256_cvtps_epi32((__m256)v);
#elif defined(__SSE2__)
    return (vi)_mm_cvtps_epi32((__m128)v);
#elif defined(QUANTREG_NEON)
    return (vi)vcvtnq_s32_f32((float32x4_t)v);
#else
    return vi_nearest(v);
#endif
}
/* The same as a float, for |v| < 2^22 only. Zero may be -0.0 at one CPU level and 0.0 at another. */
LANE_FN vf vf_nearest(vf v) {
#if LANES == 16
    return (vf)_mm512_roundscale_ps((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif LANES == 8
    return (vf)_mm256_round_ps((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(QUANTREG_NEON)
    return (vf)vrndnq_f32((float32x4_t)v);
#else
    return (v + 12582912.0f) - 12582912.0f;
#endif
}
/* Round to nearest, ties away from zero, as C's roundf does, for |v| < 2^23. This adds the largest float below 0.5 and
 * truncates: adding 0.5 itself would round 0.49999997 up to 1. */
LANE_FN vi vi_roundf(vf v) {
#if defined(QUANTREG_NEON)
    return (vi)vcvtaq_s32_f32((float32x4_t)v);
#else
    return vi_trunc(v + (vf)(((vi)v & (int32_t)0x80000000) | 0x3effffff));
#endif
}

#include "quantreg_kernels/lanes_values.h"
#include "quantreg_kernels/lanes_order.h"

#endif
