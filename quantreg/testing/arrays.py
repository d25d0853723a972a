"""Checks that a row's result depends on nothing but the row, and that a codec stays inside its buffers."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from quantreg import dispatch
from quantreg.faults import PLUGIN_ERRORS, told
from quantreg.testing.dots import has_dot
from quantreg.testing.guards import FILL, GuardedArrays, run_guarded
from quantreg.testing.report import NotApplicable, expect
from quantreg.testing.samples import bits_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.codec import RowCodec
    from quantreg.testing.samples import Subject

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


def determinism(s: "Subject") -> None:
    """The same rows give the same bytes, and every byte and every decoded float is written."""
    data = s.some_bytes()
    if s.codec.can_encode:
        x = s.rows("heavy")
        for importance in s.importances(x.shape[1]):
            data = s.encode(x, importance, fill=0)
            again = s.encode(x, importance, fill=0xFF)
            how = "write every byte, keep no state between calls, and seed random numbers"
            expect((data == again).all(), f"{_differ(data, again)} when the same rows are encoded again: {how}")
    floats, others = s.decode(data, fill=1), s.decode(data, fill=2)
    same = (bits_of(floats) == bits_of(others)).all()
    expect(same, "the same bytes do not decode to the same floats: write every float, and keep no state between calls")


def slabs(s: "Subject") -> None:
    """The bytes and floats of a row do not depend on the other rows of the same call.

    The floats of a block do not depend on the rest of its row either, unless the codec sets whole_rows.
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
                words = f"{_differ(data, again)} when rows are encoded {step} at a time"
                expect((data == again).all(), f"{words}: compute nothing over several rows")
    floats = s.decode(data)
    for step in (1, 4):
        joined = np.concatenate([s.decode(data[i : i + step]) for i in range(0, 9, step)])
        words = f"floats differ when rows are decoded {step} at a time: compute nothing over several rows"
        expect((bits_of(joined) == bits_of(floats)).all(), words)
    if not getattr(s.codec, "whole_rows", True):  # then quantreg decodes parts of rows
        alone = s.decode(data.reshape(-1, s.qtype.type_size)).reshape(floats.shape)
        same = (bits_of(alone) == bits_of(floats)).all()
        expect(same, "floats differ when each block is decoded alone: set whole_rows")


def threads(s: "Subject") -> None:
    """Several threads at once get the same bytes as one, from the codec itself and from `quantreg.quantize`."""
    if not s.codec.can_encode:
        data = s.some_bytes(rows=64)
        floats = s.decode(data)
        found = dispatch.dequantize(data, s.qtype, threads=4, parameters=s.parameters)
        same = (bits_of(found) == bits_of(floats)).all()
        expect(same, "floats differ between 1 and 4 threads: keep no state between calls")
        return
    inputs = [s.rows("heavy", rows=8, seed=seed) for seed in range(8)]
    expected = [s.encode(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(8 if s.full else 3):
            for x, want, got in zip(inputs, expected, pool.map(s.encode, inputs), strict=True):
                words = f"{_differ(want, got)} when {len(x)} rows are encoded in 4 threads at once"
                expect((want == got).all(), f"{words}: keep no arrays between calls that several threads write to")
    x = np.concatenate(inputs * 8)
    importance = s.given(x.shape[1])
    got = dispatch.quantize(x, s.qtype, importance, threads=4, parameters=s.parameters)
    want = np.concatenate(expected * 8)
    expect((got == want).all(), f"{_differ(want, got)} between quantreg.quantize in 4 threads and the codec")


def cpu_levels(s: "Subject") -> None:
    """Every CPU level that was built and that this machine supports gives the same bytes and floats."""
    if s.codec.level == "python":
        raise NotApplicable("a codec in Python has no CPU levels")
    levels = s.levels()
    if len(levels) < 2:
        raise NotApplicable(
            f"needs two CPU levels that were built and that this machine supports; found {', '.join(levels) or 'none'}"
        )
    (first, base), *others = levels.items()
    random = np.random.default_rng(5).integers(0, 256, (5, s.qtype.row_bytes(s.cols(3))), np.uint8)
    for level, codec in others:
        for kind in ("normal", "heavy", "sparse", "lattice") if s.codec.can_encode else ():
            x = s.rows(kind, rows=5)
            for importance in s.importances(x.shape[1]):
                want, got = s.encode(x, importance, base), s.encode(x, importance, codec)
                words = f"{_differ(want, got)} between {first} and {level} on {kind} rows"
                expect((want == got).all(), f"{words}: do the same arithmetic in the same order at each level")
        for data in (random, s.some_bytes(rows=5)):
            same = (bits_of(s.decode(data, base)) == bits_of(s.decode(data, codec))).all()
            expect(same, f"floats differ between {first} and {level}: do the same arithmetic at each level")


def guard_pages(s: "Subject") -> None:
    """The codec reads and writes nothing outside its buffers, which touch forbidden memory at either end."""
    shapes = [(1, 1), (3, 2)] if not s.full else [(1, 1), (1, 2), (2, 1), (3, 3), (5, 7), (17, 1), (16, 2)]
    codecs = s.levels() if s.full and s.codec.level != "python" else {}
    run_guarded(
        case
        for codec in codecs.values() or [s.codec]
        for shape in shapes
        for side in _SIDES
        for case in _guarded_cases(s, codec, side, *shape)
    )


_Side = Literal["front", "back"]
_SIDES: tuple[_Side, ...] = ("front", "back")


def _guarded_cases(
    s: "Subject", codec: "RowCodec", side: _Side, rows: int, blocks: int
) -> Iterator[tuple[str, Callable[[], None]]]:
    words = f"{rows} rows of {blocks} blocks at CPU level {codec.level}, memory forbidden at the {side}"
    x = s.rows(rows=rows, blocks=blocks)
    for importance in s.importances(x.shape[1]) if codec.can_encode else ():
        kind = "" if importance is None else ", with column statistics"
        yield f"encoding {words}{kind}", _guarded_encode(s, codec, side, x, importance)
    if codec.can_encode and codec.has_scorer:
        yield f"encoding {words}, with error weights", _guarded_encode(s, codec, side, x, np.abs(x))
        yield f"scoring {words}", _guarded_score(s, codec, side, x)
    # The encoder makes the bytes to decode, without guards, and so it comes first.
    yield f"decoding {words}", lambda: _guarded_decode(s, codec, side, s.some_bytes(rows, blocks))()
    for n in (1, 3, 7) if has_dot(codec) else ():
        call = partial(_guarded_dot, s, codec, side, x[:n] if n <= rows else s.rows(rows=n, blocks=blocks))
        yield f"multiplying {words}, by {n} rows of activations", partial(call, rows, blocks)


def _guarded_encode(
    s: "Subject",
    codec: "RowCodec",
    side: _Side,
    x: "NDArray[np.float32]",
    importance: "NDArray[np.float32] | None",
) -> Callable[[], None]:
    def run() -> None:
        arrays = GuardedArrays(side)
        out = arrays.empty((x.shape[0], s.qtype.row_bytes(x.shape[1])), np.uint8)
        given = s.given(x.shape[1], importance)
        codec.encode_rows(arrays.copy(x), out, None if given is None else arrays.copy(given))
        arrays.check()

    return run


def _guarded_decode(s: "Subject", codec: "RowCodec", side: _Side, data: "NDArray[np.uint8]") -> Callable[[], None]:
    def run() -> None:
        arrays = GuardedArrays(side)
        out = arrays.empty((data.shape[0], s.qtype.row_weights(data.shape[1])), np.float32)
        codec.decode_rows(arrays.copy(data), out)
        arrays.check()

    return run


def _guarded_dot(
    s: "Subject", codec: "RowCodec", side: _Side, x: "NDArray[np.float32]", rows: int, blocks: int
) -> None:
    arrays = GuardedArrays(side)
    out = arrays.empty((len(x), rows), np.float32)
    codec.dot_rows(arrays.copy(s.some_bytes(rows, blocks)), arrays.copy(x), out)  # type: ignore[attr-defined]
    arrays.check()


def _guarded_score(s: "Subject", codec: "RowCodec", side: _Side, x: "NDArray[np.float32]") -> Callable[[], None]:
    def run() -> None:
        arrays = GuardedArrays(side)
        out = arrays.empty(x.shape, np.float32)
        codec.score_rows(arrays.copy(x), arrays.copy(s.columns(x.shape[1])), out)
        arrays.check()

    return run


def arbitrary_bytes(s: "Subject") -> None:
    """Any bytes decode without a crash or an exception, and to the same floats each time."""
    cols = s.cols(3)
    shape = (4, s.qtype.row_bytes(cols))
    samples = [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)]
    for seed in range(20 if s.full else 4):
        samples.append(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))

    def decode(data: "NDArray[np.uint8]") -> None:
        try:
            first, again = s.decode(data, fill=1), s.decode(data, fill=2)
        except PLUGIN_ERRORS as error:
            how = "decode any bytes to some floats, because files may be damaged"
            raise AssertionError(f"{told(error)}: {how}") from error
        same = (bits_of(first) == bits_of(again)).all()
        expect(same, "decoding the same bytes twice gives different floats: write every float, whatever the bytes are")

    levels = s.levels() if s.full and s.codec.level != "python" else {}
    cases: list[tuple[str, Callable[[], None]]] = []
    for i, data in enumerate(samples):
        cases.append((f"decoding sample {i} of arbitrary bytes", partial(decode, data)))
        for codec in levels.values() or [s.codec]:
            for side in _SIDES:
                words = f"decoding sample {i} at CPU level {codec.level}, memory forbidden at the {side}"
                cases.append((words, _guarded_decode(s, codec, side, data)))
    run_guarded(cases)


_LAYOUTS: "dict[str, Callable[[NDArray[Any]], NDArray[Any]]]" = {
    "in Fortran order": np.asfortranarray,
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed twice": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "misaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


def input_arrays(s: "Subject") -> None:
    """Read-only, misaligned and non-contiguous arrays give the same bytes, and the input does not change."""
    if s.codec.can_encode:
        x = s.rows()
        for importance in s.importances(x.shape[1]):
            want = s.encode(x, importance)
            kept = x.copy()
            s.encode(kept, importance)
            expect((kept == x).all(), "encode changes the rows it is given: change a copy")
            kept.flags.writeable = False
            same = (s.encode(kept, importance) == want).all()
            expect(same, "read-only rows give different bytes: do not write to them")
            given = s.given(x.shape[1], importance)
            for name, layout in _LAYOUTS.items():
                got = dispatch.quantize(layout(x), s.qtype, given, threads=1, parameters=s.parameters)
                expect((got == want).all(), f"{_differ(want, got)} for an array {name}")
    data = s.some_bytes()
    floats = bits_of(s.decode(data))
    decoded = data.copy()
    s.decode(decoded)
    expect((decoded == data).all(), "decode changes the bytes it is given: change a copy")
    for name, layout in _LAYOUTS.items():
        back = dispatch.dequantize(layout(data), s.qtype, threads=1, parameters=s.parameters)
        expect((bits_of(back) == floats).all(), f"floats differ for bytes {name}")


def wrong_sizes(s: "Subject") -> None:
    """The codec refuses arrays of the wrong size with ValueError, rather than read or write past their end."""
    rows, cols = 3, s.cols(2)
    nbytes = s.qtype.row_bytes(cols)
    x, out = np.zeros((rows, cols), np.float32), np.zeros((rows, nbytes), np.uint8)
    calls = {
        "decode_rows with too few bytes": lambda: s.codec.decode_rows(out[:, 1:].copy(), x.copy()),
        "decode_rows with too few rows": lambda: s.codec.decode_rows(out, x[1:].copy()),
    }
    if s.codec.can_encode:
        ones = np.ones(cols, np.float32)
        given = s.given(cols)
        calls["encode_rows with too narrow an output"] = lambda: s.codec.encode_rows(x, out[:, 1:].copy(), given)
        calls["encode_rows with too short an output"] = lambda: s.codec.encode_rows(x, out[1:].copy(), given)
        if s.codec.has_scorer:
            calls["encode_rows with too few column statistics"] = lambda: s.codec.encode_rows(x, out, ones[1:].copy())
            calls["encode_rows with too few error weights"] = lambda: s.codec.encode_rows(x, out, x[1:].copy())
            calls["score_rows with too few column statistics"] = lambda: s.codec.score_rows(
                x, ones[1:].copy(), x.copy()
            )
    for name, call in calls.items():
        try:
            call()
        except ValueError:
            continue
        raise AssertionError(f"{name} raises no ValueError: check the sizes of the arrays")
    if s.codec.can_encode:
        s.codec.encode_rows(x[:0], out[:0])
    s.codec.decode_rows(out[:0], x[:0])


def gil(s: "Subject") -> None:
    """Other Python threads run while the codec encodes and decodes."""
    if s.codec.level == "python":
        raise NotApplicable("a codec in Python holds the GIL")
    x = s.rows(rows=1, blocks=8)
    data = s.some_bytes(rows=1, blocks=8)
    _check_gil("decode_rows", s.codec.decode_rows, data, np.empty_like(x))
    if s.codec.can_encode:
        given = s.given(x.shape[1])
        _check_gil("encode_rows", lambda rows, out: s.codec.encode_rows(rows, out, given), x, np.empty_like(data))


def _check_gil(
    name: str, call: Callable[["NDArray[Any]", "NDArray[Any]"], None], row: "NDArray[Any]", out: "NDArray[Any]"
) -> None:
    """Raise AssertionError if this thread never sees the output of call() half written, as happens under the GIL.

    A busy machine may not run this thread in time. It therefore gets at least ten tries and 3 seconds, and each call
    has enough rows to take 20 ms.
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


def _half_written(call: Callable[[], None], out: "NDArray[np.uint8]") -> bool:
    """Return whether only one end of `out` was written at some moment while another thread ran call().

    Bytes stay written, so the written end is read first: otherwise the call could end between the two reads.
    """

    def written(row: int) -> bool:
        return bool((out[row] != FILL).any())

    thread = threading.Thread(target=call)
    thread.start()
    seen = False
    while thread.is_alive() and not seen:
        seen = (written(0) and not written(-1)) or (written(-1) and not written(0))
    thread.join()
    return seen


def _differ(want: "NDArray[np.uint8]", got: "NDArray[np.uint8]") -> str:
    rows = np.flatnonzero((want != got).any(axis=1))
    return f"{(want != got).sum()} bytes differ, first in row {rows[0]}" if len(rows) else "bytes differ"
