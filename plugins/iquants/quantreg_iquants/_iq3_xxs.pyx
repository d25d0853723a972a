# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ3_XXS: super-blocks of 256 weights, 8 sub-blocks of 32 with a 4-bit scale each. 3.0625 bits per weight.

Four weights are one of 256 points with signs.

    bytes 0-1    d  float16                x = d * (scale[j] + 0.5) / 2 * point value * sign
    bytes 2-65   byte 2 + i: index of the point of weights 4 * i to 4 * i + 3
    bytes 66-97  one 32-bit word per sub-block:

    bit   31      28 27         21 20         14 13          7 6           0
         +----------+-------------+-------------+-------------+-------------+
         |  scale   | signs 24-30 | signs 16-22 |  signs 8-14 |  signs 0-6  |    bit set: minus
         +----------+-------------+-------------+-------------+-------------+

    Weights 7, 15, 23 and 31 have no sign bit: each eight weights have an even number of minus signs.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from quantreg_iquants._iq3 cimport Codebook, Trials, build_codebook, search_points, start_trials
from quantreg_iquants._codebook cimport unpack_codebook
from quantreg_iquants._score cimport block_sigma2, error_weights, score_blocks
from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store_bytes, lanes_store_u16, lanes_store_words, vf, vf_abs, vf_flip, vf_gt, vf_load_fours,
    vf_lt, vf_max, vf_select, vf_set1, vf_store, vi, vi_clamp, vi_eq, vi_f16, vi_nearest, vi_select, vi_set1,
    vm, vm_and, vm_bits, vm_not,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows

cdef enum:
    TYPE_ID = 18
    BLOCK = 256
    BYTES = 98
    TRIALS = 31


cdef inline const char *codebook_text() noexcept nogil:
    """Return kgrid_256 of llama.cpp's ggml-quants.c (MIT), as _codebook.pxd packs it."""
    return (
        b"$%%(%'$%*,<%'%(%*'&%*./+%%(*%*%'-)1')$%.@*67(./%')63@::7'%813%(%*%(%%.$;%**%@6%(%**@))%1,03.'@*@/'56/A81@'%*%(%'"
        b"&,@&%%&%**>'$+%*)$%0$07*'@3'@(1;7->A0%.:@#*%*%80()%1,.%>%(08325A(26))/>@&58@/87.1%/'A872$3)4@%@&@,.@(18A8&%1@9::"
        b"+)3:@&1@'+@0@$.'@*+:A:@31@93%1@$@'@%@,@+)A1@(@,@8@/1@9%%$53@3-@1>(9018@(3@&%5A/"
    )


cdef Codebook codebook
cdef float values[4 * 256]
cdef uint8_t all_signs[128]


cdef void prepare() noexcept nogil:
    build_codebook(&codebook, codebook_text(), 2)


cdef void fill_tables() noexcept nogil:
    """Fill the decoder's tables: the values of each point, and all eight signs for each seven."""
    cdef uint16_t points[256]
    cdef int i, k, level
    unpack_codebook(codebook_text(), points)
    for k in range(256):
        for i in range(4):
            level = (points[k] >> (3 * i)) & 7
            values[4 * k + i] = <float>(62 if level == 7 else 8 * level + 4)
    for k in range(128):
        level = k ^ (k >> 4)
        level ^= level >> 2
        all_signs[k] = <uint8_t>(k | (((level ^ (level >> 1)) & 1) << 7))


fill_tables()


cdef inline vi split_signs(const vf *x, const vf *w, vf *magnitude) noexcept nogil:
    """Write the magnitudes of eight weights and return their signs in seven bits.

    Where the number of negative weights is odd, the weight with the smallest w * x^2 gets the wrong sign, and its magnitude
    becomes negative.
    """
    cdef vi signs = vi_set1(0)
    cdef vi least = vi_set1(0)
    cdef vf low = w[0] * x[0] * x[0]
    cdef vf error
    cdef vm odd, less
    cdef int i
    for i in range(8):
        signs = signs | vi_select(vf_lt(x[i], vf_set1(0)), vi_set1(1 << i), vi_set1(0))
        magnitude[i] = vf_abs(x[i])
        error = w[i] * x[i] * x[i]
        less = vf_lt(error, low)
        low = vf_select(less, error, low)
        least = vi_select(less, vi_set1(i), least)
    odd = vi_eq((signs ^ (signs >> 1) ^ (signs >> 2) ^ (signs >> 3) ^ (signs >> 4) ^ (signs >> 5) ^ (signs >> 6)
                 ^ (signs >> 7)) & 1, vi_set1(1))
    for i in range(8):
        less = vm_and(odd, vi_eq(least, vi_set1(i)))
        magnitude[i] = vf_select(less, -magnitude[i], magnitude[i])
        signs = signs ^ vi_select(less, vi_set1(1 << i), vi_set1(0))
    return signs & 127


cdef struct Scratch:
    vf x[BLOCK]
    Trials trials


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef Scratch *s = <Scratch *>a.scratch
    cdef vf *x = s.x
    cdef vf w[32]
    cdef vf magnitude[32]
    cdef vf scales[8]
    cdef vi points[64]
    cdef vi words[8]
    cdef vf sigma2, peak, largest, d, inverse
    cdef vi signs, half
    cdef vm active, positive
    cdef Py_ssize_t start = 0, bad
    cdef int i, j
    start_trials(&s.trials, TRIALS)
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        sigma2 = block_sigma2(x, BLOCK)
        largest = vf_set1(0)
        for j in range(8):
            error_weights(a, &g, x + 32 * j, sigma2, 32 * j, 32, w)
            signs = vi_set1(0)
            for i in range(4):
                signs = signs | (split_signs(x + 32 * j + 8 * i, w + 8 * i, magnitude + 8 * i) << (7 * i))
            peak = magnitude[0]
            for i in range(1, 32):
                peak = vf_max(peak, magnitude[i])
            active = vm_not(vf_lt(peak, vf_set1(<float>1e-8)))
            scales[j] = search_points(&codebook, &s.trials, magnitude, w, peak,
                                      vm_bits(active) & ((<unsigned int>1 << g.live) - 1), TRIALS, True, points + 8 * j)
            # magnitudes that have become negative can outweigh the others
            signs = vi_select(vf_lt(scales[j], vf_set1(0)), signs ^ 0x0fffffff, signs)
            scales[j] = vf_abs(scales[j])
            words[j] = vi_select(active, signs, vi_set1(0))
            largest = vf_select(vf_gt(largest, scales[j]), largest, scales[j])
        d = largest / vf_set1(31)
        half = vi_f16(d * vf_set1(<float>1.0125))
        bad = keep_finite_rows(&g, half, half)
        inverse = vf_set1(1) / d
        positive = vf_gt(largest, vf_set1(0))
        for j in range(8):
            signs = words[j] | (vi_clamp(vi_nearest(vf_set1(<float>0.5) * (inverse * scales[j] - vf_set1(1))), 0, 15) << 28)
            words[j] = vi_select(positive, signs, vi_set1(0))
        for j in range(64):
            points[j] = vi_select(positive, points[j], vi_set1(0))
        lanes_store_u16(g.dst, 0, half, g.live)
        lanes_store_bytes(g.dst, 2, points, 64, g.live)
        lanes_store_words(g.dst, 66, words, 8, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const float *fours[LANES]
    cdef const uint8_t *block
    cdef float *out
    cdef vf scale
    cdef float d
    cdef uint32_t word, signs
    cdef Py_ssize_t row, _k
    cdef int i, j, l
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = load_f16(block)
            for j in range(8):
                memcpy(&word, block + 66 + 4 * j, 4)
                scale = vf_set1(d * (<float>0.5 + <float>(word >> 28)) * <float>0.5)
                signs = (all_signs[word & 127] | (<uint32_t>all_signs[(word >> 7) & 127] << 8)
                         | (<uint32_t>all_signs[(word >> 14) & 127] << 16) | (<uint32_t>all_signs[(word >> 21) & 127] << 24))
                for i in range(32 // LANES):
                    for l in range(LANES // 4):
                        fours[l] = values + 4 * block[2 + 8 * j + i * (LANES // 4) + l]
                    vf_store(out + i * LANES, vf_flip(scale * vf_load_fours(fours), signs >> (i * LANES)))
                out += 32
            block += BYTES
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks(s, BLOCK)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows, prepare)
row_codec.scratch_size = sizeof(Scratch)
