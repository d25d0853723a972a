"""Where expected bytes come from: golden files, and libgguf as the live oracle."""

import os
import platform
import sys
import sysconfig
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from row_codec import as_capsule, row_codec_of

from quantreg import types
from quantreg_kernels import usable_levels
from quantreg_kernels._run import Codec

# libgguf has no wheels for other processors, musl, new and free-threaded Pythons. There the goldens have to do.
HAS_WHEEL = (
    platform.machine().lower() in ("x86_64", "amd64")
    and sys.version_info < (3, 14)
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and "musl" not in str(sysconfig.get_config_var("SOABI"))
)
try:
    import libgguf
except ModuleNotFoundError:
    if HAS_WHEEL:
        raise
    libgguf = None

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
NATIVE = usable_levels()
# What is run on an emulated processor: on x86-64 Linux, not under a sanitizer, which maps more than can be emulated.
EMULATED = ("avx512",) if "avx2" in NATIVE and "avx512" not in NATIVE and sys.platform == "linux" else ()
if "asan" in os.environ.get("LD_PRELOAD", ""):
    EMULATED = ()
LEVELS = NATIVE + EMULATED

# What libgguf lacks (Q2_0, Q8_1, Q8_K), where it differs from the pinned reference (IQ1_M), and float decoding.
NO_ORACLE = {"Q2_0", "Q8_1", "Q8_K", "IQ1_M"}


@cache
def golden(name):
    with np.load(GOLDEN / "codec" / f"{name}.npz") as data:
        return dict(data)


@contextmanager
def cpu_level(level):
    before = os.environ.get("QUANTREG_CPU")
    os.environ["QUANTREG_CPU"] = level
    try:
        yield
    finally:
        if before is None:
            del os.environ["QUANTREG_CPU"]
        else:
            os.environ["QUANTREG_CPU"] = before


@cache
def codec_at(name, level):
    """The codec of a type as compiled for one CPU level; what this machine cannot run is emulated."""
    if level in EMULATED:
        return Codec(as_capsule(row_codec_at(name, level)), level, (level,))
    with cpu_level(level):
        codec = types[name]._load_codec()
    assert codec.level == level, f"{name} was not built for {level}"
    return codec


def row_codec_at(name, level):
    """Its struct (see row_codec.py)."""
    native = NATIVE[-1] if level in EMULATED else level
    codec_at(name, native)
    if level not in EMULATED:
        return row_codec_of(name, level)
    from emulated import emulated_row_codec

    return emulated_row_codec(name, native, level)


def encode(name, x, importance=None, level=NATIVE[-1]):
    qtype = types[name]
    out = np.full((x.shape[0], qtype.row_bytes(x.shape[1])), 0xAA, np.uint8)
    codec_at(name, level).encode_rows(x, out, importance)
    return out


def decode(name, data, level=NATIVE[-1]):
    qtype = types[name]
    out = np.full((data.shape[0], qtype.row_weights(data.shape[1])), np.nan, np.float32)
    codec_at(name, level).decode_rows(data, out)
    return out


def oracle_encode(name, x, importance=None):
    """uint8 (rows, row_bytes) as libgguf writes them."""
    qtype = types[name]
    if libgguf is None:
        pytest.skip("libgguf, the live oracle, has no wheel for this Python")
    data = libgguf.quantize_rows(np.ascontiguousarray(x), qtype.type_id, importance)
    return np.ascontiguousarray(data).view(np.uint8).reshape(x.shape[0], qtype.row_bytes(x.shape[1]))


def oracle_decode(name, data):
    """float32 (rows, cols) as libgguf decodes them."""
    if libgguf is None:
        pytest.skip("libgguf, the live oracle, has no wheel for this Python")
    qtype = types[name]
    cols = qtype.row_weights(data.shape[1])
    return np.asarray(libgguf.dequantize_rows(np.ascontiguousarray(data), qtype.type_id, cols)).reshape(len(data), cols)


def floats_of_halves(halves):
    """float32 of an array of float16 or bfloat16. On arm64, NumPy warns of signaling NaNs."""
    with np.errstate(invalid="ignore"):
        return halves.astype(np.float32)


def bits(x):
    """float32 as integers, so that -0.0 differs from 0.0; every NaN counts as the same."""
    x = np.ascontiguousarray(x, np.float32)
    return np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))
