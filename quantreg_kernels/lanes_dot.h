/* Vector lanes for products with activations: dot.pxd declares them. Products may differ in their last bits between CPU levels,
 * so vf_fma and vf_sum may fuse and add in any order. Encoders and decoders must not use them. */
#ifndef QUANTREG_LANES_DOT_H
#define QUANTREG_LANES_DOT_H

#include "quantreg_kernels/lanes.h"

/* a * b + c: rounded once where the CPU level has an instruction for it, else twice. */
LANE_FN vf vf_fma(vf a, vf b, vf c) {
#if LANES == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LANES == 8 && defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(QUANTREG_NEON)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}
/* The sum of all lanes. */
LANE_FN float vf_sum(vf v) {
#if LANES == 16
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
#elif LANES == 8
    __m128 b = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
#endif
#if defined(QUANTREG_NEON)
    return vaddvq_f32((float32x4_t)v);
#elif LANES == 4
    return (v[0] + v[2]) + (v[1] + v[3]);
#else
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
#endif
}

/* 64 bytes, for taking bit fields out of all of them at once, as vb holds 16. & | ^ work on 32-bit words. */
typedef uint32_t vq __attribute__((vector_size(64), may_alias));
LANE_FN vq vq_load(const uint8_t *p) { vq v; memcpy(&v, p, 64); return v; }
LANE_FN vq vq_load_twice(const uint8_t *p) { /* 32 bytes, then the same 32 bytes again */
    vq v;
#if LANES == 16
    __m256i half; memcpy(&half, p, 32); v = (vq)_mm512_broadcast_i64x4(half);
#else
    memcpy(&v, p, 32); memcpy((char *)&v + 32, p, 32);
#endif
    return v;
}
/* Shift the words of the first 32 bytes right by `first` and those of the others by `second`; left if it is negative. Bits
 * move from byte to byte, so mask them. */
LANE_FN vq vq_shift(vq v, int first, int second) {
#if LANES == 16
    if (first >= 0 && second >= 0)
        return (vq)_mm512_srlv_epi32((__m512i)v, _mm512_inserti64x4(_mm512_set1_epi32(first), _mm256_set1_epi32(second), 1));
    return (vq)_mm512_sllv_epi32((__m512i)v, _mm512_inserti64x4(_mm512_set1_epi32(-first), _mm256_set1_epi32(-second), 1));
#else
    vq a = first >= 0 ? v >> first : v << -first, b = second >= 0 ? v >> second : v << -second;
    memcpy((char *)&a + 32, (const char *)&b + 32, 32);
    return a;
#endif
}
/* The bits of a in every byte where `mask` has ones, and those of b elsewhere. */
LANE_FN vq vq_merge(uint8_t mask, vq a, vq b) {
#if LANES == 16
    return (vq)_mm512_ternarylogic_epi32(_mm512_set1_epi8((char)mask), (__m512i)a, (__m512i)b, 0xca);
#else
    uint32_t m = mask * 0x01010101u;
    return (a & m) | (b & ~m);
#endif
}
LANE_FN vq vq_and(vq a, uint8_t mask) { return a & (uint32_t)(mask * 0x01010101u); }

/* Vector i of 64 / LANES: its bytes as floats 0..255. */
LANE_FN vf vf_from_vq(vq v, int i) {
#if LANES == 16
    const __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return (vf)_mm512_cvtepi32_ps(_mm512_maskz_permutexvar_epi8(0x1111111111111111,
        _mm512_add_epi32(index, _mm512_set1_epi32(16 * i)), (__m512i)v));
#else
    uint8_t bytes[64];
    memcpy(bytes, &v, 64);
    return vf_from_vi(vi_load_u8(bytes + LANES * i));
#endif
}
/* The same for bytes of 0..127, as floats 2 + byte / 64. This spares an instruction where vf_fma is exact. */
LANE_FN vf vf_near_two(vq v, int i) {
#if LANES == 16
    const __m512i index = _mm512_setr_epi32(0x000000, 0x010000, 0x020000, 0x030000, 0x040000, 0x050000, 0x060000, 0x070000,
        0x080000, 0x090000, 0x0a0000, 0x0b0000, 0x0c0000, 0x0d0000, 0x0e0000, 0x0f0000);
    return (vf)_mm512_mask_permutexvar_epi8(_mm512_set1_epi32(0x40000000), 0x4444444444444444,
        _mm512_add_epi32(index, _mm512_set1_epi32(0x100000 * i)), (__m512i)v);
#elif defined(QUANTREG_NEON)
    uint8_t bytes[64];
    memcpy(bytes, &v, 64);
    return (vf)((vi_load_u8(bytes + LANES * i) << 16) | 0x40000000);
#else
    return vf_from_vq(v, i) * 0.015625f + 2.0f;
#endif
}
/* Lane l: bits 4 * (l % 8) to 4 * (l % 8) + 3, as 0..15. */
LANE_FN vi vi_spread4(uint32_t bits) {
#if LANES == 16
    return (vi)_mm512_srlv_epi32(_mm512_set1_epi32((int32_t)bits),
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28)) & 15;
#else
    vi v;
    for (int l = 0; l < LANES; l++) v[l] = bits >> 4 * (l % 8) & 15;
    return v;
#endif
}

/* Lane l: the four bytes of the 16 at p whose numbers are the bytes of where[l], from the low one up. 0x80 gives a zero. */
LANE_FN vi vi_pick(const uint8_t *p, vi where) {
#if LANES == 16
    __m128i b; memcpy(&b, p, 16);
    return (vi)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(b), (__m512i)where);
#elif defined(QUANTREG_NEON)
    return (vi)vqtbl1q_u8(vld1q_u8(p), (uint8x16_t)where);
#else
    vi v;
    for (int l = 0; l < LANES; l++) {
        uint32_t w = (uint32_t)where[l], found = 0;
        for (int i = 0; i < 4; i++)
            if (!(w >> 8 * i & 0x80)) found |= (uint32_t)p[w >> 8 * i & 15] << 8 * i;
        v[l] = (int32_t)found;
    }
    return v;
#endif
}
LANE_FN vi vi_shr_each(vi v, vi n) { return (vi)((vu_)v >> (vu_)n); } /* logical, by 0 to 31 bits */
/* The float16 at p in the first half of the lanes, the one behind it in the others. Reads 8 bytes. */
LANE_FN vf vf_pair_f16(const uint8_t *p) {
#if LANES == 16
    int64_t b; memcpy(&b, p, 8);
    __m512 pair = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi64_si128(b)));
    return (vf)_mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), pair);
#else
    vf a = vf_set1_f16(p), b = vf_set1_f16(p + 2);
    return vf_select(vm_first(LANES / 2), a, b);
#endif
}

/* Hide from the compiler what was stored at p. It would otherwise take single floats out of the register that they came from,
 * with shuffles, and these are what the products are short of. A load into all lanes costs nothing. */
LANE_FN void keep_stored(void *p) { __asm__ volatile("" : : "r"(p) : "memory"); }

#endif
