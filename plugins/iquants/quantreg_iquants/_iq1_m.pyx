# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ1_M: super-blocks of 256 weights; each eight weights are one of 2048 points. 1.75 bits per weight.

    x = d * (2 * scale + 1) * (coordinate + delta),  coordinate -1, 0 or 1

    bytes 0-31   one byte for each 8 weights: the lower 8 bits of the number of a point
    bytes 32-47  4 bits for each 8 weights, the first in the low nibble: the upper 3 bits of the same number, and on top
                 the sign of delta (0: 1/8, 1: -1/8)
    bytes 48-55  16 bits for each 64 weights: a 3-bit scale for each 16 weights, from the low bits up, and on top 4 bits of
                 the float16 d, the lowest 4 in the first word
"""

from libc.stdint cimport int8_t, uint8_t, uint16_t, uint64_t

from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport f16_to_f32, load_u16
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store_bytes, vf, vf_abs, vf_ge, vf_from_vi, vf_gt, vf_lookup4, vf_lt, vf_max, vf_select, vf_set1, vi,
    vi_eq, vi_f16, vi_gt, vi_select, vi_set1, vi_shr, vm, vm_and, vm_any, vm_first, vm_or,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kernels.search cimport drop_infinite
from quantreg_iquants._codebook cimport unpack_codebook
from quantreg_iquants._score cimport block_sigma2, error_weights, score_blocks
from quantreg_iquants._iq1 cimport (
    LISTED, POINTS, Sorted, Split, build_grid, choose_points, codebook_text, coordinates, keep_better, put_shifted,
    share_of_15, sort, split_indices, start_split, tolerant,
)
from quantreg_iquants._points cimport scale_points
from quantreg_iquants._codebook8 cimport Codebook, build_codebook, number_of

cdef enum:
    TYPE_ID = 29
    BLOCK = 256
    BYTES = 56
    SUB = 16


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
    """Find the best of all splits of 16 weights, with delta 1/8 or -1/8 for each half. See _iq1.pxd.

    shift is 1 if the delta of weights 8-15 is -1/8, plus 2 if that of weights 0-7 is.
    """
    cdef vf sx[2][SUB + 1]      # sums over a half's weights among the first i: of w x, of w
    cdef vf sw[2][SUB + 1]
    cdef vf both[SUB + 1]       # of w x over both halves
    cdef vf second[4][SUB + 1]  # what the second boundary adds to sum w q^2 for each shift
    cdef vf total[4]
    cdef vf plus[2]
    cdef vf minus[2]
    cdef vf plus2[2]
    cdef vf minus2[2]
    cdef vf first[4]
    cdef vf at[4]
    cdef vf wx, floor, sum_qx2, sum_q2, u, v
    cdef vm hit, extreme, low
    cdef int i1, i2, j, h, step
    both[0] = vf_set1(0)
    for h in range(2):
        sx[h][0] = vf_set1(0)
        sw[h][0] = vf_set1(0)
    for j in range(SUB):
        wx = s.w[j] * s.x[j]
        low = vi_gt(vi_set1(8), s.order[j])
        sx[0][j + 1] = sx[0][j] + vf_select(low, wx, vf_set1(0))
        sx[1][j + 1] = sx[1][j] + vf_select(low, vf_set1(0), wx)
        sw[0][j + 1] = sw[0][j] + vf_select(low, s.w[j], vf_set1(0))
        sw[1][j + 1] = sw[1][j] + vf_select(low, vf_set1(0), s.w[j])
        both[j + 1] = sx[0][j + 1] + sx[1][j + 1]
    for j in range(SUB + 1):
        second[0][j] = (sw[0][j] + sw[1][j]) * vf_set1(<float>-1.25)
        second[1][j] = sw[0][j] * vf_set1(<float>-1.25) + sw[1][j] * vf_set1(<float>-0.75)
        second[2][j] = sw[0][j] * vf_set1(<float>-0.75) + sw[1][j] * vf_set1(<float>-1.25)
        second[3][j] = (sw[0][j] + sw[1][j]) * vf_set1(<float>-0.75)
    total[0] = both[SUB] * vf_set1(<float>1.125)
    total[1] = sx[0][SUB] * vf_set1(<float>1.125) + sx[1][SUB] * vf_set1(<float>0.875)
    total[2] = sx[0][SUB] * vf_set1(<float>0.875) + sx[1][SUB] * vf_set1(<float>1.125)
    total[3] = both[SUB] * vf_set1(<float>0.875)
    sum_qx2 = vf_set1(0)
    sum_q2 = vf_set1(1)
    floor = vf_set1(0)
    hit = extreme = vf_lt(vf_set1(0), vf_set1(0))
    for step in range(2):
        # step 0 takes every fourth rank, for a score to beat; step 1 takes all
        for i1 in range(0, SUB + 1):
            if step == 0 and i1 % 4:
                continue
            for h in range(2):
                plus[h] = sw[h][SUB] * vf_set1(<float>1.265625) + sw[h][i1] * vf_set1(<float>0.75)
                minus[h] = sw[h][SUB] * vf_set1(<float>0.765625) + sw[h][i1] * vf_set1(<float>1.25)
            first[0] = plus[0] + plus[1]
            first[1] = plus[0] + minus[1]
            first[2] = minus[0] + plus[1]
            first[3] = minus[0] + minus[1]
            for j in range(4):
                at[j] = total[j] - both[i1]
            if step == 0:
                for i2 in range(i1, SUB + 1, 4):
                    for j in range(4):
                        u = at[j] - both[i2]
                        v = first[j] + second[j][i2]
                        hit = vf_gt(u * u * sum_q2, sum_qx2 * v)
                        sum_qx2 = vf_select(hit, u * u, sum_qx2)
                        sum_q2 = vf_select(hit, v, sum_q2)
                continue
            for i2 in range(i1, SUB + 1):
                hit = extreme
                for j in range(4):
                    u = at[j] - both[i2]
                    v = first[j] + second[j][i2]
                    hit = vm_or(hit, vm_and(alive, vf_gt(u * u, floor * v)))
                if vm_any(hit):
                    for h in range(2):
                        u = sx[h][i1] + sx[h][i2]
                        plus[h] = sx[h][SUB] * vf_set1(<float>1.125) - u
                        minus[h] = sx[h][SUB] * vf_set1(<float>0.875) - u
                        u = sw[h][SUB]
                        plus2[h] = (u * vf_set1(<float>1.125) * vf_set1(<float>1.125) + sw[h][i1] * vf_set1(<float>0.75)
                                    + sw[h][i2] * vf_set1(<float>-1.25))
                        minus2[h] = (u * vf_set1(<float>0.875) * vf_set1(<float>0.875) + sw[h][i1] * vf_set1(<float>1.25)
                                     + sw[h][i2] * vf_set1(<float>-0.75))
                    keep_better(best, plus[0] + plus[1], plus2[0] + plus2[1], i1, i2, 0)
                    keep_better(best, plus[0] + minus[1], plus2[0] + minus2[1], i1, i2, 1)
                    keep_better(best, minus[0] + plus[1], minus2[0] + plus2[1], i1, i2, 2)
                    keep_better(best, minus[0] + minus[1], minus2[0] + minus2[1], i1, i2, 3)
                    floor = tolerant(best.score)
        if step == 0:
            extreme = vm_and(vm_and(alive, vf_gt(sw[0][SUB] + sw[1][SUB], vf_set1(0))), start_split(best, sum_qx2, sum_q2))
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
    cdef vf scale[16]
    cdef vf delta[32]
    cdef vi shift[16]
    cdef vi code[32]
    cdef vi bytes[56]
    cdef vi index[2]
    cdef vf sigma2, largest, top, inverse, d, sum_qx, sum_q2, q, wq
    cdef vf level = coordinates()
    cdef vi f16, number, share
    cdef vi scales[4]
    cdef vm alive, mirrored, used
    cdef Py_ssize_t start = 0, bad
    cdef int i, j, k
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        sigma2 = block_sigma2(x, BLOCK)
        top = vf_set1(0)
        for i in range(16):
            error_weights(a, &g, x + SUB * i, sigma2, SUB * i, SUB, w)
            largest = vf_abs(x[SUB * i])
            for j in range(1, SUB):
                largest = vf_max(vf_abs(x[SUB * i + j]), largest)
            alive = vm_and(vf_ge(largest, vf_set1(<float>1e-7)), vm_first(g.live))
            sort(x + SUB * i, w, SUB, &s.sorted)
            search_split(&s.sorted, alive, &best)
            alive = vm_and(alive, vi_gt(best.first[0], vi_set1(-1)))
            mirrored = vf_lt(best.scale, vf_set1(0))
            split_indices(x + SUB * i, &s.sorted, &best, SUB, mirrored, index)
            scale[i] = vf_abs(best.scale)
            shift[i] = vi_select(alive, vi_select(mirrored, 3 - best.shift, best.shift), vi_set1(0))
            delta[2 * i] = vf_select(vi_gt(shift[i], vi_set1(1)), vf_set1(<float>-0.125), vf_set1(<float>0.125))
            delta[2 * i + 1] = vf_select(vi_eq(shift[i] & 1, vi_set1(1)), vf_set1(<float>-0.125), vf_set1(<float>0.125))
            choose_points(&book, x + SUB * i, w, SUB, alive, delta + 2 * i, &scale[i], index, code + 2 * i)
            scale[i] = vf_select(alive, scale[i], vf_set1(0))
            top = vf_max(scale[i], top)
            bytes[32 + i] = vi_set1(0)
            for k in range(2):
                code[2 * i + k] = vi_select(alive, code[2 * i + k], vi_set1(0))
                number = number_of(&book, code[2 * i + k])
                bytes[2 * i + k] = number & 255
                bytes[32 + i] = bytes[32 + i] | (number >> 8) << (4 * k)
        used = vf_gt(top, vf_set1(0))
        d = top / vf_set1(15)
        inverse = drop_infinite(vf_set1(1) / d)
        sum_qx = vf_set1(0)
        sum_q2 = vf_set1(0)
        for i in range(16):
            share = share_of_15(scale[i], inverse)
            number = vi_select(vi_gt(shift[i], vi_set1(1)), vi_set1(0x08), vi_set1(0)) | ((shift[i] & 1) << 7)
            bytes[32 + i] = bytes[32 + i] | vi_select(used, number, vi_set1(0))
            if i % 4 == 0:
                scales[i // 4] = vi_set1(0)
            scales[i // 4] = scales[i // 4] | share << (3 * (i % 4))
            error_weights(a, &g, x + SUB * i, sigma2, SUB * i, SUB, w)
            for j in range(SUB):
                q = vf_lookup4(level, vi_shr(code[2 * i + j // 8], 2 * (j % 8))) + delta[2 * i + j // 8]
                q = q * vf_from_vi(2 * share + 1)
                wq = w[j] * q
                sum_qx = sum_qx + wq * x[SUB * i + j]
                sum_q2 = sum_q2 + wq * q
        d = vf_select(vf_gt(sum_q2, vf_set1(0)), sum_qx / sum_q2, d)
        f16 = vi_select(used, vi_f16(d * vf_set1(<float>1.1125)), vi_set1(0))
        bad = keep_finite_rows(&g, f16, f16)
        for i in range(4):
            scales[i] = vi_select(used, scales[i], vi_set1(0)) | ((f16 >> (4 * i)) & 15) << 12
            bytes[48 + 2 * i] = scales[i] & 255
            bytes[49 + 2 * i] = scales[i] >> 8
        lanes_store_bytes(g.dst, 0, bytes, 56, g.live)
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
    cdef int i, upper
    cdef uint16_t s0, s1, s2, s3
    cdef Py_ssize_t row, _k
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            s0 = load_u16(block + 48)
            s1 = load_u16(block + 50)
            s2 = load_u16(block + 52)
            s3 = load_u16(block + 54)
            d = f16_to_f32(<uint16_t>(s0 >> 12 | (s1 >> 8 & 0xf0) | (s2 >> 4 & 0xf00) | (s3 & 0xf000)))
            for i in range(16):
                scale[i] = d * <float>(2 * (load_u16(block + 48 + 2 * (i // 4)) >> (3 * (i % 4)) & 7) + 1) * <float>0.125
                upper = block[32 + i]
                put_shifted(q + 16 * i, grid[block[2 * i] | (upper & 7) << 8], upper >> 3 & 1)
                put_shifted(q + 16 * i + 8, grid[block[2 * i + 1] | (upper >> 4 & 7) << 8], upper >> 7)
            scale_points(q, scale, 16, out)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks(s, BLOCK)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows, prepare)
row_codec.scratch_size = sizeof(Scratch)
