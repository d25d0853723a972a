# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The codec ABI: one struct of function pointers, passed in a capsule named "quantreg.RowCodec".

Members are appended, never reordered. The host fills every Args struct with zeros and sets its struct_size, so a member
that one side does not know reads as zero. A change that breaks this raises ABI_MAJOR, and the host refuses codecs with
another major number.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, uint8_t

cdef extern from "quantreg_kernels/platform.h":
    pass  # stops the compiler if a codec built with it could not write the right bytes

cdef enum:
    ABI_MAJOR = 1

# importance_kind
cdef enum:
    IMPORTANCE_NONE = 0
    IMPORTANCE_COLUMNS = 1  # one float32 per column (a row of an imatrix); the codec applies its own scoring
    IMPORTANCE_WEIGHTS = 2  # one float32 per weight, which is the error weight itself

cdef struct RowCodec

# From rows of n_cols float32 at src, src_stride floats apart, to rows of bytes at dst, dst_stride bytes apart. The
# strides are real: rows may lie apart, overlap where they are only read, or run backwards (a negative stride), and the
# bytes between two rows of dst belong to somebody else. Every value of src is finite unless the codec sets
# takes_nonfinite. importance_stride is the distance in floats between the importance of two rows (0: all rows share it).
# scratch points at scratch_size bytes that the codec may write, aligned to 64. They hold anything. A codec with large arrays
# keeps them there, not on the stack: a thread may have as little as 128 KiB of stack in all.
cdef struct EncodeArgs:
    Py_ssize_t struct_size
    const float *src
    uint8_t *dst
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t src_stride
    Py_ssize_t dst_stride
    const float *importance
    int32_t importance_kind
    Py_ssize_t importance_stride
    void *scratch               # NULL if scratch_size is 0

# The reverse: from bytes at src, src_stride bytes apart, to float32 at dst, dst_stride floats apart. The codec must
# accept any bytes.
cdef struct DecodeArgs:
    Py_ssize_t struct_size
    const uint8_t *src
    float *dst
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t src_stride
    Py_ssize_t dst_stride

# The error weights that the encoder derives from the column statistics at columns (n_cols floats), one per weight of
# the rows at src. Both strides are in floats.
cdef struct ScoreArgs:
    Py_ssize_t struct_size
    const float *src
    float *dst
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t src_stride
    Py_ssize_t dst_stride
    const float *columns

# Products: dst[i * dst_stride + r] is the sum of row i of activations times row r of weights, for n_x rows of float32 at x,
# x_stride floats apart. src is as in DecodeArgs, and so is what the codec must accept. The weights are those that decode_rows
# gives, and the sum has the error of a float32 sum. Its order may depend on the CPU level and on n_cols only, so that the
# result depends on nothing else. The host passes few rows of activations, 1 to 7; for more it decodes.
cdef struct DotArgs:
    Py_ssize_t struct_size
    const uint8_t *src
    const float *x
    float *dst
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t n_x
    Py_ssize_t src_stride
    Py_ssize_t x_stride
    Py_ssize_t dst_stride

# Each returns the number of rows done. If that is less than n_rows, the row of that index cannot be represented (a scale
# overflows to infinity or is NaN), and the bytes from that row on are unspecified.
ctypedef Py_ssize_t (*encode_rows_t)(const RowCodec *, const EncodeArgs *) noexcept nogil
ctypedef Py_ssize_t (*decode_rows_t)(const RowCodec *, const DecodeArgs *) noexcept nogil
ctypedef Py_ssize_t (*score_rows_t)(const RowCodec *, const ScoreArgs *) noexcept nogil
ctypedef Py_ssize_t (*dot_rows_t)(const RowCodec *, const DotArgs *) noexcept nogil
ctypedef void (*prepare_t)() noexcept nogil

cdef struct RowCodec:
    Py_ssize_t struct_size
    int32_t abi_major
    int32_t type_id
    Py_ssize_t block_size       # weights per block
    Py_ssize_t type_size        # bytes per block
    Py_ssize_t row_header_size  # bytes before the first block of a row; 0 for all of ggml's types
    prepare_t prepare           # builds lookup tables; called once, under a lock, before the first encode; may be NULL
    encode_rows_t encode_rows   # NULL if the type can only be decoded
    decode_rows_t decode_rows
    score_rows_t score_rows     # NULL if the type reads no importance
    int32_t whole_rows          # not 0 if a block cannot be decoded without the rest of its row
    int32_t takes_nonfinite     # not 0 if the host may look for NaN and infinity after encode_rows instead of before it
    dot_rows_t dot_rows         # NULL if the host is to decode and multiply; see dot.pxd
    Py_ssize_t scratch_size     # bytes at EncodeArgs.scratch; 0 if encode_rows needs none


cdef inline object codec_capsule(RowCodec *codec, int32_t type_id, Py_ssize_t block_size, Py_ssize_t type_size,
                                 encode_rows_t encode_rows, decode_rows_t decode_rows, score_rows_t score_rows,
                                 prepare_t prepare=NULL, Py_ssize_t row_header_size=0):
    """Fill `codec`, which must live as long as the module, and wrap it in a capsule.

    Every codec file ends with ``codec = codec_capsule(...)``. Pass NULL for encode_rows if the type only decodes, and
    NULL for score_rows if it reads no importance. A type with a scale or a codebook per row passes its size in bytes as
    row_header_size.

    Set more members below that line if they apply: ``row_codec.whole_rows = 1``, ``row_codec.takes_nonfinite = 1``,
    ``row_codec.scratch_size = sizeof(Scratch)`` for arrays that are too large for a small stack, and
    ``row_codec.dot_rows = dot_rows``, a product with a few rows of activations that spares the detour through decoded rows.
    The host reads each row twice, once to look for NaN and infinity and once to encode it, and the first of the two waits
    for memory. A fast encoder prefetches and so waits less: with takes_nonfinite it goes first, and the host checks the
    rows while they are in the cache. It must be safe with any float, and a NaN must not change the rows before it. What it
    writes for a row with a NaN or infinity does not matter, because the host refuses that row.
    """
    codec.struct_size = sizeof(RowCodec)
    codec.abi_major = ABI_MAJOR
    codec.type_id = type_id
    codec.block_size = block_size
    codec.type_size = type_size
    codec.row_header_size = row_header_size
    codec.prepare = prepare
    codec.encode_rows = encode_rows
    codec.decode_rows = decode_rows
    codec.score_rows = score_rows
    codec.whole_rows = 0
    codec.takes_nonfinite = 0
    codec.dot_rows = NULL
    codec.scratch_size = 0
    return PyCapsule_New(codec, "quantreg.RowCodec", NULL)
