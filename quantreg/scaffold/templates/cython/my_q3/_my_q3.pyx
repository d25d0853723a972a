# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""MY_Q3: blocks of 32 weights of 3 bits with one scale. 3.5 bits a weight.

    bytes 0-1   scale  float16                        x = scale * (q - 4)
    bytes 2-13  q, 3 bits each, from the low bits up

One block at a time, plain C arithmetic: quantreg's own codecs show how to put a block into every vector lane
(quantreg_kernels/lanes.pxd). Write float literals as <float>0.5: a bare 0.5 is a double.
"""

from libc.math cimport fabsf, rintf
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset

from quantreg_kernels.abi cimport IMPORTANCE_NONE, DecodeArgs, EncodeArgs, RowCodec, ScoreArgs, codec_capsule
from quantreg_kernels.half cimport f16_is_finite, f16_to_f32, f32_to_f16, load_f16, store_u16

cdef enum:
    TYPE_ID = 4242
    BLOCK = 32
    BYTES = 14


cdef inline void nearest(const float *x, float scale, float *q) noexcept nogil:
    """The level of each weight, -4 .. 3."""
    cdef float inverse = 1 / scale if fabsf(scale) > <float>1e-30 else <float>0
    cdef int i
    for i in range(BLOCK):
        q[i] = min(max(rintf(x[i] * inverse), <float>-4), <float>3)


cdef inline bint encode_block(const float *x, const float *weights, uint8_t *block) noexcept nogil:
    """Returns whether the scale is finite. `weights` is NULL without importance."""
    cdef float q[BLOCK]
    cdef float largest = 0, scale, w, above = 0, below = 0
    cdef uint16_t half
    cdef int i, b, bits
    for i in range(BLOCK):
        if fabsf(x[i]) > fabsf(largest):
            largest = x[i]
    scale = largest / -4  # the largest weight takes the one level that lies furthest out
    nearest(x, scale, q)
    for i in range(BLOCK):  # least squares
        w = weights[i] if weights != NULL else <float>1
        above += w * x[i] * q[i]
        below += w * q[i] * q[i]
    half = f32_to_f16(above / below if below > 0 else scale)
    if not f16_is_finite(half):
        return False
    nearest(x, f16_to_f32(half), q)
    store_u16(block, half)
    memset(block + 2, 0, BYTES - 2)
    for i in range(BLOCK):
        bits = <int>q[i] + 4
        for b in range(3):
            block[2 + (3 * i + b) // 8] |= ((bits >> b) & 1) << ((3 * i + b) % 8)
    return True


cdef Py_ssize_t encode_rows(const RowCodec *codec, const EncodeArgs *a) noexcept nogil:
    cdef const float *weights = NULL
    cdef Py_ssize_t row, k
    for row in range(a.n_rows):
        for k in range(a.n_cols // BLOCK):
            if a.importance_kind != IMPORTANCE_NONE:
                weights = a.importance + row * a.importance_stride + k * BLOCK
            if not encode_block(a.src + row * a.src_stride + k * BLOCK, weights,
                                a.dst + row * a.dst_stride + k * BYTES):
                return row
    return a.n_rows


cdef Py_ssize_t decode_rows(const RowCodec *codec, const DecodeArgs *a) noexcept nogil:
    cdef const uint8_t *block
    cdef float *out
    cdef float scale
    cdef Py_ssize_t row, k
    cdef int i, b, bits
    for row in range(a.n_rows):
        block = a.src + row * a.src_stride
        out = a.dst + row * a.dst_stride
        for k in range(a.n_cols // BLOCK):
            scale = load_f16(block)
            for i in range(BLOCK):
                bits = 0
                for b in range(3):
                    bits |= ((block[2 + (3 * i + b) // 8] >> ((3 * i + b) % 8)) & 1) << b
                out[k * BLOCK + i] = scale * <float>(bits - 4)
            block += BYTES
    return a.n_rows


cdef Py_ssize_t score_rows(const RowCodec *codec, const ScoreArgs *s) noexcept nogil:
    """The column statistics are the error weights, as they are."""
    cdef Py_ssize_t row
    for row in range(s.n_rows):
        memcpy(s.dst + row * s.dst_stride, s.columns, s.n_cols * sizeof(float))
    return s.n_rows


cdef RowCodec row_codec
codec = codec_capsule(&row_codec, TYPE_ID, BLOCK, BYTES, encode_rows, decode_rows, score_rows)
