/* Part of lanes.h, which includes it: between memory order and lane order, where each lane holds one block. */
#ifndef QUANTREG_LANES_ORDER_H
#define QUANTREG_LANES_ORDER_H

/* Transpose LANES vectors: lane l of out[j] is element j of in[l]. in and out may be the same. */
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

/* Lane l: the largest (smallest) element of rows[l], for LANES vectors. This is a transpose in which each step halves the
 * number of elements. */
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
LANE_FN int lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); } /* of vm_bits, the first lane; bits is not 0 */

/* Lane l of out[j] is src[l][offset + j], for j < n. n is a multiple of 16. */
LANE_FN void lanes_load(vf *out, const float *const *src, intptr_t offset, int n) {
    for (int j = 0; j < n; j += LANES) {
        vi rows[LANES];
        for (int l = 0; l < LANES; l++) rows[l] = (vi)vf_load(src[l] + offset + j);
        vi_transpose((vi *)out + j, rows);
    }
}

/* Like lanes_load, but also prefetch what lies `ahead` floats further, for encoders that are faster than memory. */
LANE_FN void lanes_load_ahead(vf *out, const float *const *src, intptr_t offset, int n, intptr_t ahead) {
    for (int j = 0; j < n; j += LANES) {
        vi rows[LANES];
        for (int l = 0; l < LANES; l++) {
            if (j % 16 == 0) prefetch(src[l] + offset + j + ahead); /* once per cache line */
            rows[l] = (vi)vf_load(src[l] + offset + j);
        }
        vi_transpose((vi *)out + j, rows);
    }
}

/* Undo lanes_load for the first `live` lanes: store to the bytes from dst[l] + 4 * offset up. */
LANE_FN void lanes_store(uint8_t *const *dst, intptr_t offset, const vf *in, int n, int live) {
    for (int j = 0; j < n; j += LANES) {
        vi rows[LANES];
        vi_transpose(rows, (const vi *)in + j);
        for (int l = 0; l < live; l++) vi_store((int32_t *)(dst[l] + 4 * (offset + j)), rows[l]);
    }
}

/* Put the four words of a lane side by side: bytes 16 * s to 16 * s + 15 of quads[k] are lane 4 * s + k of w[0..3]. */
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

/* Store the s-th 16 bytes of quad to dst[4 * s] + offset. */
LANE_FN void lanes_store_quad_(uint8_t *const *dst, intptr_t offset, vi quad) {
#if LANES == 16
    _mm_storeu_si128((__m128i *)(dst[0] + offset), _mm512_castsi512_si128((__m512i)quad));
    _mm_storeu_si128((__m128i *)(dst[4] + offset), _mm512_extracti32x4_epi32((__m512i)quad, 1));
    _mm_storeu_si128((__m128i *)(dst[8] + offset), _mm512_extracti32x4_epi32((__m512i)quad, 2));
    _mm_storeu_si128((__m128i *)(dst[12] + offset), _mm512_extracti32x4_epi32((__m512i)quad, 3));
#elif LANES == 8
    _mm_storeu_si128((__m128i *)(dst[0] + offset), _mm256_castsi256_si128((__m256i)quad));
    _mm_storeu_si128((__m128i *)(dst[4] + offset), _mm256_extracti128_si256((__m256i)quad, 1));
#else
    memcpy(dst[0] + offset, &quad, 16);
#endif
}

/* One lane, hidden from the compiler. It would otherwise turn a loop of stores into scatter instructions, which are slower. */
LANE_FN int32_t lane_word_(vi v, int l) {
    int32_t w = v[l];
    __asm__("" : "+r"(w));
    return w;
}

/* Store 4 * n bytes for each of the first `live` lanes: lane l of words[0], words[1] ... to dst[l] + offset. */
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
        if (live == LANES) { /* out of registers: not every processor forwards part of a 64-byte store to a load */
            for (int k = 0; k < 4; k++) lanes_store_quad_(dst + k, offset + 4 * j, quads[k]);
            continue;
        }
        for (int l = 0; l < live; l++) memcpy(dst[l] + offset + 4 * j, (const char *)&quads[l % 4] + 16 * (l / 4), 16);
    }
    for (; j < n; j++)
        for (int l = 0; l < live; l++) {
            int32_t w = lane_word_(words[j], l);
            memcpy(dst[l] + offset + 4 * j, &w, 4);
        }
}

/* Store n bytes for each live lane, from n vectors of 0..255. n is 259 at most. A multiple of 4 is fastest. */
LANE_FN void lanes_store_bytes(uint8_t *const *dst, intptr_t offset, const vi *bytes, int n, int live) {
    vi words[64];
    for (int j = 0; j < n / 4; j++)
#if defined(QUANTREG_NEON) /* shift and insert */
        words[j] = (vi)vsliq_n_s32(vsliq_n_s32(vsliq_n_s32((int32x4_t)bytes[4 * j], (int32x4_t)bytes[4 * j + 1], 8),
            (int32x4_t)bytes[4 * j + 2], 16), (int32x4_t)bytes[4 * j + 3], 24);
#else
        words[j] = bytes[4 * j] | (bytes[4 * j + 1] << 8) | (bytes[4 * j + 2] << 16) | (bytes[4 * j + 3] << 24);
#endif
    lanes_store_words(dst, offset, words, n / 4, live);
    for (int j = n / 4 * 4; j < n; j++)
        for (int l = 0; l < live; l++) dst[l][offset + j] = (uint8_t)lane_word_(bytes[j], l);
}

/* Store the low 16 bits of each live lane to dst[l] + offset, little-endian. */
LANE_FN void lanes_store_u16(uint8_t *const *dst, intptr_t offset, vi v, int live) {
#if LANES == 16
    uint16_t halves[LANES]; /* 32 bytes: see lanes_store_words */
    vi_store_i16((uint8_t *)halves, v);
    for (int l = 0; l < live; l++) memcpy(dst[l] + offset, halves + l, 2);
#else
    for (int l = 0; l < live; l++) {
        uint16_t h = (uint16_t)v[l];
        memcpy(dst[l] + offset, &h, 2);
    }
#endif
}

#endif
