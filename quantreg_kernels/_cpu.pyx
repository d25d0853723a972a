# cython: language_level=3, freethreading_compatible=True
"""Which CPU level this machine can run."""

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))
    /* Asks the compiler's runtime, which also checks that the operating system saves the wide registers. */
    static int quantreg_has_avx2(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
               __builtin_cpu_supports("bmi");
    }
    static int quantreg_has_avx512(void) {
        return quantreg_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512vnni") &&
               __builtin_cpu_supports("avx512vbmi");
    }
    #else
    static int quantreg_has_avx2(void) { return 0; }
    static int quantreg_has_avx512(void) { return 0; }
    #endif
    """
    bint quantreg_has_avx2() nogil
    bint quantreg_has_avx512() nogil


def machine_levels():
    """The levels this machine can run, slowest first: "base", then "avx2" and "avx512" where it has them."""
    levels = ["base"]
    if quantreg_has_avx2():
        levels.append("avx2")
    if quantreg_has_avx512():
        levels.append("avx512")
    return tuple(levels)
