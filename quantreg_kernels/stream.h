/* Copies around the caches, for results that do not fit into them. An ordinary store first reads the line it writes. */
#ifndef QUANTREG_STREAM_H
#define QUANTREG_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>

/* Copy n floats: whole lines of 64 bytes go around the caches, and the rest before and after them does not. */
static inline void stream_floats(float *dst, const float *src, ptrdiff_t n) {
    ptrdiff_t head = (ptrdiff_t)(-(uintptr_t)dst % 64) / 4, i;
    if (head > n) head = n;
    memcpy(dst, src, (size_t)head * 4);
    for (i = head; i + 16 <= n; i += 16) {
        __m128 a = _mm_loadu_ps(src + i), b = _mm_loadu_ps(src + i + 4);
        __m128 c = _mm_loadu_ps(src + i + 8), d = _mm_loadu_ps(src + i + 12);
        _mm_stream_ps(dst + i, a);
        _mm_stream_ps(dst + i + 4, b);
        _mm_stream_ps(dst + i + 8, c);
        _mm_stream_ps(dst + i + 12, d);
    }
    memcpy(dst + i, src + i, (size_t)(n - i) * 4);
}
/* Call this before another thread reads the result. */
static inline void stream_end(void) { _mm_sfence(); }
#else
static inline void stream_floats(float *dst, const float *src, ptrdiff_t n) { memcpy(dst, src, (size_t)n * 4); }
static inline void stream_end(void) {}
#endif

#endif
