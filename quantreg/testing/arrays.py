"""Checks on independence and on buffers: the same bytes whatever surrounds a row, and no byte outside."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from quantreg import dispatch
from quantreg.testing.guards import FILL, GuardedArrays, run_guarded
from quantreg.testing.report import NotApplicable, expect
from quantreg.testing.samples import bits_of

__all__ = [
    "arbitrary_bytes",
    "cpu_levels",
    "determinism",
    "gil",
    "guard_pages",
    "input_arrays",
    "slabs",
    "threads",
    "wrong_sizes",
]


def determinism(s):
    """The same rows give the same bytes, every byte of the output is written, and so is every decoded float."""
    data = s.some_bytes()
    if s.codec.can_encode:
        x = s.rows("heavy")
        for importance in s.importances(x.shape[1]):
            data = s.encode(x, importance, fill=0)
            again = s.encode(x, importance, fill=0xFF)
            expect((data == again).all(), f"{_differ(data, again)} when the same rows are encoded again")
    first, again = s.decode(data, fill=1), s.decode(data, fill=2)
    expect((bits_of(first) == bits_of(again)).all(), "the same bytes do not decode to the same floats")


def slabs(s):
    """A row's bytes and floats do not depend on the rows that are handed over together with it.

    Nor do a block's floats on its row, unless the codec says so.
    """
    data = s.some_bytes(rows=9)
    if s.codec.can_encode:
        x = s.rows("heavy", rows=9)
        x[4] = 0
        x[5] *= 100
        for importance in s.importances(x.shape[1]):
            data = s.encode(x, importance)
            for step in (1, 2, 4, 7):
                parts = [s.encode(x[i : i + step], importance) for i in range(0, 9, step)]
                again = np.concatenate(parts)
                expect((data == again).all(), f"{_differ(data, again)} when rows are encoded {step} at a time")
    floats = s.decode(data)
    for step in (1, 4):
        parts = np.concatenate([s.decode(data[i : i + step]) for i in range(0, 9, step)])
        expect((bits_of(parts) == bits_of(floats)).all(), f"floats differ when rows are decoded {step} at a time")
    if not getattr(s.codec, "whole_rows", True):  # large results are decoded in parts of rows, see RowCodec
        alone = s.decode(data.reshape(-1, s.qtype.type_size)).reshape(floats.shape)
        expect((bits_of(alone) == bits_of(floats)).all(), "floats differ when blocks are decoded alone: set whole_rows")


def threads(s):
    """The same bytes from several threads at once, on the codec itself and through `quantreg.quantize`."""
    if not s.codec.can_encode:
        data = s.some_bytes(rows=64)
        expected = s.decode(data)
        found = dispatch.dequantize(data, s.qtype, threads=4)
        expect((bits_of(found) == bits_of(expected)).all(), "floats differ between 1 and 4 threads")
        return
    inputs = [s.rows("heavy", rows=8, seed=seed) for seed in range(8)]
    expected = [s.encode(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(8 if s.full else 3):
            for x, want, got in zip(inputs, expected, pool.map(s.encode, inputs), strict=True):
                expect((want == got).all(), f"{_differ(want, got)} when {len(x)} rows are encoded in 4 threads at once")
    x = np.concatenate(inputs * 8)
    importance = s.given(x.shape[1])
    got = dispatch.quantize(x, s.qtype, importance, threads=4)
    want = np.concatenate(expected * 8)
    expect((got == want).all(), f"{_differ(want, got)} between quantreg.quantize in 4 threads and the codec")


def cpu_levels(s):
    """The same bytes and floats at every CPU level that was built and that this machine runs."""
    if s.codec.level == "python":
        raise NotApplicable("a codec in Python is not built for CPU levels")
    levels = s.levels()
    if len(levels) < 2:
        raise NotApplicable(f"built for one CPU level that this machine has: {', '.join(levels) or 'none'}")
    (first, base), *others = levels.items()
    random = np.random.default_rng(5).integers(0, 256, (5, s.qtype.row_bytes(s.cols(3))), np.uint8)
    for level, codec in others:
        for kind in ("normal", "heavy", "sparse", "lattice") if s.codec.can_encode else ():
            x = s.rows(kind, rows=5)
            for importance in s.importances(x.shape[1]):
                want, got = s.encode(x, importance, base), s.encode(x, importance, codec)
                expect((want == got).all(), f"{_differ(want, got)} between {first} and {level} on {kind} rows")
        for data in (random, s.some_bytes(rows=5)):
            same = (bits_of(s.decode(data, base)) == bits_of(s.decode(data, codec))).all()
            expect(same, f"floats differ between {first} and {level}")


def guard_pages(s):
    """No byte is read or written outside of the buffers: each lies against forbidden memory on either side."""
    shapes = [(1, 1), (3, 2)] if not s.full else [(1, 1), (1, 2), (2, 1), (3, 3), (5, 7), (17, 1), (16, 2)]
    codecs = s.levels() if s.full and s.codec.level != "python" else {}
    s.some_bytes()  # tables are built before the fork
    run_guarded(
        [
            case
            for codec in codecs.values() or [s.codec]
            for shape in shapes
            for side in ("front", "back")
            for case in _guarded_cases(s, codec, side, *shape)
        ]
    )


def _guarded_cases(s, codec, side, rows, blocks):
    words = f"{rows} rows of {blocks} blocks at CPU level {codec.level}, memory forbidden at the {side}"
    yield f"decoding {words}", _guarded_decode(s, codec, side, s.some_bytes(rows, blocks))
    if not codec.can_encode:
        return
    x = s.rows(rows=rows, blocks=blocks)
    for importance in s.importances(x.shape[1]):
        kind = "" if importance is None else ", with column statistics"
        yield f"encoding {words}{kind}", _guarded_encode(s, codec, side, x, importance)
    if codec.has_scorer:
        yield f"encoding {words}, with error weights", _guarded_encode(s, codec, side, x, np.abs(x))
        yield f"scoring {words}", _guarded_score(s, codec, side, x)


def _guarded_encode(s, codec, side, x, importance):
    def run():
        arrays = GuardedArrays(side)
        out = arrays.empty((x.shape[0], s.qtype.row_bytes(x.shape[1])), np.uint8)
        given = s.given(x.shape[1], importance)
        codec.encode_rows(arrays.copy(x), out, None if given is None else arrays.copy(given))
        arrays.check()

    return run


def _guarded_decode(s, codec, side, data):
    def run():
        arrays = GuardedArrays(side)
        out = arrays.empty((data.shape[0], s.qtype.row_weights(data.shape[1])), np.float32)
        codec.decode_rows(arrays.copy(data), out)
        arrays.check()

    return run


def _guarded_score(s, codec, side, x):
    def run():
        arrays = GuardedArrays(side)
        out = arrays.empty(x.shape, np.float32)
        codec.score_rows(arrays.copy(x), arrays.copy(s.columns(x.shape[1])), out)
        arrays.check()

    return run


def arbitrary_bytes(s):
    """Any bytes decode: without a crash or an exception, and to the same floats each time."""
    cols = s.cols(3)
    shape = (4, s.qtype.row_bytes(cols))
    samples = [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)]
    for seed in range(20 if s.full else 4):
        samples.append(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))

    def decode(data):
        first, again = s.decode(data, fill=1), s.decode(data, fill=2)
        expect((bits_of(first) == bits_of(again)).all(), "not every float is written, or not the same ones")

    levels = s.levels() if s.full and s.codec.level != "python" else {}
    cases = []
    for i, data in enumerate(samples):
        cases.append((f"decoding sample {i} of arbitrary bytes", lambda data=data: decode(data)))
        for codec in levels.values() or [s.codec]:
            for side in ("front", "back"):
                words = f"decoding sample {i} of arbitrary bytes at CPU level {codec.level}, forbidden at the {side}"
                cases.append((words, _guarded_decode(s, codec, side, data)))
    run_guarded(cases)


LAYOUTS = {
    "in Fortran order": np.asfortranarray,
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed twice": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "misaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


def input_arrays(s):
    """Read-only, misaligned and non-contiguous arrays give the same bytes, and no input is changed."""
    if s.codec.can_encode:
        x = s.rows()
        for importance in s.importances(x.shape[1]):
            want = s.encode(x, importance)
            kept = x.copy()
            s.encode(kept, importance)
            expect((kept == x).all(), "encode changes the rows it is given")
            kept.flags.writeable = False
            expect((s.encode(kept, importance) == want).all(), "read-only rows give other bytes")
            given = s.given(x.shape[1], importance)
            for name, layout in LAYOUTS.items():
                got = dispatch.quantize(layout(x), s.qtype, given, threads=1)
                expect((got == want).all(), f"{_differ(want, got)} for an array {name}")
    data = s.some_bytes()
    floats = bits_of(s.decode(data))
    kept = data.copy()
    s.decode(kept)
    expect((kept == data).all(), "decode changes the bytes it is given")
    for name, layout in LAYOUTS.items():
        got = dispatch.dequantize(layout(data), s.qtype, threads=1)
        expect((bits_of(got) == floats).all(), f"floats differ for bytes {name}")


def wrong_sizes(s):
    """Arrays of the wrong size are refused with ValueError instead of read or written past their end."""
    rows, cols = 3, s.cols(2)
    nbytes = s.qtype.row_bytes(cols)
    x, out = np.zeros((rows, cols), np.float32), np.zeros((rows, nbytes), np.uint8)
    calls = {
        "decode_rows, bytes too few": lambda: s.codec.decode_rows(out[:, 1:].copy(), x.copy()),
        "decode_rows, rows too few": lambda: s.codec.decode_rows(out, x[1:].copy()),
    }
    if s.codec.can_encode:
        ones = np.ones(cols, np.float32)
        given = s.given(cols)
        calls["encode_rows, output too narrow"] = lambda: s.codec.encode_rows(x, out[:, 1:].copy(), given)
        calls["encode_rows, output too short"] = lambda: s.codec.encode_rows(x, out[1:].copy(), given)
        if s.codec.has_scorer:
            calls["encode_rows, statistics too few"] = lambda: s.codec.encode_rows(x, out, ones[1:].copy())
            calls["encode_rows, weights too few"] = lambda: s.codec.encode_rows(x, out, x[1:].copy())
            calls["score_rows, statistics too few"] = lambda: s.codec.score_rows(x, ones[1:].copy(), x.copy())
    for name, call in calls.items():
        try:
            call()
        except ValueError:
            continue
        raise AssertionError(f"{name}: taken")
    if s.codec.can_encode:
        s.codec.encode_rows(x[:0], out[:0])
    s.codec.decode_rows(out[:0], x[:0])


def gil(s):
    """Other Python threads run while rows are encoded and decoded."""
    if s.codec.level == "python":
        raise NotApplicable("a codec in Python holds the GIL")
    x = s.rows(rows=1, blocks=8)
    data = s.some_bytes(rows=1, blocks=8)
    _check_gil("decode_rows", s.codec.decode_rows, data, np.empty_like(x))
    if s.codec.can_encode:
        given = s.given(x.shape[1])
        _check_gil("encode_rows", lambda rows, out: s.codec.encode_rows(rows, out, given), x, np.empty_like(data))


def _check_gil(name, call, row, out):
    """This thread must get to see the output of call() half written, which it never does if the call holds the lock.

    A busy machine may not run it in time: it has at least ten chances, in as many rows as take 20 ms, and 3 s.
    """
    count, seconds = 16, 0.0
    while seconds < 0.02 and count < 1 << 15:
        count *= 4
        rows, target = np.repeat(row, count, axis=0), np.repeat(out, count, axis=0)
        begun = time.perf_counter()
        call(rows, target)
        seconds = time.perf_counter() - begun
    tries, until = 0, time.monotonic() + 3
    while tries < 10 or time.monotonic() < until:
        tries += 1
        target.view(np.uint8)[...] = FILL
        if _half_written(lambda: call(rows, target), target.view(np.uint8)):
            return
    raise AssertionError(f"no other thread ran during {name}: declare the codec's functions nogil")


def _half_written(call, out) -> bool:
    """Whether one end of `out` is seen to be written and the other not, while another thread is inside of call().

    What is written stays so: the written end is looked at first, or the call could end between the two looks.
    """

    def written(row):
        return (out[row] != FILL).any()

    thread = threading.Thread(target=call)
    thread.start()
    seen = False
    while thread.is_alive() and not seen:
        seen = (written(0) and not written(-1)) or (written(-1) and not written(0))
    thread.join()
    return bool(seen)


def _differ(want, got):
    rows = np.flatnonzero((want != got).any(axis=1))
    return f"{(want != got).sum()} bytes differ, first in row {rows[0]}" if len(rows) else "bytes differ"
