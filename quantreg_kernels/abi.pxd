# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The codec ABI: one struct of function pointers, passed in a capsule named "quantreg.RowCodec".

Members are appended, never reordered. The host zero-fills every Args struct and sets its struct_size, so a member
that one side does not know reads as zero. A change that breaks this raises ABI_MAJOR, and codecs of another major are
refused.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, uint8_t

cdef enum:
    ABI_MAJOR = 1

# importance_kind
cdef enum:
    IMPORTANCE_NONE = 0
    IMPORTANCE_COLUMNS = 1  # one float32 a column (an imatrix row); the codec applies its own scoring
    IMPORTANCE_WEIGHTS = 2  # one float32 a weight, used as the error weight as it is

cdef struct RowCodec

# Rows of n_cols float32 at src, src_stride floats apart, to rows of bytes at dst, dst_stride bytes apart. Every value
# of src is finite, but for codecs that take others. importance_stride is the distance in floats between the importance
# of two rows (0: all rows share it).
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

# The reverse: bytes at src, src_stride bytes apart, to float32 at dst, dst_stride floats apart. Any bytes are valid
# input.
cdef struct DecodeArgs:
    Py_ssize_t struct_size
    const uint8_t *src
    float *dst
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t src_stride
    Py_ssize_t dst_stride

# The encoder's own error weights, one a weight, for rows at src under the column statistics at columns (n_cols floats).
cdef struct ScoreArgs:
    Py_ssize_t struct_size
    const float *src
    float *dst
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t src_stride
    Py_ssize_t dst_stride
    const float *columns

# Each returns the number of rows done. Fewer than n_rows: the row of that index cannot be represented (a scale that
# overflows to infinity or is NaN); the bytes from that row on are unspecified.
ctypedef Py_ssize_t (*encode_rows_t)(const RowCodec *, const EncodeArgs *) noexcept nogil
ctypedef Py_ssize_t (*decode_rows_t)(const RowCodec *, const DecodeArgs *) noexcept nogil
ctypedef Py_ssize_t (*score_rows_t)(const RowCodec *, const ScoreArgs *) noexcept nogil
ctypedef void (*prepare_t)() noexcept nogil

cdef struct RowCodec:
    Py_ssize_t struct_size
    int32_t abi_major
    int32_t type_id
    Py_ssize_t block_size       # weights a block
    Py_ssize_t type_size        # bytes a block
    Py_ssize_t row_header_size  # bytes before a row's first block; 0 for all of ggml's types
    prepare_t prepare           # builds lookup tables before the first encode; called once, under a lock; may be NULL
    encode_rows_t encode_rows   # NULL where the type can only be decoded
    decode_rows_t decode_rows
    score_rows_t score_rows     # NULL where the type reads no importance
    int32_t whole_rows          # not 0 where a block cannot be decoded without the rest of its row
    int32_t takes_nonfinite     # not 0 where encode_rows may be given NaN and infinity; such rows are refused afterwards


cdef inline object codec_capsule(RowCodec *codec, int32_t type_id, Py_ssize_t block_size, Py_ssize_t type_size,
                                 encode_rows_t encode_rows, decode_rows_t decode_rows, score_rows_t score_rows,
                                 prepare_t prepare=NULL, Py_ssize_t row_header_size=0):
    """Fill `codec`, which must live as long as the module, and wrap it.

    Every codec file ends with ``codec = codec_capsule(...)``. A type that only decodes passes NULL for encode_rows, one
    that reads no importance passes NULL for score_rows; one with a scale or a codebook a row passes its bytes as
    row_header_size, after NULL or a function for prepare. Below it stand the members that are not 0: whole_rows,
    takes_nonfinite (for an encoder that reads memory faster than it computes, and that no float leads astray).
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
    return PyCapsule_New(codec, "quantreg.RowCodec", NULL)
