# cython: language_level=3, freethreading_compatible=True
"""Which CPU levels this machine can run."""

cdef extern from *:
    """
    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    #include <cpuid.h>
    static unsigned int quantreg_cpuid(unsigned int leaf, int reg) {
        unsigned int r[4] = {0, 0, 0, 0};
        if (!__get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3])) return 0;
        return r[reg];
    }
    /* XCR0: the registers that the operating system saves when it switches threads. Without OSXSAVE, xgetbv faults. */
    static unsigned int quantreg_xcr0(void) {
        unsigned int low, high;
        if (!(quantreg_cpuid(1, 2) >> 27 & 1)) return 0;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    #ifdef __APPLE__
        if (low & 4) low |= 0xe0; /* macOS sets these bits only after a process has used AVX-512 */
    #endif
        return low;
    }
    #else
    static unsigned int quantreg_cpuid(unsigned int leaf, int reg) { (void)leaf; (void)reg; return 0; }
    static unsigned int quantreg_xcr0(void) { return 0; }
    #endif
    #if defined(__x86_64__) || defined(_M_X64)
    #define QUANTREG_PROCESSOR "x86-64"
    #elif defined(__aarch64__) && defined(__ARM_NEON) /* every arm64 processor has NEON */
    #define QUANTREG_PROCESSOR "arm64"
    #else
    #define QUANTREG_PROCESSOR ""
    #endif
    """
    unsigned int quantreg_cpuid(unsigned int leaf, int reg) nogil
    unsigned int quantreg_xcr0() nogil
    const char *QUANTREG_PROCESSOR

cdef enum:
    EBX = 1
    ECX = 2

# Everything that the compiler may use at a level, because it says so in a predefined macro: "f16c" is __F16C__. Each is
# a CPUID leaf, a register and a bit (Intel's manual, volume 2A, CPUID). `avx512` also needs all of `avx2`.
cdef dict FEATURES = {
    "avx2": {
        "sse3": (1, ECX, 0),
        "ssse3": (1, ECX, 9),
        "fma": (1, ECX, 12),
        "cx16": (1, ECX, 13),
        "sse4_1": (1, ECX, 19),
        "sse4_2": (1, ECX, 20),
        "crc32": (1, ECX, 20),
        "movbe": (1, ECX, 22),
        "popcnt": (1, ECX, 23),
        "xsave": (1, ECX, 26),
        "avx": (1, ECX, 28),
        "f16c": (1, ECX, 29),
        "bmi": (7, EBX, 3),
        "avx2": (7, EBX, 5),
        "bmi2": (7, EBX, 8),
        "lahf_sahf": (0x80000001, ECX, 0),
        "lzcnt": (0x80000001, ECX, 5),
    },
    "avx512": {
        "avx512f": (7, EBX, 16),
        "avx512dq": (7, EBX, 17),
        "avx512cd": (7, EBX, 28),
        "avx512bw": (7, EBX, 30),
        "avx512vl": (7, EBX, 31),
        "avx512vbmi": (7, ECX, 1),
        "avx512vnni": (7, ECX, 11),
    },
}
# The processors that a level is for.
cdef dict PROCESSORS = {"avx2": "x86-64", "avx512": "x86-64", "neon": "arm64"}
# Bits of XCR0: SSE and AVX state; the mask registers and both halves of the AVX-512 state as well.
cdef dict SAVED = {"avx2": 0x06, "avx512": 0xe6}

processor = QUANTREG_PROCESSOR.decode()  # "x86-64", "arm64" or "" for all others


def level_features(str level):
    """Return ``{feature: whether this machine has it}`` for all that code of a level may use beyond the level below.

    "saved-registers" says whether the operating system saves the level's registers. The level "neon" uses nothing that
    an arm64 processor could lack.
    """
    if level not in FEATURES:
        return {}
    found = {name: bool(quantreg_cpuid(leaf, reg) >> bit & 1) for name, (leaf, reg, bit) in FEATURES[level].items()}
    found["saved-registers"] = quantreg_xcr0() & SAVED[level] == SAVED[level]
    return found


def missing_features(str level):
    """Return the names of the features that this machine lacks for a level: empty if it can run the level.

    On another processor than the one that the level is for, the only name is "an arm64 processor", for example.
    """
    if PROCESSORS.get(level, processor) != processor:
        return (f"an {PROCESSORS[level]} processor",)
    needed = ("avx2", "avx512") if level == "avx512" else (level,)
    return tuple(name for lower in needed for name, found in level_features(lower).items() if not found)


def machine_levels():
    """Return the levels that this machine can run, slowest first.

    These are "base", then "avx2" and "avx512" if an x86-64 processor has them, or "neon" on arm64.
    """
    return ("base", *(level for level in PROCESSORS if not missing_features(level)))
