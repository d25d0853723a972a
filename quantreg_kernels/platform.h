/* What a machine and a compiler must offer. Without it a codec would still compile, but write or accept wrong bytes. */
#ifndef QUANTREG_PLATFORM_H
#define QUANTREG_PLATFORM_H

#include <float.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "quantreg needs a little-endian machine: codecs read and write GGUF's little-endian bytes as they lie in memory"
#endif

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "quantreg must not be compiled with -ffast-math or -Ofast: remove these options, for example from CFLAGS"
#endif

#if FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2
#error "quantreg needs float arithmetic in float precision: on 32-bit x86, add -msse2 -mfpmath=sse to CFLAGS"
#endif

#endif
