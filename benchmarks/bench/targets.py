"""The goals of the project, as ratios to the reference on the same core."""

from math import exp, log

__all__ = ["DECODE_GEOMEAN", "decode_geomean", "verdict"]

WEIGHTED = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"}
WEIGHTED_SEARCH = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"}
PLAIN_K = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
PLAIN = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q1_0", "Q2_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "F16"}

# (work, types, ratio to the speed of the reference at each CPU level)
TABLE = (
    ("encode weighted", WEIGHTED, {"avx512": 8, "avx2": 5, "neon": 2, "base": 2}),
    ("encode weighted", WEIGHTED_SEARCH, {"avx512": 5, "avx2": 3, "neon": 1.5, "base": 1.5}),
    ("encode plain", PLAIN_K, {"avx512": 6, "avx2": 4, "neon": 2, "base": 2}),
    ("encode plain", PLAIN, {"avx512": 3, "avx2": 2, "neon": 1, "base": 1}),
)
DECODE_FLOOR = 1
DECODE_GEOMEAN = {"avx512": 2, "avx2": 1.5, "neon": 1, "base": 1}

# Where memory is the limit, a share of the bandwidth of the core meets the goal as well. This holds for avx512 only.
READ_SHARE = 0.6  # of the read bandwidth, for cheap encoders
FILL_SHARE = 0.8  # of the rate at which the core fills memory, for decoders

# For products: the share of the rate of BLAS on float32 weights, for many rows of activations.
MATMUL = 0.9

# For whole runs of a model: the share of the rate of llama-perplexity, and the memory beyond the file.
RUN = {"F16": 0.85, "Q4_K_M": 0.5}
RUN_MIB = 1024

# For whole files: the ratio to llama-quantize, with two threads each.
FILES = {"Q8_0": 1, "BF16": 1, "Q4_K_M with imatrix": 5, "IQ2_XS with imatrix": 4}
TWO_THREADS = 1.9
PEAK_MIB = 450
# From a published folder, against llama.cpp's converter and llama-quantize one after the other.
CONVERT_FASTER = 5
CONVERT_MEMORY = 10
OPEN_SECONDS = 0.010
TOKENS_SECONDS = 0.1
IMPORT_SECONDS = 0.030
HELP_SECONDS = 0.200


def verdict(work, name, level, ratio, share):
    """Return the goal of a cell, or None, and how the cell meets it: "ratio", "bandwidth", "no" or None.

    `share` is the share of the read bandwidth for encoders, and of the fill rate for decoders.
    """
    if work == "decode":
        goal, enough = DECODE_FLOOR, FILL_SHARE
    else:
        goal = next((goals[level] for what, names, goals in TABLE if what == work and name in names), None)
        enough = READ_SHARE if work == "encode plain" and name in PLAIN else None
    if goal is None:
        return None, None
    if ratio >= goal:
        return goal, "ratio"
    if enough and level == "avx512" and share >= enough:
        return goal, "bandwidth"
    return goal, "no"


def decode_geomean(cells, level):
    """Return (geometric mean of all ratios, that of the cells below FILL_SHARE, whether the goal is met).

    ``cells`` holds (ratio, share of the fill rate) of each decoder.
    """

    def mean(values):
        return exp(sum(map(log, values)) / len(values)) if values else None

    everything = mean([ratio for ratio, _ in cells])
    rest = mean([ratio for ratio, share in cells if level != "avx512" or share < FILL_SHARE])
    met = everything is not None and max(everything, rest or float("inf")) >= DECODE_GEOMEAN[level]
    return everything, rest, met
