# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ2_XS: super-blocks of 256 weights; each eight weights are one of 512 points with signs. 2.3125 bits per weight.

    bytes 0-1    d  float16                x = d / 4 * (scale + 1/2) * sign * magnitude,  magnitude 8, 25 or 43
    bytes 2-65   16 bits for each 8 weights: the number of a point in bits 0-8, then the signs of weights 0-6 (set: minus).
                 Weight 7 has no sign bit: the number of minus signs is even
    bytes 66-73  a 4-bit scale for each 16 weights, the first in the low nibble
"""

from libc.stdint cimport int8_t, uint8_t, uint16_t, uint64_t

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16, load_u16
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store_bytes, lanes_store_u16, lanes_store_words, vf, vf_abs, vf_ge, vf_gt, vf_lt, vf_max, vf_select,
    vf_set1, vi, vi_f16, vi_select, vi_set1, vm, vm_and, vm_first,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kernels.search cimport drop_infinite, sum_of_squares
from quantreg_iquants._codebook cimport unpack_codebook
from quantreg_iquants._score cimport error_weights, score_blocks_of
from quantreg_iquants._iq2 cimport (
    Fit, Steps, build_grid, build_signs, put_signed, search_scale, share_of_31, start_fit, take_signs, unpack_shares,
)
from quantreg_iquants._points cimport scale_points
from quantreg_iquants._codebook8 cimport Codebook, build_codebook, number_of

cdef enum:
    TYPE_ID = 17
    BLOCK = 256
    BYTES = 74
    POINTS = 512
    LISTED = 375104     # codes in the lists of neighbors, at 16 lanes


cdef inline const char *codebook_text() noexcept nogil:
    """Return kgrid_2bit_512 of llama.cpp's ggml-quants.c (MIT), as _codebook.pxd packs it."""
    return (
        b"$%&&%*&%&*%&&<&%&*%&&,&@#%&&,&(*B0&%&*%&&%*&@#%&&,&/+<&/C#%&&,&/@(&/(@2-L.&%&*%&&,&@#%&&,&%-@(&/C#%&&,&/@(&/4@&C4"
        b"&/9=%A-L3%&&%*&/(@#&/+@/@'-B&&/@7A,+C*@'+B=-@T(&%&*%&&,&@#%&&,&/-:&/C#%&&,&/@(&/@77%B:&%-@7@'M;%&&,&/@(&(*7@#C4&/"
        b"@7E;7@<N7&/%@57@9C-(B0G.B'@S:%&&%*&/@(&/@7@'B0&/@7+@$D2@)B-@/K,&/<:E;A,4A2B7<D#K-+%9@<@:=F%@/C+;B1)%F?*&%&*%&&,&@"
        b"#%&&%*&/(@#&/C#%&&,&/@(&/@7(@$B.&/%::O#%&&,&(*@(&/@77B<&/7@#B)B5-A%/N0&/@7(21D54@:/<D2@Y7%&&,&/+<&/@7C4&/(@2%E9A/"
        b"B5K*&/4@&@'@(@'B.+C++D0A2A$K27@42A4C4@-%J2@U'&/@771@+@*B&I/@-A3L%9G=@7(B.T4B8E6G$A91F@5%&&,&/-:&/@7%@-%B&&%-@74+D"
        b">@'B/%@%+K,&/%&@2@'@0C*A/B0C&A=M1+@$@<@-%@-B-I'B-+15@S<&/@79@5C/@)A-G5@:L.(A*/+F0B6%E*Q;B$D:F+A6@V/%)%9-C)E,+A8B)"
        b"%)@)B%@'M;B$O3@:L)9%)C++B+C3%D9%B6<"
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
    cdef vf w[16]
    cdef vf magnitude[16]
    cdef vf scale[16]
    cdef vi words[16]
    cdef vi shares[8]
    cdef vi signs[2]
    cdef Fit fit
    cdef vf sigma2, peak, top, inverse
    cdef vi d
    cdef vm alive, negative, used
    cdef Py_ssize_t start = 0, bad
    cdef int i, j, k
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        sigma2 = sum_of_squares(x, BLOCK) / vf_set1(BLOCK)
        top = vf_set1(0)
        for i in range(16):
            error_weights(a, &g, x + 16 * i, sigma2, 16 * i, 16, w)
            for k in range(2):
                signs[k] = take_signs(x + 16 * i + 8 * k, w + 8 * k, True, magnitude + 8 * k) & 127
            peak = magnitude[0]
            for j in range(1, 16):
                peak = vf_max(magnitude[j], peak)
            alive = vm_and(vf_ge(peak, vf_set1(<float>1e-15)), vm_first(g.live))
            start_fit(&fit, peak / vf_set1(5))
            search_scale(&book, &s.steps, magnitude, w, 16, 9, peak, alive, False, &fit)
            negative = vf_lt(fit.scale, vf_set1(0))
            scale[i] = vf_select(alive, vf_abs(fit.scale), vf_set1(0))
            top = vf_max(scale[i], top)
            for k in range(2):
                signs[k] = vi_select(negative, ~signs[k] & 127, signs[k])
                signs[k] = vi_select(alive, number_of(&book, fit.code[k]) | (signs[k] << 9), vi_set1(0))
            words[i] = signs[0] | (signs[1] << 16)
        used = vf_gt(top, vf_set1(0))
        top = top / vf_set1(31)
        d = vi_f16(top)
        bad = keep_finite_rows(&g, d, d)
        inverse = drop_infinite(vf_set1(1) / top)
        for i in range(16):
            words[i] = vi_select(used, words[i], vi_set1(0))
        for i in range(8):
            shares[i] = share_of_31(scale[2 * i], inverse) | (share_of_31(scale[2 * i + 1], inverse) << 4)
        lanes_store_u16(g.dst, 0, d, g.live)
        lanes_store_words(g.dst, 2, words, 16, g.live)
        lanes_store_bytes(g.dst, 66, shares, 8, g.live)
        if bad >= 0:
            return bad
        start += g.live
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef int8_t q[BLOCK]
    cdef float scale[16]
    cdef const uint8_t *block
    cdef float *out
    cdef float d
    cdef uint16_t word
    cdef Py_ssize_t row, _k
    cdef int i
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = load_f16(block)
            for i in range(32):
                word = load_u16(block + 2 + 2 * i)
                put_signed(q + 8 * i, grid[word & 511], signs_of[word >> 9])
            unpack_shares(block + 66, d, scale)
            scale_points(q, scale, 16, out)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks_of(s, BLOCK, 1)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows, prepare)
row_codec.scratch_size = sizeof(Scratch)
