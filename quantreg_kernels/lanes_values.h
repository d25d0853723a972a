/* Part of lanes.h, which includes it: table look-ups, signs and half precision. */
#ifndef QUANTREG_LANES_VALUES_H
#define QUANTREG_LANES_VALUES_H

/* ---- small codes to values ---- */

#if defined(QUANTREG_NEON)
/* The numbers of the four bytes of element index[l], for tbl. */
LANE_FN uint8x16_t lanes_bytes_(vi index) { return (uint8x16_t)(index * 0x04040404 + 0x03020100); }
#endif
/* Lane l: element index[l] & 15 of a table of 16 floats. */
LANE_FN vf vf_lookup16(const vf *table, vi index) {
#if LANES == 16
    return (vf)_mm512_permutexvar_ps((__m512i)index, (__m512)table[0]);
#elif LANES == 8
    __m256 lo = _mm256_permutevar8x32_ps((__m256)table[0], (__m256i)index);
    __m256 hi = _mm256_permutevar8x32_ps((__m256)table[1], (__m256i)index);
    return (vf)_mm256_blendv_ps(lo, hi, (__m256)(index << 28));
#elif defined(QUANTREG_NEON)
    return (vf)vqtbl4q_u8(vld1q_u8_x4((const uint8_t *)table), lanes_bytes_(index & 15));
#else
    const float *t = (const float *)table;
    return (vf){t[index[0] & 15], t[index[1] & 15], t[index[2] & 15], t[index[3] & 15]};
#endif
}
/* Lane l: element index[l] & 7 of a table of 8 floats, which must be stored twice to fill 16. */
LANE_FN vf vf_lookup8(const vf *table, vi index) {
#if LANES == 8
    return (vf)_mm256_permutevar8x32_ps((__m256)table[0], (__m256i)index);
#elif defined(QUANTREG_NEON)
    return (vf)vqtbl2q_u8(vld1q_u8_x2((const uint8_t *)table), lanes_bytes_(index & 7));
#else
    return vf_lookup16(table, index);
#endif
}
/* Lane l: element index[l] & 3 of a table of 4 floats, which must be repeated to fill the vector. */
LANE_FN vf vf_lookup4(vf table, vi index) {
#if LANES == 16
    return (vf)_mm512_permutevar_ps((__m512)table, (__m512i)index);
#elif LANES == 8
    return (vf)_mm256_permutevar_ps((__m256)table, (__m256i)index);
#elif defined(QUANTREG_NEON)
    return (vf)vqtbl1q_u8((uint8x16_t)table, lanes_bytes_(index & 3));
#else
    vf even = __builtin_shufflevector(table, table, 0, 0, 0, 0), odd = __builtin_shufflevector(table, table, 1, 1, 1, 1);
    vf even2 = __builtin_shufflevector(table, table, 2, 2, 2, 2), odd2 = __builtin_shufflevector(table, table, 3, 3, 3, 3);
    vi low = (index << 31) >> 31, high = (index << 30) >> 31;
    return vf_select(high, vf_select(low, odd2, even2), vf_select(low, odd, even));
#endif
}
/* Lane l: base[index[l]]. */
LANE_FN vi vi_gather(const int32_t *base, vi index) {
#if LANES == 16
    return (vi)_mm512_i32gather_epi32((__m512i)index, base, 4);
#elif LANES == 8
    return (vi)_mm256_i32gather_epi32(base, (__m256i)index, 4);
#else
    return (vi){base[index[0]], base[index[1]], base[index[2]], base[index[3]]};
#endif
}
#if defined(QUANTREG_NEON)
#define SIGNS_(b) {(b) << 31, (b) >> 1 << 31, (b) >> 2 << 31, (b) >> 3 << 31}
static const uint32_t lanes_signs_[16][4] = {
    SIGNS_(0u), SIGNS_(1u), SIGNS_(2u), SIGNS_(3u), SIGNS_(4u), SIGNS_(5u), SIGNS_(6u), SIGNS_(7u),
    SIGNS_(8u), SIGNS_(9u), SIGNS_(10u), SIGNS_(11u), SIGNS_(12u), SIGNS_(13u), SIGNS_(14u), SIGNS_(15u)};
#undef SIGNS_
#endif
/* v, with the sign of lane l flipped if bit l is set. Higher bits are ignored. */
LANE_FN vf vf_flip(vf v, uint32_t bits) {
#if LANES == 16
    return (vf)_mm512_mask_xor_epi32((__m512i)v, (__mmask16)bits, (__m512i)v, _mm512_set1_epi32((int32_t)0x80000000));
#elif LANES == 8
    __m256i up = _mm256_sllv_epi32(_mm256_set1_epi32((int32_t)bits), _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
    return (vf)((vi)v ^ ((vi)up & (int32_t)0x80000000));
#elif defined(QUANTREG_NEON)
    return (vf)((vi)v ^ vi_load((const int32_t *)lanes_signs_[bits & 15]));
#else
    vi bit = {1, 2, 4, 8};
    return (vf)((vi)v ^ (((vi_set1((int32_t)bits) & bit) == bit) << 31));
#endif
}
/* Load LANES / 4 times four consecutive floats, from p[0], p[1] ... */
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
/* Lane l: bits 2 * l and 2 * l + 1, as 0..3. Higher bits are ignored. */
LANE_FN vi vi_spread2(uint32_t bits) {
    vi v = vi_set1((int32_t)bits);
#if LANES == 16
    return (vi)_mm512_srlv_epi32((__m512i)v, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)) & 3;
#elif LANES == 8
    return (vi)_mm256_srlv_epi32((__m256i)v, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14)) & 3;
#elif defined(__SSE2__)
    /* SSE2 cannot shift each lane by its own amount: isolate the two bits, then multiply them up to bits 6 and 7 */
    __m128i only = _mm_and_si128((__m128i)v, _mm_setr_epi32(3, 12, 48, 192));
    return (vi)_mm_mullo_epi16(only, _mm_setr_epi32(64, 16, 4, 1)) >> 6;
#elif defined(QUANTREG_NEON)
    return (vi)vshlq_u32((uint32x4_t)v, (int32x4_t){0, -2, -4, -6}) & 3;
#else
    vi w = {v[0], v[0] >> 2, v[0] >> 4, v[0] >> 6};
    return w & 3;
#endif
}

/* ---- half precision: float16 bits in the low 16 bits of each lane ---- */

LANE_FN vf vf_from_f16(vi h) {
#if LANES == 16
    return (vf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)h));
#elif LANES == 8
    __m256i p = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)(h & 0xffff), (__m256i)(h & 0xffff)), 0x08);
    return (vf)_mm256_cvtph_ps(_mm256_castsi256_si128(p));
#elif defined(QUANTREG_NEON)
    return (vf)vcvt_f32_f16((float16x4_t)vmovn_u32((uint32x4_t)h));
#else
    /* Shift exponent and mantissa into place. For a subnormal, put its bits into the mantissa of 0.5 and subtract 0.5. To
     * multiply a subnormal float instead would take many times longer on most processors. */
    vi sign = (h & 0x8000) << 16, rest = (h & 0x7fff) << 13;
    vi tiny = (vi)((vf)((h & 0x7fff) | 0x3f000000) - 0.5f);
    vi v = vi_select(vi_lt(h & 0x7fff, vi_set1(0x0400)), tiny, rest + (112 << 23));
    vi top = vi_select(vi_lt(h & 0x7fff, vi_set1(0x7c00)), v, rest | 0x7f800000);
    top = vi_select(vi_lt(vi_set1(0x7c00), h & 0x7fff), top | 0x00400000, top); /* a NaN becomes quiet */
    return (vf)(top | sign);
#endif
}
/* Round to nearest, ties to even. Beyond the range the result is infinity, and any NaN becomes a NaN. */
LANE_FN vi vi_f16(vf v) {
#if LANES == 16
    return (vi)_mm512_cvtepu16_epi32(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif LANES == 8
    return (vi)_mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(QUANTREG_NEON)
    return (vi)vmovl_u16((uint16x4_t)vcvt_f16_f32((float32x4_t)v));
#else
    vi bits = (vi)v, sign = vi_shr(bits, 16) & 0x8000, a = bits & 0x7fffffff;
    /* normal: round away 13 bits, ties to even, then change the bias from 127 to 15 */
    vi normal = vi_shr(a + 0x0fff + (vi_shr(a, 13) & 1), 13) - ((127 - 15) << 10);
    /* subnormal: adding 0.5 makes the adder shift and round; the mantissa bits are the result */
    vi tiny = (vi)((vf)a + 0.5f) - (vi)vf_set1(0.5f);
    vi h = vi_select(vi_lt(a, vi_set1(113 << 23)), tiny, normal);
    h = vi_select(vi_lt(a, vi_set1(143 << 23)), h, vi_set1(0x7c00));
    h = vi_select(vi_lt(vi_set1(0x7f800000), a), vi_set1(0x7e00), h);
    return h | sign;
#endif
}

/* Load LANES consecutive halves at any alignment; load one half into every lane; store LANES halves. */
LANE_FN vf vf_load_f16(const uint8_t *p) {
#if LANES == 16
    __m256i h; memcpy(&h, p, 32); return (vf)_mm512_cvtph_ps(h);
#elif LANES == 8
    __m128i h; memcpy(&h, p, 16); return (vf)_mm256_cvtph_ps(h);
#elif defined(QUANTREG_NEON)
    float16x4_t h; memcpy(&h, p, 8); return (vf)vcvt_f32_f16(h);
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
#elif defined(QUANTREG_NEON)
    return (vf)vcvt_f32_f16((float16x4_t)vdup_n_u16(h));
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
#elif defined(QUANTREG_NEON)
    float16x4_t h = vcvt_f16_f32((float32x4_t)v); memcpy(p, &h, 8);
#else
    vi_store_i16(p, (vi_f16(v) << 16) >> 16);
#endif
}

#endif
