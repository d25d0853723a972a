# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ1_S: super-blocks of 256 weights; each eight weights are one of 2048 points. 1.5625 bits per weight.

    bytes 0-1    d  float16                x = d * (2 * scale + 1) * (coordinate + delta),  coordinate -1, 0 or 1
    bytes 2-33   one byte for each 8 weights: the lower 8 bits of the number of a point
    bytes 34-49  16 bits for each 32 weights, with the upper 3 bits of the numbers of their four points:

    bit   15     14  12 11   9 8    6 5    3 2    0
         +------+------+------+------+------+------+
         | sign | scale| pt 3 | pt 2 | pt 1 | pt 0 |    sign of delta: 0 is 1/8, 1 is -1/8
         +------+------+------+------+------+------+
"""

from libc.stdint cimport int8_t, uint8_t, uint16_t, uint64_t

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16, load_u16
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store_bytes, lanes_store_u16, vf, vf_abs, vf_ge, vf_from_vi, vf_gt, vf_lt, vf_max, vf_select, vf_set1,
    vi, vi_f16, vi_gt, vi_select, vi_set1, vm, vm_and, vm_any, vm_first, vm_or,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kernels.search cimport drop_infinite
from quantreg_iquants._codebook cimport unpack_codebook
from quantreg_iquants._score cimport block_sigma2, error_weights, score_blocks
from quantreg_iquants._iq1 cimport (
    LISTED, POINTS, Sorted, Split, build_grid, choose_points, codebook_text, keep_better, put_shifted, share_of_15, sort,
    split_indices, start_split, tolerant,
)
from quantreg_iquants._points cimport scale_points
from quantreg_iquants._codebook8 cimport Codebook, build_codebook, number_of

cdef enum:
    TYPE_ID = 19
    BLOCK = 256
    BYTES = 50
    SUB = 32


cdef uint16_t points[POINTS]
cdef uint64_t grid[POINTS]
cdef uint16_t listed[LISTED]
cdef Codebook book

unpack_codebook(codebook_text(), points)
build_grid(points, grid)


cdef void prepare() noexcept nogil:
    book.lists = listed
    build_codebook(&book, points, POINTS, 3)


cdef inline void search_split(const Sorted *s, vm alive, Split *best) noexcept nogil:
    """Find the best of all splits of 32 weights, with delta 1/8 (shift 1) and -1/8 (shift -1). See _iq1.pxd."""
    cdef vf sx[SUB + 1]     # sums over the first i weights: of w x, of w
    cdef vf sw[SUB + 1]
    cdef vf plus2[SUB + 1]  # what the second boundary adds to sum w q^2
    cdef vf minus2[SUB + 1]
    cdef vf left_x, left_w, x_plus, x_minus, w_plus, w_minus, floor, a, b, a2, b2, sum_qx2, sum_q2
    cdef vf middle, middle2
    cdef vm hit, extreme
    cdef int i1, i2, step
    sx[0] = vf_set1(0)
    sw[0] = vf_set1(0)
    for i1 in range(SUB):
        sx[i1 + 1] = sx[i1] + s.w[i1] * s.x[i1]
        sw[i1 + 1] = sw[i1] + s.w[i1]
    for i1 in range(SUB + 1):
        plus2[i1] = sw[i1] * vf_set1(<float>-1.25)
        minus2[i1] = sw[i1] * vf_set1(<float>-0.75)
    sum_qx2 = vf_set1(0)
    sum_q2 = vf_set1(1)
    floor = vf_set1(0)
    hit = extreme = vf_lt(vf_set1(0), vf_set1(0))
    for step in range(2):
        # step 0 takes every fourth rank, for a score to beat; step 1 takes all
        for i1 in range(0, SUB + 1):
            if step == 0 and i1 % 4:
                continue
            x_plus = sx[SUB] * vf_set1(<float>1.125) - sx[i1]
            x_minus = sx[SUB] * vf_set1(<float>0.875) - sx[i1]
            w_plus = sw[SUB] * vf_set1(<float>1.265625) + sw[i1] * vf_set1(<float>0.75)
            w_minus = sw[SUB] * vf_set1(<float>0.765625) + sw[i1] * vf_set1(<float>1.25)
            if step == 0:
                for i2 in range(i1, SUB + 1, 4):
                    a = x_plus - sx[i2]
                    a2 = w_plus + plus2[i2]
                    hit = vf_gt(a * a * sum_q2, sum_qx2 * a2)
                    sum_qx2 = vf_select(hit, a * a, sum_qx2)
                    sum_q2 = vf_select(hit, a2, sum_q2)
                    b = x_minus - sx[i2]
                    b2 = w_minus + minus2[i2]
                    hit = vf_gt(b * b * sum_q2, sum_qx2 * b2)
                    sum_qx2 = vf_select(hit, b * b, sum_qx2)
                    sum_q2 = vf_select(hit, b2, sum_q2)
                continue
            for i2 in range(i1, SUB + 1):
                a = x_plus - sx[i2]
                a2 = w_plus + plus2[i2]
                b = x_minus - sx[i2]
                b2 = w_minus + minus2[i2]
                hit = vm_or(vf_gt(a * a, floor * a2), vf_gt(b * b, floor * b2))
                if vm_any(vm_or(vm_and(hit, alive), extreme)):
                    left_x = sx[SUB] - sx[i2]
                    left_w = sw[SUB] - sw[i2]
                    middle = (sx[i2] - sx[i1]) * vf_set1(<float>0.125)
                    middle2 = (sw[i2] - sw[i1]) * vf_set1(<float>0.125) * vf_set1(<float>0.125)
                    keep_better(
                        best, sx[i1] * vf_set1(<float>-0.875) + middle + left_x * vf_set1(<float>1.125),
                        sw[i1] * vf_set1(<float>-0.875) * vf_set1(<float>-0.875) + middle2
                        + left_w * vf_set1(<float>1.125) * vf_set1(<float>1.125), i1, i2, 1)
                    keep_better(
                        best, sx[i1] * vf_set1(<float>-1.125) - middle + left_x * vf_set1(<float>0.875),
                        sw[i1] * vf_set1(<float>-1.125) * vf_set1(<float>-1.125) + middle2
                        + left_w * vf_set1(<float>0.875) * vf_set1(<float>0.875), i1, i2, -1)
                    floor = tolerant(best.score)
        if step == 0:
            extreme = vm_and(vm_and(alive, vf_gt(sw[SUB], vf_set1(0))), start_split(best, sum_qx2, sum_q2))
            floor = tolerant(best.score)


cdef struct Scratch:
    vf x[BLOCK]
    Sorted sorted


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef Scratch *s = <Scratch *>a.scratch
    cdef vf *x = s.x
    cdef Split best
    cdef vf w[SUB]
    cdef vf scale[8]
    cdef vf delta[4]
    cdef vi shift[8]
    cdef vi upper[8]
    cdef vi lower[32]
    cdef vi index[4]
    cdef vi code[4]
    cdef vf sigma2, largest, top, inverse
    cdef vi d, number
    cdef vm alive, mirrored, used
    cdef Py_ssize_t start = 0, bad
    cdef int i, j, k
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        sigma2 = block_sigma2(x, BLOCK)
        top = vf_set1(0)
        for i in range(8):
            error_weights(a, &g, x + SUB * i, sigma2, SUB * i, SUB, w)
            largest = vf_abs(x[SUB * i])
            for j in range(1, SUB):
                largest = vf_max(vf_abs(x[SUB * i + j]), largest)
            alive = vm_and(vf_ge(largest, vf_set1(<float>1e-12)), vm_first(g.live))
            sort(x + SUB * i, w, SUB, &s.sorted)
            search_split(&s.sorted, alive, &best)
            alive = vm_and(alive, vi_gt(best.first[0], vi_set1(-1)))
            mirrored = vf_lt(best.scale, vf_set1(0))
            split_indices(x + SUB * i, &s.sorted, &best, SUB, mirrored, index)
            scale[i] = vf_abs(best.scale)
            shift[i] = vi_select(alive, vi_select(mirrored, -best.shift, best.shift), vi_set1(1))
            for k in range(4):
                delta[k] = vf_from_vi(shift[i]) * vf_set1(<float>0.125)
            choose_points(&book, x + SUB * i, w, SUB, alive, delta, &scale[i], index, code)
            scale[i] = vf_select(alive, scale[i], vf_set1(0))
            top = vf_max(scale[i], top)
            upper[i] = vi_set1(0)
            for k in range(4):
                number = vi_select(alive, number_of(&book, code[k]), vi_set1(0))
                lower[4 * i + k] = number & 255
                upper[i] = upper[i] | (number >> 8) << (3 * k)
        used = vf_gt(top, vf_set1(0))
        top = top / vf_set1(15)
        d = vi_f16(top * vf_set1(<float>1.125))
        bad = keep_finite_rows(&g, d, d)
        inverse = drop_infinite(vf_set1(1) / top)
        lanes_store_u16(g.dst, 0, d, g.live)
        lanes_store_bytes(g.dst, 2, lower, 32, g.live)
        for i in range(8):
            number = share_of_15(scale[i], inverse) | (vi_select(vi_gt(shift[i], vi_set1(0)), vi_set1(0), vi_set1(8)))
            upper[i] = upper[i] | vi_select(used, number << 12, vi_set1(0))
            lanes_store_u16(g.dst, 34 + 2 * i, upper[i], g.live)
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
    cdef int upper
    cdef Py_ssize_t row, _k
    cdef int i, l
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = load_f16(block)
            for i in range(8):
                upper = load_u16(block + 34 + 2 * i)
                scale[i] = d * <float>(2 * (upper >> 12 & 7) + 1) * <float>0.125
                for l in range(4):
                    put_shifted(q + 32 * i + 8 * l, grid[block[2 + 4 * i + l] | (upper >> (3 * l) & 7) << 8], upper >> 15)
            scale_points(q, scale, 32, out)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks(s, BLOCK)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows, prepare)
row_codec.scratch_size = sizeof(Scratch)
