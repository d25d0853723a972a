/* Part of lanes.h, which includes it: small integers in memory, as vectors of 32-bit integers. */
#ifndef QUANTREG_LANES_BYTES_H
#define QUANTREG_LANES_BYTES_H

/* Load LANES consecutive small integers and widen them. */
LANE_FN vi vi_load_u8(const uint8_t *p) {
#if LANES == 16
    __m128i b; memcpy(&b, p, 16); return (vi)_mm512_cvtepu8_epi32(b);
#elif LANES == 8
    int64_t b; memcpy(&b, p, 8); return (vi)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(b));
#elif defined(__SSE2__)
    int32_t b; memcpy(&b, p, 4);
    return (vi)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(b), _mm_setzero_si128()), _mm_setzero_si128());
#elif defined(QUANTREG_NEON) && !defined(__clang__) /* Clang finds the best instructions itself */
    uint32_t b; memcpy(&b, p, 4); return (vi)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(b))));
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
    __m128i w = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_cvtsi32_si128(b)); /* each byte as an upper half: b * 256 */
    return (vi)_mm_unpacklo_epi16(_mm_setzero_si128(), w) >> 24;
#elif defined(QUANTREG_NEON) && !defined(__clang__) /* Clang finds the best instructions itself */
    uint32_t b; memcpy(&b, p, 4); return (vi)vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(b))));
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

/* Load 16 signed bytes into 16 / LANES vectors. */
LANE_FN void vi_load_i8x16(vi *v, const uint8_t *p) {
#if LANES == 4 && defined(__SSE2__)
    __m128i b; memcpy(&b, p, 16);
    __m128i z = _mm_setzero_si128(), lo = _mm_unpacklo_epi8(z, b), hi = _mm_unpackhi_epi8(z, b);
    v[0] = (vi)_mm_unpacklo_epi16(z, lo) >> 24;
    v[1] = (vi)_mm_unpackhi_epi16(z, lo) >> 24;
    v[2] = (vi)_mm_unpacklo_epi16(z, hi) >> 24;
    v[3] = (vi)_mm_unpackhi_epi16(z, hi) >> 24;
#elif defined(QUANTREG_NEON)
    int8x16_t b; memcpy(&b, p, 16);
    int16x8_t lo = vmovl_s8(vget_low_s8(b)), hi = vmovl_high_s8(b);
    v[0] = (vi)vmovl_s16(vget_low_s16(lo)), v[1] = (vi)vmovl_high_s16(lo);
    v[2] = (vi)vmovl_s16(vget_low_s16(hi)), v[3] = (vi)vmovl_high_s16(hi);
#else
    for (int i = 0; i < 16 / LANES; i++) v[i] = vi_load_i8((const int8_t *)p + LANES * i);
#endif
}
/* Store 16 integers of 0..255 (u8) or -128..127 (i8), in 16 / LANES vectors, as 16 bytes. */
LANE_FN void vi_store_u8x16(uint8_t *p, const vi *v) {
#if LANES == 16
    __m128i b = _mm512_cvtepi32_epi8((__m512i)v[0]); memcpy(p, &b, 16);
#elif LANES == 8
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)v[0], (__m256i)v[1]), 0xd8);
    __m128i b = _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)); memcpy(p, &b, 16);
#elif defined(__SSE2__)
    __m128i w = _mm_packs_epi32((__m128i)v[0], (__m128i)v[1]), x = _mm_packs_epi32((__m128i)v[2], (__m128i)v[3]);
    __m128i b = _mm_packus_epi16(w, x); memcpy(p, &b, 16);
#elif defined(QUANTREG_NEON) /* the even bytes of the even halves are the low bytes */
    uint16x8_t w = vuzp1q_u16((uint16x8_t)v[0], (uint16x8_t)v[1]), x = vuzp1q_u16((uint16x8_t)v[2], (uint16x8_t)v[3]);
    uint8x16_t b = vuzp1q_u8((uint8x16_t)w, (uint8x16_t)x); memcpy(p, &b, 16);
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
/* Store LANES integers of -32768..32767 as 2 * LANES bytes. */
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

/* 16 bytes, for taking bit fields out of all of them at once. & | << >> work on four 32-bit words, so mask after a shift.
 * vi_from_vb widens the bytes to 16 / LANES vectors of 0..255. */
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
#elif defined(QUANTREG_NEON)
    uint16x8_t lo = vmovl_u8(vget_low_u8((uint8x16_t)b)), hi = vmovl_high_u8((uint8x16_t)b);
    v[0] = (vi)vmovl_u16(vget_low_u16(lo)), v[1] = (vi)vmovl_high_u16(lo);
    v[2] = (vi)vmovl_u16(vget_low_u16(hi)), v[3] = (vi)vmovl_high_u16(hi);
#else
    uint8_t p[16]; memcpy(p, &b, 16);
    for (int i = 0; i < 16; i++) v[i / LANES][i % LANES] = p[i];
#endif
}

#endif
