# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""IQ2_S: super-blocks of 256 weights; each eight weights are one of 1024 points with signs. 2.5625 bits per weight.

    bytes 0-1    d  float16                x = d / 4 * (scale + 1/2) * sign * magnitude,  magnitude 8, 25 or 43
    bytes 2-33   one byte for each 8 weights: the lower 8 bits of the number of a point
    bytes 34-65  one byte for each 8 weights: their signs (set: minus)
    bytes 66-73  the upper 2 bits of the points' numbers, four per byte, the first in the lowest bits
    bytes 74-81  a 4-bit scale for each 16 weights, the first in the low nibble
"""

from libc.stdint cimport int8_t, uint8_t, uint16_t, uint64_t

from quantreg_kernels.abi cimport IMPORTANCE_NONE, DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport load_f16
from quantreg_kernels.lanes cimport (
    lanes_load, lanes_store_bytes, lanes_store_u16, vf, vf_ge, vf_max, vf_select, vf_set1, vi, vi_f16, vi_select, vi_set1,
    vm, vm_and, vm_first,
)
from quantreg_kernels.rows cimport Group, fill_group, keep_finite_rows
from quantreg_kernels.search cimport drop_infinite
from quantreg_iquants._codebook cimport unpack_codebook
from quantreg_iquants._score cimport block_sigma2, error_weights, score_blocks_of
from quantreg_iquants._iq2 cimport (
    Fit, Steps, build_grid, build_signs, put_signed, search_scale, share_of_31, start_fit, take_signs, unpack_shares,
)
from quantreg_iquants._points cimport scale_points
from quantreg_iquants._codebook8 cimport Codebook, build_codebook, number_of

cdef enum:
    TYPE_ID = 22
    BLOCK = 256
    BYTES = 82
    POINTS = 1024
    LISTED = 201152     # codes in the lists of neighbors, at 16 lanes


cdef inline const char *codebook_text() noexcept nogil:
    """Return kgrid_2bit_1024 of llama.cpp's ggml-quants.c (MIT), as _codebook.pxd packs it."""
    return (
        b"$%&&%*&%&*%&&<&%&*%&&,&%&:%&&,&/((B&&%&*%&&,&@#%&&,&%&*(&<&/%&/&B+%&&,&/-:&%&*(@2((-1K2&%&*%&&,&%&:%&&%*&%&*%&@#&"
        b"%&*(&,&B+%&&%*&%&*(&<&%&*%&&,&@#%&&,&/B0&%&*(@2(&,&/@(&/L'%&&,&%&*((:&%&*%&&,&@#(29B&&/%&&,@&(&,&/@(2C#4&1)%@-A4@"
        b"T/&%&*%&&,&%=%&&,&%&*%&&<&%-(&,&B+%&&%*&%&*%&&<&%&*%&&,&@#%&&,&B<&(*(/&@#(/&@4&/L'%&&,&%&*(&<&%&*%&&,&@#%&&,&/B0&"
        b"%&*%&&,&@#%&&,&/@(&/C#(&,&/@(&/@7@1K*&%&*(&,@&%&&,&/@(&C/%&&,&/@(&/<A$B1/@79@V9%&&,&%&*((:&/%&2@#--9B&&/%&/@&%&/&"
        b"/@(&/C#-;)%=/A#%@%K,&%&*(&,&@#%&&,&/@(&/C#(&,&/@(&/9=C4&/@7<N&(/&@4&/A%@'B&&/C8C(;A-@+%F?*&%&*%&&%*&%=%&&%*&%&*%&"
        b"@#&/(&,&B+%&&,&%&*%&@#&%&*%&&,&@#%&&,&/B0&/%&&/@#(&,&/@(&L3%&&%*&%&*%&&<&%&*%&&,&@#%&&,&/B0&%&*%&&,&@#%&&,&/-:&/C"
        b"#%&&,&/@(&/@7@,K/&(*%&&,&@#%&&,&/@+/C#%&&,&/@(&/@79B:&/@7@W3%&&,&%&*%&&<&%&*%&&,&@#%&&,&B<&%&*%&&,&@#%&&,&/@(&/C#"
        b"(&,&/@(&/<:L8&%&*%&&,&@#%&&,&/@(&/C#%&&,&/@(&/@7C4&/9=O#%&&,&/@(&/-@-C4&/@7E;<B;@*@S<&%-%&&,&@#(&,&/@+/C#%&&,&/@("
        b"&/@7<B:/@79A6K2(&,&/@(&/@7C4&/@7-@%@1B=D+L$&/B$@:B7@1I#B.EZ.%&&,&(*(@#&/%&&,@&(/&B<&(*%&&,&@#%&&,&@4&/<B&((*&@4&/"
        b"N0&%&*%&&,@&%&&,&/@(&/C#%&&,&/@(&/@7-C*&/<:O#(/&@4&/A=B.&A'@,E8@=%@/@'@T&&(*%&&/@#%&&,&/@(&/C#(/&@4&/-D>&/@7B5K-%"
        b"&&,&/@(&/@79B:&/@7B',B.A1@%M8&/9=B8B&A4,J-@T7((-1+:&/A=+D-@,D4+;)%B')%@%K,&/@7A4>B+<J'N8@%C-E-@9C5%9%)B/@)"
    )


cdef uint16_t points[POINTS]
cdef uint64_t grid[POINTS]
cdef uint64_t signs_of[256]
cdef uint16_t listed[LISTED]
cdef Codebook book

unpack_codebook(codebook_text(), points)
build_grid(points, POINTS, grid)
build_signs(signs_of, 256)


cdef void prepare() noexcept nogil:
    book.lists = listed
    build_codebook(&book, points, POINTS, 1)


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
    cdef vi bytes[64]   # 32 bytes of points, then 32 bytes of signs
    cdef vi upper[8]
    cdef vi shares[8]
    cdef Fit fit
    cdef vf sigma2, peak, top, inverse
    cdef vi d, number
    cdef vm alive
    cdef Py_ssize_t start = 0, bad
    cdef int i, j, k
    while fill_group(&g, a, start, BLOCK, BYTES):
        lanes_load(x, g.src, 0, BLOCK)
        sigma2 = block_sigma2(x, BLOCK)
        top = vf_set1(0)
        for i in range(16):
            if a.importance_kind == IMPORTANCE_NONE:
                for j in range(16):
                    w[j] = vf_set1(<float>0.25) * sigma2 + x[16 * i + j] * x[16 * i + j]
            else:
                error_weights(a, &g, x + 16 * i, sigma2, 16 * i, 16, w)
            for k in range(2):
                bytes[32 + 2 * i + k] = take_signs(x + 16 * i + 8 * k, w + 8 * k, False, magnitude + 8 * k)
            peak = magnitude[0]
            for j in range(1, 16):
                peak = vf_max(magnitude[j], peak)
            alive = vm_and(vf_ge(peak, vf_set1(<float>1e-8)), vm_first(g.live))
            start_fit(&fit, peak / vf_set1(5))
            search_scale(&book, &s.steps, magnitude, w, 16, 9, peak, alive, False, &fit)
            scale[i] = vf_select(alive, fit.scale, vf_set1(0))
            top = vf_max(scale[i], top)
            if i % 2 == 0:
                upper[i // 2] = vi_set1(0)
            for k in range(2):
                number = vi_select(alive, number_of(&book, fit.code[k]), vi_set1(0))
                bytes[2 * i + k] = number & 255
                bytes[32 + 2 * i + k] = vi_select(alive, bytes[32 + 2 * i + k], vi_set1(0))
                upper[i // 2] = upper[i // 2] | ((number >> 8) << (2 * (2 * (i % 2) + k)))
        top = top / vf_set1(31)
        d = vi_f16(top * vf_set1(<float>0.9875))
        bad = keep_finite_rows(&g, d, d)
        inverse = drop_infinite(vf_set1(1) / top)
        for i in range(8):
            shares[i] = share_of_31(scale[2 * i], inverse) | (share_of_31(scale[2 * i + 1], inverse) << 4)
        lanes_store_u16(g.dst, 0, d, g.live)
        lanes_store_bytes(g.dst, 2, bytes, 64, g.live)
        lanes_store_bytes(g.dst, 66, upper, 8, g.live)
        lanes_store_bytes(g.dst, 74, shares, 8, g.live)
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
    cdef Py_ssize_t row, _k
    cdef int i
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for _k in range(a.n_cols // BLOCK):
            d = load_f16(block)
            for i in range(32):
                put_signed(q + 8 * i, grid[block[2 + i] | (block[66 + i // 4] >> (2 * (i % 4)) & 3) << 8],
                           signs_of[block[34 + i]])
            unpack_shares(block + 74, d, scale)
            scale_points(q, scale, 16, out)
            block += BYTES
            out += BLOCK
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    return score_blocks_of(s, BLOCK, 2)


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows, prepare)
row_codec.scratch_size = sizeof(Scratch)
