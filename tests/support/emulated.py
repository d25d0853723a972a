"""Codecs of a CPU level that this machine lacks, run on an emulated processor behind quantreg's own checks."""

import atexit
import ctypes
import re
import subprocess
import threading
from functools import cache, cached_property
from pathlib import Path

from emulator import Emulator
from row_codec import Prepare, RowCodec, Rows, module_of, row_codec_of

__all__ = ["Library", "emulated_row_codec", "emulator", "file_of"]


class Library:
    """A compiled codec, loaded without running any of its code."""

    def __init__(self, path):
        self.path = str(Path(path).resolve())
        ctypes.CDLL(self.path)
        lines = Path("/proc/self/maps").read_text().splitlines()
        self.base = min(int(line.split("-")[0], 16) for line in lines if line.endswith(self.path))

    @cached_property
    def symbols(self):
        """Name -> (address, size)."""
        text = subprocess.run(["nm", "-S", self.path], capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in text.splitlines()]
        return {row[3]: (self.base + int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 4}

    def function(self, name):
        """Address of one of the codec file's functions, or None."""
        found = (place for symbol, place in self.symbols.items() if re.fullmatch(rf"__pyx_f_.*_{name}", symbol))
        return next(found, (None,))[0]

    def copy_variables(self, other):
        """Take module variables from the same codec of another level, which was imported as usual."""
        theirs = {_plain(name): place for name, place in other.symbols.items() if name.startswith("__pyx_v_")}
        for name, (address, size) in self.symbols.items():
            if name.startswith("__pyx_v_") and theirs.get(_plain(name), (0, 0))[1] == size:
                ctypes.memmove(address, theirs[_plain(name)][0], size)


def _plain(name):
    """A variable's name without the level in it: __pyx_v_16quantreg_kquants_12_q3_k_avx512_VARIANCE."""
    return re.sub(r"\d+(_\w+?)_(base|avx2|avx512)_", r"\1_", name)


def file_of(name, native, level):
    """File of a type's codec at one level; at the level `native` it was loaded."""
    file = Path(module_of(name, native).__file__)
    beside = file.with_name(file.name.replace(f"_{native}.", f"_{level}."))
    assert beside.exists(), f"{name} was not built for {level}"
    return str(beside)


LOCK = threading.Lock()


def emulator():
    with LOCK:  # a cache alone may make two
        return _emulator()


@cache
def _emulator():
    atexit.register(_emulator.cache_clear)  # its package complains of objects that outlive it
    return Emulator()


@cache
def emulated_row_codec(name, native, level):
    """The `RowCodec` of a type at a level, its functions emulated; at the level `native` it was loaded."""
    library = Library(file_of(name, native, level))
    library.copy_variables(Library(file_of(name, native, native)))
    codec = RowCodec.from_buffer_copy(row_codec_of(name, native))
    codec.scratch_size *= 4  # this is that of the native level; with wider lanes more is needed
    codec.kept = []
    for field in ("prepare", "encode_rows", "decode_rows", "score_rows"):
        if getattr(codec, field):
            assert library.function(field), f"{library.path} has no symbols: it was stripped"
            function = _forward(library.function(field), Prepare if field == "prepare" else Rows)
            setattr(codec, field, ctypes.cast(function, ctypes.c_void_p))
            codec.kept.append(function)
    return codec


def _forward(address, signature):
    """A function that this processor can run, which has the one at the address emulated.

    What it raises, ctypes only prints: pytest makes an error of that.
    """

    def call(*arguments):
        result = emulator().call(address, *arguments)[0]
        return None if signature is Prepare else ctypes.c_ssize_t(result).value

    return signature(call)
