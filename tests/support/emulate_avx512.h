/* The AVX-512 instructions that lanes.h uses, lane by lane in plain C: so that what has 16 lanes can be tested, slowly, on a
 * machine without them. Compiled for AVX2 with QUANTREG_EMULATE_AVX512 defined: see .ci/avx512. */
#ifndef EMULATE_AVX512_H
#define EMULATE_AVX512_H

typedef float emf_ __attribute__((vector_size(64), may_alias));
typedef int32_t emi_ __attribute__((vector_size(64), may_alias));
typedef uint32_t emu_ __attribute__((vector_size(64), may_alias));
typedef double emd_ __attribute__((vector_size(64), may_alias));
typedef int64_t eml_ __attribute__((vector_size(64), may_alias));

#define EMU_FN static inline __attribute__((always_inline))
#define EMU_EACH(n) for (int i = 0; i < (n); i++)

EMU_FN __mmask16 emu_cmp_ps_(emf_ a, emf_ b, int how) {
    unsigned m = 0;
    EMU_EACH(16) {
        int yes = how == _CMP_LT_OQ ? a[i] < b[i] : how == _CMP_LE_OQ ? a[i] <= b[i] : how == _CMP_EQ_OQ ? a[i] == b[i] : a[i] != b[i];
        m |= (unsigned)yes << i;
    }
    return (__mmask16)m;
}
EMU_FN __mmask16 emu_cmp_epi32_(emi_ a, emi_ b, int how) {
    unsigned m = 0;
    EMU_EACH(16) m |= (unsigned)(how == _MM_CMPINT_LT ? a[i] < b[i] : a[i] == b[i]) << i;
    return (__mmask16)m;
}
EMU_FN emi_ emu_blend_(unsigned m, emi_ a, emi_ b) { EMU_EACH(16) a[i] = m >> i & 1 ? b[i] : a[i]; return a; }
EMU_FN emi_ emu_mask_add_(emi_ from, unsigned m, emi_ a, emi_ b) { EMU_EACH(16) from[i] = m >> i & 1 ? (int32_t)((uint32_t)a[i] + (uint32_t)b[i]) : from[i]; return from; }
EMU_FN emi_ emu_mask_xor_(emi_ from, unsigned m, emi_ a, emi_ b) { EMU_EACH(16) from[i] = m >> i & 1 ? a[i] ^ b[i] : from[i]; return from; }
EMU_FN emf_ emu_min_ps_(emf_ a, emf_ b) { EMU_EACH(16) a[i] = a[i] < b[i] ? a[i] : b[i]; return a; }
EMU_FN emf_ emu_max_ps_(emf_ a, emf_ b) { EMU_EACH(16) a[i] = a[i] > b[i] ? a[i] : b[i]; return a; }
EMU_FN emi_ emu_min_epi32_(emi_ a, emi_ b) { EMU_EACH(16) a[i] = a[i] < b[i] ? a[i] : b[i]; return a; }
EMU_FN emi_ emu_max_epi32_(emi_ a, emi_ b) { EMU_EACH(16) a[i] = a[i] > b[i] ? a[i] : b[i]; return a; }
EMU_FN emf_ emu_sqrt_ps_(emf_ a) { EMU_EACH(16) a[i] = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a[i]))); return a; }
EMU_FN emi_ emu_cvttps_(emf_ a) { emi_ r; EMU_EACH(16) r[i] = _mm_cvtt_ss2si(_mm_set_ss(a[i])); return r; }
EMU_FN emi_ emu_cvtps_(emf_ a) { emi_ r; EMU_EACH(16) r[i] = _mm_cvt_ss2si(_mm_set_ss(a[i])); return r; }
EMU_FN emf_ emu_roundscale_(emf_ a) { EMU_EACH(16) a[i] = _mm_cvtss_f32(_mm_round_ss(_mm_set_ss(a[i]), _mm_set_ss(a[i]), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); return a; }
EMU_FN emi_ emu_srlv_(emi_ a, emi_ n) { EMU_EACH(16) a[i] = (uint32_t)n[i] > 31 ? 0 : (int32_t)((uint32_t)a[i] >> n[i]); return a; }
EMU_FN emi_ emu_alignr_(emi_ hi, emi_ lo, int n) { emi_ r; EMU_EACH(16) r[i] = i + n < 16 ? lo[i + n] : hi[i + n - 16]; return r; }
EMU_FN emf_ emu_permutexvar_(emi_ at, emf_ a) { emf_ r; EMU_EACH(16) r[i] = a[at[i] & 15]; return r; }
EMU_FN emf_ emu_permutevar_(emf_ a, emi_ at) { emf_ r; EMU_EACH(16) r[i] = a[(i & ~3) | (at[i] & 3)]; return r; }
EMU_FN emf_ emu_permute_(emf_ a, int how) { emf_ r; EMU_EACH(16) r[i] = a[(i & ~3) | (how >> 2 * (i & 3) & 3)]; return r; }
EMU_FN emi_ emu_shuffle4_(emi_ a, emi_ b, int how) {
    emi_ r;
    EMU_EACH(16) { int from = (how >> 2 * (i / 4) & 3) * 4 + i % 4; r[i] = i < 8 ? a[from] : b[from]; }
    return r;
}
EMU_FN emi_ emu_unpack32_(emi_ a, emi_ b, int high) {
    emi_ r;
    EMU_EACH(16) { int from = (i & ~3) + 2 * high + (i & 3) / 2; r[i] = i & 1 ? b[from] : a[from]; }
    return r;
}
EMU_FN eml_ emu_unpack64_(eml_ a, eml_ b, int high) { eml_ r; EMU_EACH(8) r[i] = i & 1 ? b[i - 1 + high] : a[i + high]; return r; }
EMU_FN emi_ emu_gather_(emi_ at, const int32_t *base) { EMU_EACH(16) at[i] = base[at[i]]; return at; }
EMU_FN float emu_reduce_max_(emf_ a) { float m = a[0]; EMU_EACH(16) m = a[i] > m ? a[i] : m; return m; }
EMU_FN __m128i emu_to_bytes_(emi_ a) { uint8_t p[16]; __m128i r; EMU_EACH(16) p[i] = (uint8_t)a[i]; memcpy(&r, p, 16); return r; }
EMU_FN __m256i emu_to_words_(emi_ a) { uint16_t p[16]; __m256i r; EMU_EACH(16) p[i] = (uint16_t)a[i]; memcpy(&r, p, 32); return r; }
EMU_FN emi_ emu_from_u8_(__m128i b) { uint8_t p[16]; emi_ r; memcpy(p, &b, 16); EMU_EACH(16) r[i] = p[i]; return r; }
EMU_FN emi_ emu_from_i8_(__m128i b) { int8_t p[16]; emi_ r; memcpy(p, &b, 16); EMU_EACH(16) r[i] = p[i]; return r; }
EMU_FN emi_ emu_from_u16_(__m256i b) { uint16_t p[16]; emi_ r; memcpy(p, &b, 32); EMU_EACH(16) r[i] = p[i]; return r; }
EMU_FN emf_ emu_from_half_(__m256i h) {
    __m256 lo = _mm256_cvtph_ps(_mm256_castsi256_si128(h)), hi = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
    emf_ r; memcpy(&r, &lo, 32); memcpy((char *)&r + 32, &hi, 32); return r;
}
EMU_FN __m256i emu_to_half_(emf_ a) {
    __m256 lo, hi; memcpy(&lo, &a, 32); memcpy(&hi, (char *)&a + 32, 32);
    return _mm256_set_m128i(_mm256_cvtps_ph(hi, 0), _mm256_cvtps_ph(lo, 0));
}
EMU_FN emi_ emu_set1_(int32_t v) { return v - (emi_){0}; }
EMU_FN emf_ emu_insert_(emf_ a, __m256 b) { memcpy((char *)&a + 32, &b, 32); return a; }
EMU_FN emf_ emu_widen_(__m256 b) { emf_ a = {0}; memcpy(&a, &b, 32); return a; }

#define _mm512_cmp_ps_mask(a, b, how) emu_cmp_ps_((emf_)(a), (emf_)(b), how)
#define _mm512_cmp_epi32_mask(a, b, how) emu_cmp_epi32_((emi_)(a), (emi_)(b), how)
#define _mm512_mask_blend_ps(m, a, b) ((__m512)emu_blend_(m, (emi_)(a), (emi_)(b)))
#define _mm512_mask_blend_epi32(m, a, b) ((__m512i)emu_blend_(m, (emi_)(a), (emi_)(b)))
#define _mm512_mask_add_epi32(from, m, a, b) ((__m512i)emu_mask_add_((emi_)(from), m, (emi_)(a), (emi_)(b)))
#define _mm512_mask_xor_epi32(from, m, a, b) ((__m512i)emu_mask_xor_((emi_)(from), m, (emi_)(a), (emi_)(b)))
#define _mm512_min_ps(a, b) ((__m512)emu_min_ps_((emf_)(a), (emf_)(b)))
#define _mm512_max_ps(a, b) ((__m512)emu_max_ps_((emf_)(a), (emf_)(b)))
#define _mm512_min_epi32(a, b) ((__m512i)emu_min_epi32_((emi_)(a), (emi_)(b)))
#define _mm512_max_epi32(a, b) ((__m512i)emu_max_epi32_((emi_)(a), (emi_)(b)))
#define _mm512_sqrt_ps(a) ((__m512)emu_sqrt_ps_((emf_)(a)))
#define _mm512_cvttps_epi32(a) ((__m512i)emu_cvttps_((emf_)(a)))
#define _mm512_cvtps_epi32(a) ((__m512i)emu_cvtps_((emf_)(a)))
#define _mm512_roundscale_ps(a, how) ((__m512)emu_roundscale_((emf_)(a)))
#define _mm512_srlv_epi32(a, n) ((__m512i)emu_srlv_((emi_)(a), (emi_)(n)))
#define _mm512_alignr_epi32(a, b, n) ((__m512i)emu_alignr_((emi_)(a), (emi_)(b), n))
#define _mm512_permutexvar_ps(at, a) ((__m512)emu_permutexvar_((emi_)(at), (emf_)(a)))
#define _mm512_permutevar_ps(a, at) ((__m512)emu_permutevar_((emf_)(a), (emi_)(at)))
#define _mm512_permute_ps(a, how) ((__m512)emu_permute_((emf_)(a), how))
#define _mm512_shuffle_i32x4(a, b, how) ((__m512i)emu_shuffle4_((emi_)(a), (emi_)(b), how))
#define _mm512_shuffle_f32x4(a, b, how) ((__m512)emu_shuffle4_((emi_)(a), (emi_)(b), how))
#define _mm512_unpacklo_epi32(a, b) ((__m512i)emu_unpack32_((emi_)(a), (emi_)(b), 0))
#define _mm512_unpackhi_epi32(a, b) ((__m512i)emu_unpack32_((emi_)(a), (emi_)(b), 1))
#define _mm512_unpacklo_ps(a, b) ((__m512)emu_unpack32_((emi_)(a), (emi_)(b), 0))
#define _mm512_unpackhi_ps(a, b) ((__m512)emu_unpack32_((emi_)(a), (emi_)(b), 1))
#define _mm512_unpacklo_epi64(a, b) ((__m512i)emu_unpack64_((eml_)(a), (eml_)(b), 0))
#define _mm512_unpackhi_epi64(a, b) ((__m512i)emu_unpack64_((eml_)(a), (eml_)(b), 1))
#define _mm512_unpacklo_pd(a, b) ((__m512d)emu_unpack64_((eml_)(a), (eml_)(b), 0))
#define _mm512_unpackhi_pd(a, b) ((__m512d)emu_unpack64_((eml_)(a), (eml_)(b), 1))
#undef _mm512_i32gather_epi32
#define _mm512_i32gather_epi32(at, base, size) ((__m512i)emu_gather_((emi_)(at), base))
#define _mm512_reduce_max_ps(a) emu_reduce_max_((emf_)(a))
#define _mm512_cvtepi32_epi8(a) emu_to_bytes_((emi_)(a))
#define _mm512_cvtepi32_epi16(a) emu_to_words_((emi_)(a))
#define _mm512_cvtepu8_epi32(b) ((__m512i)emu_from_u8_(b))
#define _mm512_cvtepi8_epi32(b) ((__m512i)emu_from_i8_(b))
#define _mm512_cvtepu16_epi32(b) ((__m512i)emu_from_u16_(b))
#define _mm512_cvtph_ps(h) ((__m512)emu_from_half_(h))
#define _mm512_cvtps_ph(a, how) emu_to_half_((emf_)(a))
#define _mm512_set1_epi32(v) ((__m512i)emu_set1_(v))
#define _mm512_setr_epi32(...) ((__m512i)(emi_){__VA_ARGS__})
#define _mm512_castps256_ps512(b) ((__m512)emu_widen_(b))
#define _mm512_insertf32x8(a, b, n) ((__m512)emu_insert_((emf_)(a), b))

#endif
