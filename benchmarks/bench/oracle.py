"""Call the reference through ctypes: libggml-base of llama-cpp-python, or the library that QUANTREG_GGML names."""

import ctypes
import os
from ctypes import POINTER, Structure, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

__all__ = ["MISSING", "PINNED", "Ggml", "load", "optional"]

PINNED = "llama-cpp-python==0.3.36"
MISSING = f"the oracle is missing: pip install '.[bench]' for {PINNED}, or set QUANTREG_GGML=/path/to/libggml-base.so"

Rows = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)


class _Traits(Structure):
    _fields_ = (
        ("type_name", c_char_p),
        ("block_size", c_int64),
        ("interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", c_void_p),
        ("from_float_ref", c_void_p),
    )


class _InitParams(Structure):
    _fields_ = (("no_alloc", c_bool), ("ctx", c_void_p))


class Ggml:
    """The functions of one libggml-base that the benchmarks use. They work on the arrays of the caller."""

    COUNT = 43  # GGML_TYPE_COUNT of the pinned reference

    # These formats are for activations: ggml_quantize_chunk refuses them, and only these functions write them.
    ROWS_ONLY = {"Q8_1": "quantize_row_q8_1_ref", "Q8_K": "quantize_row_q8_K_ref"}  # noqa: RUF012

    def __init__(self, path):
        self.path = str(path)
        self.lib = lib = ctypes.CDLL(self.path)
        lib.ggml_quantize_chunk.restype = c_size_t
        lib.ggml_quantize_chunk.argtypes = [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]
        lib.ggml_quantize_init.argtypes = [c_int]
        lib.ggml_quantize_init.restype = None
        lib.ggml_quantize_requires_imatrix.argtypes = [c_int]
        lib.ggml_quantize_requires_imatrix.restype = c_bool
        lib.ggml_get_type_traits.argtypes = [c_int]
        lib.ggml_get_type_traits.restype = POINTER(_Traits)
        for name, result, arguments in (
            ("gguf_init_from_file", c_void_p, [c_char_p, _InitParams]),
            ("gguf_free", None, [c_void_p]),
            ("gguf_find_key", c_int64, [c_void_p, c_char_p]),
            ("gguf_get_arr_n", c_size_t, [c_void_p, c_int64]),
            ("gguf_get_arr_str", c_char_p, [c_void_p, c_int64, c_size_t]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments

    def knows(self, type_id):
        """Return whether the pinned reference has this type. It aborts if it is asked about one that it lacks."""
        return type_id < self.COUNT

    def layout(self, type_id):
        """Return (name, weights per block, bytes per block), as the library defines them."""
        traits = self.lib.ggml_get_type_traits(type_id).contents
        return traits.type_name.decode(), traits.block_size, traits.type_size

    def requires_importance(self, type_id):
        return self.lib.ggml_quantize_requires_imatrix(type_id)

    def encoder(self, name, type_id, x, out, importance=None):
        """Return a `partial` that encodes float32 (rows, cols) into uint8 (rows, bytes per row), or None."""
        if name in self.ROWS_ONLY:
            if importance is not None:
                return None
            function = Rows((self.ROWS_ONLY[name], self.lib))
            return partial(function, x.ctypes.data, out.ctypes.data, x.size)
        self.lib.ggml_quantize_init(type_id)
        weights = None if importance is None else importance.ctypes.data
        rows, cols = x.shape
        return partial(self.lib.ggml_quantize_chunk, type_id, x.ctypes.data, out.ctypes.data, 0, rows, cols, weights)

    def decoder(self, type_id, data, out):
        """Return a `partial` that decodes uint8 (rows, bytes per row) into float32 (rows, cols), or None."""
        name, *_ = self.layout(type_id)
        address = self.lib.ggml_get_type_traits(type_id).contents.to_float
        function = Rows(address) if address else None
        if function is None and hasattr(self.lib, f"dequantize_row_{name}"):
            function = Rows((f"dequantize_row_{name}", self.lib))
        if function is None:
            return None
        return partial(function, data.ctypes.data, out.ctypes.data, out.size)

    # ---- files ----

    def open_file(self, path):
        """Read the header of a GGUF file and release it."""
        handle = self.lib.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
        if not handle:
            raise OSError(f"{path}: the C reader refuses it")
        self.lib.gguf_free(handle)

    def strings(self, path, key):
        """Return an array of strings as bytes, or None if the file lacks the key. Slow, and only for comparison."""
        handle = self.lib.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
        try:
            index = self.lib.gguf_find_key(handle, key.encode())
            if index < 0:
                return None
            return [self.lib.gguf_get_arr_str(handle, index, i) for i in range(self.lib.gguf_get_arr_n(handle, index))]
        finally:
            self.lib.gguf_free(handle)


@cache
def load():
    """Return the reference, or None if it is not installed."""
    named = os.environ.get("QUANTREG_GGML")
    if named:
        return Ggml(named)
    spec = find_spec("llama_cpp")
    if spec is None or not spec.origin:
        return None
    folder = Path(spec.origin).parent / "lib"
    for pattern in ("libggml-base.so", "libggml-base.dylib", "*ggml-base*.dll"):
        for path in folder.glob(pattern):
            return Ggml(path)
    return None


def optional(name):
    """Import an optional package. Return None if it is not installed."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        return None
