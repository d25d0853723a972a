# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What _run.pyx checks about the arrays that it hands to codecs: values, alignment, strides."""

from libc.stdint cimport uint32_t

from quantreg_kernels.half cimport bits_from_float


cdef inline Py_ssize_t find_nonfinite(const float *x, Py_ssize_t n) noexcept nogil:
    """Return the index of the first NaN or infinity in x, or -1."""
    cdef const uint32_t *bits = <const uint32_t *>x
    cdef Py_ssize_t i = 0, j, end
    cdef uint32_t bad
    cdef float zero
    while i < n:
        end = i + 1024 if n - i > 1024 else n
        bad = 0
        for j in range(i, end):
            zero = x[j] - x[j]  # NaN if x[j] is NaN or infinite
            bad |= bits_from_float(zero)
        if bad:
            for j in range(i, end):
                if (bits[j] & <uint32_t>0x7f800000) == <uint32_t>0x7f800000:
                    return j
        i = end
    return -1


cdef inline Py_ssize_t find_nonfinite_in_rows(const float *x, Py_ssize_t n_rows, Py_ssize_t n_cols,
                                              Py_ssize_t stride) noexcept nogil:
    """Return row * n_cols + column of the first NaN or infinity, or -1. The stride is in floats."""
    cdef Py_ssize_t row, column
    if stride == n_cols:
        return find_nonfinite(x, n_rows * n_cols)
    for row in range(n_rows):
        column = find_nonfinite(x + row * stride, n_cols)
        if column >= 0:
            return row * n_cols + column
    return -1


cdef inline int check_aligned(str name, const void *floats, Py_ssize_t stride=0) except -1:
    """Codecs may use instructions that fault on a float32 at an odd address. The stride is in bytes."""
    if <size_t>floats % sizeof(float) or stride % <Py_ssize_t>sizeof(float):
        raise ValueError(f"{name} is float32 that is not aligned in memory: np.require({name}, np.float32, 'CA') "
                         "makes an aligned copy")
    return 0


cdef inline Py_ssize_t row_stride(str name, const Py_ssize_t *shape, const Py_ssize_t *strides, Py_ssize_t itemsize,
                                  bint written=False) except? -1:
    """Return the distance in bytes between two rows of a two-dimensional array, negative if they run backwards.

    Raise ValueError if the columns are not contiguous, or if rows that are written overlap.
    """
    cdef Py_ssize_t nbytes = shape[1] * itemsize
    if shape[1] > 1 and strides[1] != itemsize:
        raise ValueError(f"columns of {name} lie {strides[1]} bytes apart, but must be contiguous ({itemsize} bytes "
                         f"apart): np.ascontiguousarray({name}) makes such a copy. Rows may lie apart")
    if shape[0] <= 1:
        return nbytes
    if written and -nbytes < strides[0] < nbytes:
        raise ValueError(f"rows of {name} overlap: they lie {strides[0]} bytes apart and have {nbytes} bytes each. "
                         "Pass an array whose rows do not share memory")
    return strides[0]
