# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ3_S: super-blocks of 256 weights, 8 sub-blocks of 32 with a 4-bit scale each. 3.4375 bits per weight.

Four weights are one of 512 points with signs.

    bytes 0-1      d  float16              x = d * (2 * scale[j] + 1) * point value * sign
    bytes 2-65     byte 2 + i: low 8 bits of the index of the point of weights 4 * i to 4 * i + 3
    bytes 66-73    bit i % 8 of byte 66 + i / 8: bit 8 of the same index
    bytes 74-105   bit l % 8 of byte 74 + l / 8: set if weight l is negative
    bytes 106-109  byte 106 + j: scale of sub-block 2 * j (low nibble) and of 2 * j + 1 (high nibble)

The reference does not store the points and signs of a sub-block of zeros, and does not leave room for them either: those of
the next sub-block take their place. Their ninth bits and the scales do stay in place, so such a super-block decodes
to the wrong points. The bytes have to be the reference's, so the encoder does the same.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from quantreg_iquants._iq3 cimport Codebook, Trials, build_codebook, search_points, start_trials
from quantreg_iquants._codebook cimport unpack_codebook
from quantreg_iquants._score cimport block_sigma2, error_weights, score_blocks
from quantreg_kernels.abi cimport DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16
from quantreg_kernels.lanes cimport (
    LANES, lanes_load, lanes_store_bytes, lanes_store_u16, vf, vf_abs, vf_flip, vf_gt, vf_load_fours, vf_lt, vf_max,
    vf_select, vf_set1, vf_store, vi, vi_clamp, vi_f16, vi_nearest, vi_select, vi_set1, vm_bits,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows

cdef enum:
    TYPE_ID = 21
    BLOCK = 256
    BYTES = 110
    TRIALS = 19


cdef inline const char *codebook_text() noexcept nogil:
    """Return kgrid_512 of llama.cpp's ggml-quants.c (MIT), as _codebook.pxd packs it."""
    return (
        b"$$$&%$$$%%%$')(%&%%%(%*&&$$$%'$'&&'%'*0'()$'%$&&&'&')&%%%0&+)'&%*%&)'%0%'&.'%&))&)2-%/%'()'%2(.&%142*%%/%'(0'7$$"
        b"%'$%%%$%*&%1%&,)$%&%'(*&)*%1)%-&%$'))&-&-*&&$&))$'(4).%(%0%*'%'8*&)*%2@.'&0%>%(%*/'4)+$%%%$%%%&%'$%*%%&%0$&%&%)&"
        b"'&&'&)*;&&-%(*%-'-&'%&',%(%*)1.),&*&'<&*(,0$.0+%(-@#'7'0%.(=*%%%&*%%(%&%-)+%%*(%03-'%-)-%/<*'(%'$,%')1+)('*4)'0*"
        b"%.(--066@'%0%.@*'))'&&**3-(%%*)())'7%(('-(2&)/(%(%*'@*%5.$</%-@(<47;(..)<)')1'&&/)(%%(*,@'),-()0:($20(/))&/-/@+/"
        b"6%@>@'%1@>%%/%833*@$95).()+/(2@<121&<78>@0%@<'&,%/%/)3*.2%@#&')&*4<;&19')(;@13@':@."
    )


cdef Codebook codebook
cdef float values[4 * 512]


cdef void prepare() noexcept nogil:
    build_codebook(&codebook, codebook_text(), 3)


cdef void fill_tables() noexcept nogil:
    """Fill the decoder's table: the values of each point."""
    cdef uint16_t points[512]
    cdef int i, k
    unpack_codebook(codebook_text(), points)
    for k in range(512):
        for i in range(4):
            values[4 * k + i] = <float>(2 * ((points[k] >> (3 * i)) & 7) + 1)


fill_tables()


cdef struct Scratch:
    vf x[BLOCK]
    Trials trials


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef Group g
    cdef Scratch *s = <Scratch *>a.scratch
    cdef int slot[LANES]    # where the points and signs of the next sub-block go: sub-blocks of zeros take no place
    cdef vf *x = s.x
    cdef vf w[32]
    cdef vf magnitude[32]
    cdef vf scales[8]
    cdef vi level[8]
    cdef vi points[8]
    cdef vi signs[4]
    cdef vf sigma2, peak, largest, d, inverse
    cdef vi half
    cdef Py_ssize_t start = 0, bad
    cdef uint8_t *block
    cdef unsigned int active
    cdef int i, j, lane, index
    start_trials(&s.trials, TRIALS)
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        sigma2 = block_sigma2(x, BLOCK)
        largest = vf_set1(0)
        for lane in range(g.live):
            memset(g.dst[lane], 0, BYTES)
            slot[lane] = 0
        for j in range(8):
            error_weights(a, &g, x + 32 * j, sigma2, 32 * j, 32, w)
            for i in range(4):
                signs[i] = vi_set1(0)
            peak = vf_set1(0)
            for i in range(32):
                signs[i // 8] = signs[i // 8] | vi_select(vf_lt(x[32 * j + i], vf_set1(0)), vi_set1(1 << (i % 8)), vi_set1(0))
                magnitude[i] = vf_abs(x[32 * j + i])
                peak = vf_max(peak, magnitude[i])
            active = vm_bits(vf_gt(peak, vf_set1(0))) & ((<unsigned int>1 << g.live) - 1)
            scales[j] = search_points(&codebook, &s.trials, magnitude, w, peak, active, TRIALS, False, points)
            largest = vf_select(vf_gt(largest, scales[j]), largest, scales[j])
            for lane in range(g.live):
                if not (active >> lane) & 1:
                    continue
                block = g.dst[lane]
                for i in range(8):
                    index = (<const int32_t *>points)[i * LANES + lane]
                    block[2 + 8 * slot[lane] + i] = <uint8_t>(index & 255)
                    block[66 + j] |= <uint8_t>((index >> 8) << i)
                for i in range(4):
                    block[74 + 4 * slot[lane] + i] = <uint8_t>(<const int32_t *>signs)[i * LANES + lane]
                slot[lane] += 1
        d = largest / vf_set1(31)
        half = vi_f16(d * vf_set1(<float>1.033))
        bad = keep_finite_rows(&g, half, half)
        inverse = vf_set1(1) / d
        for j in range(8):
            level[j] = vi_clamp(vi_nearest(vf_set1(<float>0.5) * (inverse * scales[j] - vf_set1(1))), 0, 15)
        for j in range(4):
            level[j] = vi_select(vf_gt(largest, vf_set1(0)), level[2 * j] | (level[2 * j + 1] << 4), vi_set1(0))
        lanes_store_u16(g.dst, 0, half, g.live)
        lanes_store_bytes(g.dst, 106, level, 4, g.live)
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
    cdef uint32_t high, signs
    cdef Py_ssize_t row, _k
    cdef int i, j, l, p
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = load_f16(block)
            for j in range(8):
                scale = vf_set1(d * <float>(1 + 2 * ((block[106 + j // 2] >> (4 * (j % 2))) & 15)))
                high = <uint32_t>block[66 + j] << 8
                memcpy(&signs, block + 74 + 4 * j, 4)
                for i in range(32 // LANES):
                    for l in range(LANES // 4):
                        p = i * (LANES // 4) + l
                        fours[l] = values + 4 * (block[2 + 8 * j + p] | ((high >> p) & 256))
                    vf_store(out + i * LANES, vf_flip(scale * vf_load_fours(fours), signs >> (i * LANES)))
                out += 32
            block += BYTES
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks(s, BLOCK)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows, prepare)
row_codec.scratch_size = sizeof(Scratch)
