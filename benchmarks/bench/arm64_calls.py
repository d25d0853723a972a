"""Call codecs, with a mark before and after each call. ``count_arm64.py`` runs this on an emulated arm64 processor."""

import ctypes
import hashlib
import os
import sys

import numpy as np
from row_codec import Args, DotArgs, row_codec_of, with_scratch

from quantreg import types

COLS = 4096
FEW, MANY = 2, 10  # rows: what one call costs besides drops out of the difference
MARK = 20001  # as in qemu_count.c
WORKS = ("plain", "weighted", "decode", "product")
system_call = ctypes.CDLL(None).syscall
system_call.argtypes = [ctypes.c_long, ctypes.c_long]
rng = np.random.default_rng(1)
weights = (rng.standard_normal((MANY, COLS)) * 0.02).astype(np.float32)
importance = (rng.random(COLS) ** 4 + 0.01).astype(np.float32)


def arguments(kind, source, out, n_rows, columns=None):
    """The struct for one call. A codec reads struct_size to know which members there are."""
    if kind is DotArgs:
        addresses = (source.ctypes.data, weights.ctypes.data, out.ctypes.data)
        made = DotArgs(ctypes.sizeof(DotArgs), *addresses, n_rows, COLS, 1)
        made.src_stride, made.x_stride, made.dst_stride = source.shape[1], COLS, out.shape[1]
        return made
    made = Args(ctypes.sizeof(Args), source.ctypes.data, out.ctypes.data, n_rows, COLS, source.shape[1], out.shape[1])
    if columns is not None:
        made.importance, made.importance_kind = columns.ctypes.data, 1
    return with_scratch(made)


def function(codec, member):
    found = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p)(getattr(codec, member))
    return lambda given: found(ctypes.addressof(codec), given)


def calls(name, level):
    """Yield (work, a function of one struct of arguments, source, output, importance or None, kind of that struct)."""
    qtype = types[name]
    os.environ["QUANTREG_CPU"] = level
    codec = qtype._load_codec()
    assert codec.level == level
    struct = row_codec_of(name, level)
    if struct.prepare:
        ctypes.CFUNCTYPE(None)(struct.prepare)()
    data = np.zeros((MANY, qtype.row_bytes(COLS)), np.uint8)
    encode, decode = function(struct, "encode_rows"), function(struct, "decode_rows")
    if not qtype.requires_importance:
        yield "plain", encode, weights, data, None, Args
    if codec.has_scorer:
        yield "weighted", encode, weights, data, importance, Args
    yield "decode", decode, data, np.zeros((MANY, COLS), np.float32), None, Args
    if struct.dot_rows:
        yield "product", function(struct, "dot_rows"), data, np.zeros((1, MANY), np.float32), None, DotArgs


def main():
    for label, (name, level) in enumerate(zip(sys.argv[1::2], sys.argv[2::2], strict=True)):
        for work, run, source, out, columns, kind in calls(name, level):
            number = 4 * (label * len(WORKS) + WORKS.index(work))
            for part, n_rows in ((-1, FEW), (0, FEW), (2, MANY)):  # the first call only warms up
                given = arguments(kind, source, out, n_rows, columns)
                pointer = ctypes.addressof(given)
                if part >= 0:
                    system_call(MARK, number + part)
                done = run(pointer)
                if part >= 0:
                    system_call(MARK, number + part + 1)
                assert done == n_rows, (name, level, work, done)
            digest = hashlib.sha256(out.tobytes()).hexdigest()[:16]
            print(name, level, work, number, digest, flush=True)


main()
