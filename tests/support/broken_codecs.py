"""Broken versions of the toy codec, at least one for each check of the conformance kit."""

import ctypes
import os
import pickle
import time

import broken_products
import numpy as np
import toy

import quantreg
from quantreg import PythonCodec


def codec(encode_rows=None, decode_rows=None, score_rows=None, **attributes):
    """Return a type whose PythonCodec has other methods. Each gets the original method as its first argument."""

    class Broken(PythonCodec):
        pass

    for name, function in (("encode_rows", encode_rows), ("decode_rows", decode_rows), ("score_rows", score_rows)):
        if function is not None:
            inner = getattr(PythonCodec, name)
            setattr(Broken, name, lambda self, *args, f=function, g=inner: f(lambda *a: g(self, *a), *args))
    for name, value in attributes.items():
        setattr(Broken, name, value)
    return toy.make(codec=Broken)


def encoder(change):
    """Return a type whose encode function is change(rows, importance, correct bytes)."""
    return toy.make(encode=lambda rows, importance: change(rows, importance, toy.encode(rows, importance)))


def read_past_the_end(encode, x, out, importance=None, first_row=0):
    encode(x, out, importance, first_row)
    ctypes.string_at(x.ctypes.data + x.nbytes, 4)


def write_before_the_start(decode, data, out, stream=False):
    decode(data, out)
    ctypes.memset(out.ctypes.data - 1, 0, 1)


def write_near_the_end(decode, data, out, stream=False):
    decode(data, out)
    if len(out):
        ctypes.memset(out[-1].ctypes.data + out[-1].nbytes, 0, 1)


def write_far_past_the_row(encode, x, out, importance=None, first_row=0):
    """Without a guard this damages the memory of the process, which then crashes somewhere else."""
    encode(x, out, importance, first_row)
    if len(out):
        ctypes.memset(out[-1].ctypes.data, 0xEE, out[-1].nbytes + 4096)


def crash(decode, data, out, stream=False):
    ctypes.string_at(0)


def end_the_process(encode, x, out, importance=None, first_row=0):
    os._exit(7)


def no_checks(encode, x, out, importance=None, first_row=0):
    with np.errstate(all="ignore"):
        data = toy.encode(x, None).reshape(-1)
    count = min(len(data), out.size)
    out.reshape(-1)[:count] = data[:count]


def no_scale_check(encode, x, out, importance=None, first_row=0):
    if not x.size or not np.isfinite(x).all():
        encode(x, out, importance, first_row)
        return
    with np.errstate(all="ignore"):
        out[...] = toy.encode(x, importance if importance is None else np.broadcast_to(importance, x.shape))


def counts_calls():
    calls = iter(range(1 << 30))

    def encode(rows, importance):
        data = toy.encode(rows, importance)
        data[:, -1] ^= next(calls) & 1
        return data

    return toy.make(encode=encode)


def forgets_a_byte(encode, x, out, importance=None, first_row=0):
    kept = out[:, -1].copy()
    encode(x, out, importance, first_row)
    out[:, -1] = kept


def shared_scratch():
    scratch = np.zeros((4096, 4096), np.float32)

    def encode(rows, importance):
        mine = scratch[: rows.shape[0], : rows.shape[1]]
        mine[...] = rows
        time.sleep(0.002)
        return toy.encode(mine.copy(), importance)

    return toy.make(encode=encode)


def differs_by_level():
    def make(qtype, encode, decode, score):
        level = os.environ.get("QUANTREG_CPU", "base")

        def other(rows, importance):
            return encode(rows * np.float32(1.01 if level == "base" else 1), importance)

        made = PythonCodec(qtype, other, decode, score)
        made.level = level
        return made

    return toy.make(codec=make)


def holds_the_gil():
    libc = ctypes.PyDLL(None)  # PyDLL keeps the GIL

    def at_once(inner, given, out, *more):
        done = np.empty_like(out)
        inner(given, done, *more)
        if out.flags.c_contiguous:
            libc.memmove(*(ctypes.c_void_p(a.ctypes.data) for a in (out, done)), ctypes.c_size_t(out.nbytes))
        else:
            out[...] = done

    made = codec(encode_rows=at_once, decode_rows=at_once)
    made.codec.level = "base"
    return made


def typed_in():
    class Wrong(quantreg.QuantType):
        bits_per_weight = 3.0

    qtype = Wrong("TOY3", type_id=4203, block_size=32, type_size=14, codec=lambda: codec)
    codec = PythonCodec(qtype, toy.encode, toy.decode)
    return qtype


def unpicklable():
    class Local(quantreg.QuantType):
        def __reduce__(self):
            raise pickle.PicklingError("no")

    return Local("TOY3", type_id=4203, block_size=32, type_size=14, codec=lambda: toy.make().codec)


def changes_rows(encode, x, out, importance=None, first_row=0):
    encode(x, out, importance, first_row)
    if x.flags.writeable:
        x *= 2


def nan_importance(rows, importance, data):
    if importance is not None and np.isnan(importance).any():
        raise FloatingPointError("NaN")
    return data


def refuses_a_code(blocks):
    if (blocks[:, 2:] == 255).any():
        raise KeyError("no such code")
    return toy.decode(blocks)


def wrong_row(encode, x, out, importance=None, first_row=0):
    try:
        encode(x, out, importance, first_row)
    except ValueError as error:
        if hasattr(error, "row"):
            error.row = 0
        raise


def loses_the_mean(rows, importance):
    x = rows.reshape(len(rows), -1, toy.BLOCK)
    return toy.encode((x - x.mean(axis=2, keepdims=True)).reshape(rows.shape), importance)


def encodes_without_gaps(encode, x, out, importance=None, first_row=0):
    data = np.empty(out.shape, np.uint8)
    encode(x, data, importance, first_row)
    write_without_gaps(data, out)


def scores_without_gaps(score, x, columns, out):
    weights = np.empty(out.shape, np.float32)
    score(x, columns, weights)
    write_without_gaps(weights, out)


def write_without_gaps(rows, out):
    """Ignore the row stride of out. Rows in reverse order are written correctly, which keeps the test's memory safe."""
    if out.strides[0] < 0:
        out[...] = rows
    else:
        ctypes.memmove(out.ctypes.data, rows.ctypes.data, rows.nbytes)


def reads_rows_without_gaps(encode, x, out, importance=None, first_row=0):
    encode(read_without_gaps(x), out, importance, first_row)


def reads_importance_without_gaps(encode, x, out, importance=None, first_row=0):
    encode(x, out, importance if importance is None else read_without_gaps(importance), first_row)


def decodes_without_gaps(decode, data, out, stream=False):
    decode(read_without_gaps(data), out)


def read_without_gaps(array):
    """Ignore the row stride of the array, unless the rows are in reverse order."""
    if array.flags.c_contiguous or array.strides[0] < 0:
        return array
    strides = (array.shape[1] * array.itemsize, array.itemsize)
    return np.nan_to_num(np.lib.stride_tricks.as_strided(array, array.shape, strides))


def writes_behind_each_row(decode, data, out, stream=False):
    """The float behind each row is lost, unless it belongs to the next row."""
    decode(data, out)
    if out.strides[0] > out.shape[1] * 4:
        for row in out:
            ctypes.memset(row.ctypes.data + row.nbytes, 0, 4)


def one_bit(rows, importance):
    return toy.encode(np.sign(rows) * np.float32(0.005), importance)


def tiny_noise(blocks):
    return toy.decode(blocks) + np.float32(1e-3)


def fails_on_denormals(rows, importance, data):
    if ((rows != 0) & (np.abs(rows) < 1e-38)).any():
        raise ZeroDivisionError("division by zero")
    return data


def by_the_slab(rows, importance, data):
    return toy.encode(np.round(rows / np.abs(rows).max(), 1) * np.abs(rows).max(), importance)


def depends_on_the_row(decode, data, out, stream=False):
    decode(data, out)
    out[:, 32:] = np.nextafter(out[:, 32:], np.float32(1))


def nothing_from_importance(rows, importance, data):
    return data if importance is None else toy.encode(rows * np.float32(0), None)


def nan_at_zero_weights(encode, x, out, importance=None, first_row=0):
    encode(x, out, importance, first_row)
    if importance is not None and (importance == 0).any():
        out[:, :2] = 255


def against_importance(rows, importance):
    return toy.encode(rows, None if importance is None else 1 / (importance + np.float32(1e-3)))


def other_scores(score, x, columns, out):
    out[...] = columns[::-1]


def crashes_on_heavy_rows(rows, importance, data):
    if (np.abs(rows) > 60 * np.abs(rows).mean()).any():
        raise OverflowError("no level")
    return data


def evenly(samples, context):
    low, high = zip(*((sample.rows.min(), sample.rows.max()) for sample in samples), strict=True)
    return {"levels": np.concatenate([[0], np.linspace(min(low), max(high), 255)])}


def first_slab(samples, context):
    return evenly([next(iter(samples))], context)


def fitted_levels(fit=evenly):
    """Return a type with 256 levels that are fitted to the tensor, one of them 0. A block is one weight in one byte."""

    def encode(rows, *, parameters):
        order = np.argsort(parameters["levels"], kind="stable")
        levels = parameters["levels"][order]
        return order[np.searchsorted((levels[1:] + levels[:-1]) / 2, rows)].astype(np.uint8)

    def decode(blocks, *, parameters):
        return parameters["levels"][blocks]

    qtype = quantreg.QuantType(
        "FITTED8", type_id=4205, block_size=1, type_size=1, codec=lambda: PythonCodec(qtype, encode, decode),
        parameters=quantreg.Parameters({"levels": (256,)}, fit),
    )  # fmt: skip
    return qtype


BROKEN = {
    "size_algebra": typed_in,
    "size_algebra, fallback": lambda: toy.make(fallback="Q9_9"),
    "size_algebra, fallback with its own block size": lambda: toy.make(fallback="Q8_0"),
    "size_algebra, fallback with larger blocks": lambda: toy.make(fallback="Q4_K"),
    "zero_rows": lambda: toy.make(decode=tiny_noise),
    "constant_rows": lambda: toy.make(encode=loses_the_mean),
    "denormal_rows": lambda: encoder(fails_on_denormals),
    "huge_rows": lambda: codec(encode_rows=no_scale_check),
    "nonfinite_rows": lambda: codec(encode_rows=wrong_row),
    "any_rows": lambda: encoder(crashes_on_heavy_rows),
    "error": lambda: toy.make(encode=one_bit),
    "determinism": counts_calls,
    "determinism, bytes not written": lambda: codec(encode_rows=forgets_a_byte),
    "slabs": lambda: encoder(by_the_slab),
    "slabs, blocks alone": lambda: codec(decode_rows=depends_on_the_row, whole_rows=False),
    "threads": shared_scratch,
    "cpu_levels": differs_by_level,
    "guard_pages": lambda: codec(encode_rows=read_past_the_end),
    "guard_pages, before": lambda: codec(decode_rows=write_before_the_start),
    "guard_pages, far past the row": lambda: codec(encode_rows=write_far_past_the_row),
    "guard_pages, a crash in decode": lambda: codec(decode_rows=crash),
    "guard_pages, the end of the process": lambda: codec(encode_rows=end_the_process),
    "guard_pages, same page": lambda: codec(decode_rows=write_near_the_end),
    "input_arrays": lambda: codec(encode_rows=changes_rows),
    "strides": lambda: codec(encode_rows=encodes_without_gaps),
    "strides, scores": lambda: codec(score_rows=scores_without_gaps),
    "strides, rows to encode": lambda: codec(encode_rows=reads_rows_without_gaps),
    "strides, importance": lambda: codec(encode_rows=reads_importance_without_gaps),
    "strides, bytes to decode": lambda: codec(decode_rows=decodes_without_gaps),
    "strides, between the rows": lambda: codec(decode_rows=writes_behind_each_row),
    "wrong_sizes": lambda: codec(encode_rows=no_checks),
    "arbitrary_bytes": lambda: toy.make(decode=refuses_a_code),
    "importance_none": lambda: codec(has_scorer=False),
    "importance_ones": lambda: encoder(nothing_from_importance),
    "importance_zeros": lambda: codec(encode_rows=nan_at_zero_weights),
    "importance_nan": lambda: encoder(nan_importance),
    "importance_helps": lambda: toy.make(encode=against_importance),
    "importance_helps, not read": lambda: toy.make(encode=lambda rows, importance: toy.encode(rows, None)),
    "importance_weights": lambda: codec(score_rows=other_scores),
    "gil": holds_the_gil,
    "pickling": unpicklable,
    "fit": lambda: fitted_levels(first_slab),
    "gguf_file": lambda: toy.make(type_id=12),
    **broken_products.make(codec, write_without_gaps),
}


CHECKS_OF_BYTES = {
    "huge_rows",
    "slabs",
    "threads",
    "input_arrays",
    "strides",
    "importance_weights",
    "gguf_file",
    "golden",
}

# The other checks that each of them fails or may fail, because one failure causes the other.
ALSO = {
    "zero_rows": {"denormal_rows"},
    "denormal_rows": {"any_rows"},
    "huge_rows": {"any_rows"},
    "nonfinite_rows": {"huge_rows"},
    "any_rows": {"importance_weights"},  # it also encodes heavy rows
    "error": {"constant_rows", "denormal_rows", "importance_ones"},
    "determinism": CHECKS_OF_BYTES,
    "determinism, bytes not written": {"threads", "input_arrays", "gguf_file"},
    "cpu_levels": {"gil"},  # it is in Python, but claims to be compiled
    "slabs": {"size_algebra", "huge_rows", "threads"},  # it divides by the largest of all rows, which may be 0
    "slabs, blocks alone": {"zero_rows"},  # a zero may become another number
    "guard_pages, before": {"arbitrary_bytes", "strides"},  # arbitrary_bytes decodes between guard pages, too
    "guard_pages, same page": {"arbitrary_bytes", "strides"},
    # It checks nothing, takes every array as contiguous and reads no importance.
    "wrong_sizes": {"huge_rows", "nonfinite_rows", "strides", "importance_helps"},
    "importance_ones": {"importance_helps"},
    "gguf_file": {"pickling"},  # the type cannot be registered
}
SPREADS = {
    "input_arrays",
    "arbitrary_bytes",
    "guard_pages, far past the row",
    "guard_pages, a crash in decode",
    "guard_pages, the end of the process",
}  # these change the input or raise for some bytes, so many checks fail
