# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ2_XXS: super-blocks of 256 weights; each eight weights are one of 256 points with signs. 2.0625 bits per weight.

    bytes 0-1   d  float16                 x = d / 4 * (scale + 1/2) * sign * magnitude,  magnitude 8, 25 or 43
    bytes 2-65  eight bytes for each 32 weights: the numbers of four points, then a 32-bit word:

    bit   31      28 27         21 20         14 13          7 6           0
         +----------+-------------+-------------+-------------+-------------+
         |  scale   | signs 24-30 | signs 16-22 |  signs 8-14 |  signs 0-6  |    bit set: minus
         +----------+-------------+-------------+-------------+-------------+

    Weights 7, 15, 23 and 31 have no sign bit: each eight weights have an even number of minus signs.
"""

from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store_u16, lanes_store_words, vf, vf_abs, vf_gt, vf_lt, vf_max, vf_select, vf_set1, vi, vi_f16,
    vi_select, vi_set1, vm, vm_and, vm_first,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kernels.search cimport drop_infinite, search_positive, sum_of_squares
from quantreg_iquants._codebook cimport unpack_codebook
from quantreg_iquants._score cimport error_weights, score_blocks_of
from quantreg_iquants._iq2 cimport (
    Fit, Steps, build_grid, build_signs, put_signed, search_scale, share_of_31, take_signs,
)
from quantreg_iquants._points cimport scale_points
from quantreg_iquants._codebook8 cimport Codebook, build_codebook, number_of

cdef enum:
    TYPE_ID = 16
    BLOCK = 256
    BYTES = 66
    POINTS = 256
    LISTED = 291408     # codes in the lists of neighbors, at 16 lanes


cdef inline const char *codebook_text() noexcept nogil:
    """Return kgrid_2bit_256 of llama.cpp's ggml-quants.c (MIT), as _codebook.pxd packs it."""
    return (
        b"$%&&%*&/%)%:&/+,&@#%+;B.&/(@2A/7B7%@'B/L6&/4&@#%);@(&/7B+%);@-@*:4C+*@7A/@'K/(&/7<&/%@=C/A'E=5@Y(&/4@&@'@+/(B:+;@"
        b"7-@-D;@(N:+;(@+@>D/A5D59P2&/@7A,C2(D2E,@V>%+A%@$@&%D>@&E3%Q*&/@79E%A,@*I7L/;C'N/FA8&/+,&@#+1-@(&/C#@'A,@&(C/2A#15"
        b"M3+;B/<C,5F;Q,&/@7(E6B',@(E>A6@T7+,+*B/+C/A)B1G0Q*%C+G:A>N+4+A6F;F'@Y7/@7@/D/B$E>A3M;(H2%C%X%FT%%+@>A,C57@/F0P7&/"
        b"(@2@'D7A1A9C(@>@'M=H)H4@Y./7@#B0C(B9F$N:@)@)H4@@'D6AE=A9@<C7G:R'@I3E/"
    )


cdef uint16_t points[POINTS]
cdef uint64_t grid[POINTS]
cdef uint64_t signs_of[128]
cdef uint16_t listed[LISTED]
cdef Codebook book

unpack_codebook(codebook_text(), points)
build_grid(points, POINTS, grid)
build_signs(signs_of, 128)


cdef void prepare() noexcept nogil:
    book.lists = listed
    build_codebook(&book, points, POINTS, 2)


cdef struct Scratch:
    vf x[BLOCK]
    Steps steps


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef Scratch *s = <Scratch *>a.scratch
    cdef vf *x = s.x
    cdef vf w[32]
    cdef vf magnitude[32]
    cdef vf q[32]
    cdef vf scale[8]
    cdef vi words[16]
    cdef vi signs[4]
    cdef Fit fit
    cdef vf sigma2, peak, top, inverse
    cdef vi d
    cdef vm alive, negative, used
    cdef Py_ssize_t start = 0, bad
    cdef int i, k
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        sigma2 = sum_of_squares(x, BLOCK) / vf_set1(BLOCK)
        top = vf_set1(0)
        for i in range(8):
            error_weights(a, &g, x + 32 * i, sigma2, 32 * i, 32, w)
            for k in range(4):
                signs[k] = take_signs(x + 32 * i + 8 * k, w + 8 * k, True, magnitude + 8 * k) & 127
            fit.scale = search_positive(magnitude, w, q, 32, 4)
            peak = fit.scale * vf_set1(3)
            alive = vm_and(vf_gt(peak, vf_set1(0)), vm_first(g.live))
            for k in range(4):
                fit.code[k] = vi_set1(0)
            search_scale(&book, &s.steps, magnitude, w, 32, 6, peak, alive, True, &fit)
            negative = vf_lt(fit.scale, vf_set1(0))
            scale[i] = vf_select(alive, vf_abs(fit.scale), vf_set1(0))
            top = vf_max(scale[i], top)
            words[2 * i] = vi_set1(0)
            words[2 * i + 1] = vi_set1(0)
            for k in range(4):
                signs[k] = vi_select(negative, ~signs[k] & 127, signs[k])
                words[2 * i] = words[2 * i] | (number_of(&book, fit.code[k]) << (8 * k))
                words[2 * i + 1] = words[2 * i + 1] | (signs[k] << (7 * k))
            words[2 * i] = vi_select(alive, words[2 * i], vi_set1(0))
            words[2 * i + 1] = vi_select(alive, words[2 * i + 1], vi_set1(0))
        used = vf_gt(top, vf_set1(0))
        top = top / vf_set1(31)
        d = vi_f16(top)
        bad = keep_finite_rows(&g, d, d)
        inverse = drop_infinite(vf_set1(1) / top)
        for i in range(8):
            words[2 * i] = vi_select(used, words[2 * i], vi_set1(0))
            words[2 * i + 1] = vi_select(used, words[2 * i + 1] | (share_of_31(scale[i], inverse) << 28), vi_set1(0))
        lanes_store_u16(g.dst, 0, d, g.live)
        lanes_store_words(g.dst, 2, words, 16, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef int8_t q[BLOCK]
    cdef float scale[8]
    cdef const uint8_t *block
    cdef float *out
    cdef float d
    cdef uint32_t numbers, rest
    cdef Py_ssize_t row, _k
    cdef int i, l
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = load_f16(block)
            for i in range(8):
                memcpy(&numbers, block + 2 + 8 * i, 4)
                memcpy(&rest, block + 6 + 8 * i, 4)
                scale[i] = d * (<float>0.5 + <float>(rest >> 28)) * <float>0.25
                for l in range(4):
                    put_signed(q + 32 * i + 8 * l, grid[numbers >> (8 * l) & 255], signs_of[rest >> (7 * l) & 127])
            scale_points(q, scale, 32, out)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks_of(s, BLOCK, 1)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows, prepare)
row_codec.scratch_size = sizeof(Scratch)
