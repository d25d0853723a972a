# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: freethreading_compatible=True
"""Scan a GGUF header in one pass that finds where everything is and decodes nothing.

No number in the file is trusted. A length is compared with the number of bytes left before it is added to a position.
Both are unsigned 64-bit integers, so no sum can wrap. After `_Cursor.need(n)` the next n bytes are in memory.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t

# A larger header is refused before it is read. The largest known one, with a vocabulary of 262,144, takes 16 MB.
MAX_HEADER_BYTES = 1 << 30
MAX_NAME_BYTES = 65535
# Limits the number of Python objects that a hostile header can ask for. The largest known models hold 70,000 tensors.
MAX_COUNT = 1 << 20

cdef enum:
    BOOL = 7
    STRING = 8
    ARRAY = 9
    MAX_DIMS = 4  # ggml's; the reader may be asked to take a few more
    MOST_DIMS = 8
    MIN_KEY = 8 + 1 + 4 + 1
    MIN_TENSOR = 8 + 1 + 4 + 4 + 8
    FIXED_HEADER = 4 + 4 + 8 + 8

cdef Py_ssize_t HEADER_LIMIT = MAX_HEADER_BYTES
cdef uint64_t NAME_LIMIT = MAX_NAME_BYTES
cdef uint64_t COUNT_LIMIT = MAX_COUNT


class ScanError(Exception):
    """The bytes are not a GGUF header. `args` are code, message, offset, field, found and limit."""


cdef inline uint32_t load32(const uint8_t* p) noexcept nogil:
    # Byte by byte is correct for any byte order and alignment, and compilers turn it into one load.
    return <uint32_t>p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef inline uint64_t load64(const uint8_t* p) noexcept nogil:
    return <uint64_t>load32(p) | <uint64_t>load32(p + 4) << 32


cdef inline Py_ssize_t value_size(uint32_t kind) noexcept nogil:
    """Return the bytes of one value of this type, 0 for strings and arrays, or -1 if GGUF has no such type."""
    if kind <= 1 or kind == BOOL:
        return 1
    if kind <= 3:
        return 2
    if kind <= 6:
        return 4
    if kind <= ARRAY:
        return 0
    return 8 if kind <= 12 else -1


cdef Py_ssize_t step_over_strings(
    const uint8_t* p, Py_ssize_t have, Py_ssize_t* position, Py_ssize_t n
) noexcept nogil:
    """Move `position` past up to n strings, as long as they end within `have` bytes. Return the number of strings."""
    cdef Py_ssize_t at = position[0]
    cdef Py_ssize_t i = 0
    cdef uint64_t length
    while i < n and have - at >= 8:
        length = load64(p + at)
        if length > <uint64_t>(have - at - 8):
            break
        at += 8 + <Py_ssize_t>length
        i += 1
    position[0] = at
    return i


cdef Py_ssize_t find_bad_bool(const uint8_t* p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if p[i] > 1:
            return i
    return -1


cdef class _Cursor:
    """A position in a buffer that holds the beginning of a file of `size` bytes. `more` makes it grow if necessary."""

    cdef Py_buffer view
    cdef bint held
    cdef const uint8_t* p
    cdef Py_ssize_t have
    cdef Py_ssize_t size
    cdef Py_ssize_t at
    cdef object more
    # The key or tensor that is being read, for messages only.
    cdef str what
    cdef Py_ssize_t index
    cdef object name

    def __dealloc__(self):
        self.release()

    cdef int hold(self, object buffer) except -1:
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE)
        self.held = True
        self.p = <const uint8_t*>self.view.buf
        self.have = min(self.view.len, self.size, HEADER_LIMIT)
        return 0

    cdef void release(self) noexcept:
        if self.held:
            PyBuffer_Release(&self.view)
            self.held = False
        self.p = NULL
        self.have = 0

    cdef int need(self, uint64_t n, str part) except -1:
        """Make the n bytes at the position readable. Raise ScanError unless they lie in the file and within the limit."""
        cdef Py_ssize_t limit = min(self.size, HEADER_LIMIT)
        if n > <uint64_t>(limit - self.at):
            if n > <uint64_t>(self.size - self.at):
                code, room, what = "truncated", self.size - self.at, "the file has"
            else:
                code, room, what = "too-long", limit - self.at, "the limit for a header leaves"
            raise self.error(code, part, f"takes {n} bytes but {what} {room} left", n, room)
        if n > <uint64_t>(self.have - self.at):
            # The buffer may move while it grows, so the cursor keeps no pointer across the call.
            self.release()
            self.hold(self.more(self.at + <Py_ssize_t>n))
            if self.have < self.at or n > <uint64_t>(self.have - self.at):
                raise self.error("truncated", part, "cannot be read: the file has shrunk", self.have, self.size)
        return 0

    cdef uint32_t u32(self, str part) except? 0xFFFFFFFF:
        self.need(4, part)
        self.at += 4
        return load32(self.p + self.at - 4)

    cdef uint64_t u64(self, str part) except? 0xFFFFFFFFFFFFFFFF:
        self.need(8, part)
        self.at += 8
        return load64(self.p + self.at - 8)

    cdef Py_ssize_t read_name(self) except -1:
        """Read the name of a key or tensor into `name`, and return its offset."""
        cdef uint64_t length = self.u64("name")
        if length > NAME_LIMIT:
            raise self.error("name-too-long", "name", f"is {length} bytes long, but the limit is {NAME_LIMIT}",
                             length, NAME_LIMIT)
        self.need(length, "name")
        cdef Py_ssize_t start = self.at
        self.at += <Py_ssize_t>length
        self.name = (<const char*>self.p)[start:self.at]
        return start

    cdef int skip_string(self, str part) except -1:
        cdef uint64_t length = self.u64(part)
        self.need(length, part)
        self.at += <Py_ssize_t>length
        return 0

    cdef int check_count(self, uint64_t n, Py_ssize_t size) except -1:
        """Raise ScanError unless the rest of the file has room for n elements of at least `size` bytes each."""
        cdef Py_ssize_t most = (self.size - self.at) // size
        if n > <uint64_t>most:
            raise self.error("truncated", "array length", f"is {n}, but the rest of the file can only hold {most} elements",
                             n, most)
        return 0

    cdef int skip_scalars(self, uint32_t kind, uint64_t n) except -1:
        cdef Py_ssize_t size = value_size(kind)
        cdef Py_ssize_t bad
        self.need(n * <uint64_t>size, "value")
        if kind == BOOL:
            bad = find_bad_bool(self.p + self.at, <Py_ssize_t>n)
            if bad >= 0:
                self.at += bad
                raise self.error("bad-bool", "value", f"is {self.p[self.at]}, but a bool is 0 or 1", self.p[self.at], 1)
        self.at += <Py_ssize_t>n * size
        return 0

    cdef int skip_strings(self, uint64_t count) except -1:
        cdef Py_ssize_t left = <Py_ssize_t>count
        while left:
            with nogil:
                left -= step_over_strings(self.p, self.have, &self.at, left)
            if left:
                # The next string is not completely in memory: read more of the file, or find that it does not fit.
                self.skip_string("array element")
                left -= 1
        return 0

    cdef object error(self, str code, str part, str message, object found, object limit):
        field = part
        if self.what:
            field = f"{part} of {self.what} {self.index}"
            if self.name is not None:
                name = self.name.decode("utf-8", "replace")
                field += f" {name[:80]!r}"
        return ScanError(code, f"{field} {message}", self.at, field, found, limit)


cdef int scan_key(_Cursor c, object take) except -1:
    cdef uint32_t kind, element
    cdef uint64_t count = 0
    cdef Py_ssize_t start
    cdef Py_ssize_t name_at = c.read_name()
    kind = element = c.u32("value type")
    start = c.at
    if kind == ARRAY:
        element = c.u32("element type")
        if element == ARRAY:
            raise c.error("nested-array", "value", "is an array of arrays, which no GGUF reader supports", ARRAY, 12)
        count = c.u64("array length")
    if value_size(element) < 0:
        raise c.error("bad-value-type", "value type", f"is {element}, but the types are 0 to 12", element, 12)
    if kind == ARRAY:
        c.check_count(count, 8 if element == STRING else value_size(element))
    if kind == STRING:
        c.skip_string("value")
    elif element == STRING:
        c.skip_strings(count)
    else:
        c.skip_scalars(element, count if kind == ARRAY else 1)
    take(c.name, name_at, kind, element, count, start, c.at)
    return 0


cdef int scan_tensor(_Cursor c, object take) except -1:
    cdef uint32_t n_dims
    cdef Py_ssize_t name_at = c.read_name()
    n_dims = c.u32("number of dimensions")
    if n_dims > MOST_DIMS:
        raise c.error("too-many-dims", "number of dimensions", f"is {n_dims}, but the limit is {MAX_DIMS}",
                      n_dims, MAX_DIMS)
    dims = []
    for _ in range(n_dims):
        dims.append(c.u64("dimensions"))
    type_id = c.u32("type")
    take(c.name, name_at, tuple(dims), type_id, c.u64("offset"))
    return 0


cdef tuple scan_header(_Cursor c, object take_key, object take_tensor):
    cdef uint32_t version
    cdef Py_ssize_t i
    if c.size >= 4:
        c.need(4, "magic")
        magic = (<const char*>c.p)[:4]
        if magic != b"GGUF":
            raise c.error("bad-magic", "magic", f"is {magic!r}, but a GGUF file starts with b'GGUF'", magic, b"GGUF")
    if c.size < FIXED_HEADER:
        raise c.error("too-short", "header", f"takes {FIXED_HEADER} bytes but the file has {c.size}: download or copy it again",
                      c.size, FIXED_HEADER)
    c.at = 4
    version = c.u32("version")
    if version and version & 0xFFFF == 0:
        raise c.error("byte-swapped", "version", f"is {version:#x}: the file is big-endian, but only little-endian files "
                      "can be read", version, 3)
    if version != 2 and version != 3:
        raise c.error("bad-version", "version", f"is {version}, but only 2 and 3 can be read", version, 3)
    counts = []
    for what, least in (("tensor count", MIN_TENSOR), ("key count", MIN_KEY)):
        count = c.u64(what)
        limit = min(COUNT_LIMIT, (c.size - FIXED_HEADER) // least)
        if count > limit:
            raise c.error("bad-count", what, f"is {count}, but a file of {c.size} bytes can hold at most {limit}",
                          count, limit)
        counts.append(count)
    c.what = "key"
    for i in range(counts[1]):
        c.index, c.name = i, None
        scan_key(c, take_key)
    c.what = "tensor"
    for i in range(counts[0]):
        c.index, c.name = i, None
        scan_tensor(c, take_tensor)
    return version, c.at


def scan(buffer, Py_ssize_t size, more, take_key, take_tensor):
    """Find every key and tensor of a GGUF header, and return (version, end of the header).

    `buffer` holds the first bytes of a file of `size` bytes, and `more(n)` returns a buffer with at least the first n
    bytes. The scan holds no buffer while it calls `more`. It passes on each key and tensor as soon as it finds it, and
    an exception from these functions ends the scan:
    take_key(name, offset of the name, value type, element type, array length, start of value, end of value), then
    take_tensor(name, offset of the name, dims in ne order, type id, offset in the data section). Names are unchecked
    bytes. Raise ScanError for a header that breaks the format.
    """
    cdef _Cursor c = _Cursor()
    c.size = size
    c.more = more
    c.hold(buffer)
    try:
        return scan_header(c, take_key, take_tensor)
    finally:
        c.release()


def read_strings(buffer, Py_ssize_t start, Py_ssize_t count):
    """Return the `count` strings of an array whose first length field is at `start`, as a list of str.

    Bytes that are not UTF-8 become lone surrogates (the surrogateescape handler), so that they can be written back.
    Raise ScanError if the strings do not fit into the buffer.
    """
    cdef Py_buffer view
    cdef const uint8_t* p
    cdef Py_ssize_t at = start
    cdef Py_ssize_t i, before
    cdef list strings
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        # The scan checked this, but the caller's buffer may have changed since then.
        if start < 0 or start > view.len or count < 0 or count > (view.len - start) // 8:
            raise ScanError("truncated", "array of strings does not fit", start, "array", count, view.len)
        p = <const uint8_t*>view.buf
        strings = [None] * count
        for i in range(count):
            before = at
            if not step_over_strings(p, view.len, &at, 1):
                raise ScanError("truncated", "array element does not fit", at, "array", count, view.len)
            strings[i] = PyUnicode_DecodeUTF8(<const char*>p + before + 8, at - before - 8, "surrogateescape")
        return strings
    finally:
        PyBuffer_Release(&view)
