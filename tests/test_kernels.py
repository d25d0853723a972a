"""What codecs share: half precision, checks before and after a codec runs, decoding past the caches."""

import numpy as np
import pytest
from oracles import LEVELS, NATIVE, bits, codec_at, decode, encode, floats_of_halves

from quantreg import types
from quantreg_kernels._run import RowError, first_nonfinite

EVERY_HALF = np.arange(2**16, dtype=np.uint16).view(np.float16)
FLOATS_OF_HALVES = floats_of_halves(EVERY_HALF)
FINITE_HALVES = np.sort(EVERY_HALF[np.isfinite(EVERY_HALF) & ~np.signbit(EVERY_HALF)])

at_every_level = pytest.mark.parametrize("level", LEVELS)


# ---- half precision: codecs convert vectors, one half to all lanes, and single numbers ----


@at_every_level
def test_every_half_in_vectors(level):
    halves = EVERY_HALF.view(np.uint8).reshape(2, -1)
    np.testing.assert_array_equal(bits(decode("F16", halves, level)).ravel(), bits(FLOATS_OF_HALVES))


@at_every_level
def test_every_half_in_all_lanes(level):
    blocks = np.full((2**16, 66), 0b10101010, np.uint8)  # TQ2_0: every weight is the scale
    blocks[:, 64:] = EVERY_HALF[:, None].view(np.uint8)
    expected = np.broadcast_to(bits(FLOATS_OF_HALVES)[:, None], (2**16, 256))
    np.testing.assert_array_equal(bits(decode("TQ2_0", blocks, level)), expected)


@at_every_level
def test_every_half_as_a_number(level):
    blocks = np.zeros((2**16, 144), np.uint8)  # Q4_K: weight 0 is scale * 1 * 1 - 0
    blocks[:, :2] = EVERY_HALF[:, None].view(np.uint8)
    blocks[:, 4] = blocks[:, 16] = 1
    np.testing.assert_array_equal(decode("Q4_K", blocks, level)[:, 0], FLOATS_OF_HALVES)


def around_halves():
    """Positive floats on and around every finite half and every middle between two, up to 65520 exclusive."""
    halves = FINITE_HALVES.astype(np.float32)
    middles = np.append((halves[1:] + halves[:-1]) / 2, np.float32(65520))
    patterns = np.concatenate([halves, middles]).view(np.int32)[:, None] + np.arange(-2, 3, dtype=np.int32)
    x = np.unique(patterns[patterns >= 0]).view(np.float32)
    rng = np.random.default_rng(0)
    x = np.concatenate([x, np.exp2(rng.uniform(-150, 16, 2**16)).astype(np.float32)])
    return x[x < 65520]


@at_every_level
def test_rounding_to_halves_in_vectors(level):
    x = around_halves()
    x = np.concatenate([x, -x])
    rounded = encode("F16", x[None], None, level).view(np.float16)
    np.testing.assert_array_equal(bits(rounded), bits(x[None].astype(np.float16)))


@at_every_level
@pytest.mark.parametrize("name", ["Q2_0", "TQ2_0"])
def test_rounding_to_halves_in_lanes_and_as_a_number(name, level):
    """Q2_0 rounds the scales of several blocks at once, TQ2_0 one."""
    x = around_halves()
    blocks = np.zeros((len(x), types[name].block_size), np.float32)
    blocks[:, 7] = x
    written = encode(name, blocks, None, level)
    scales = np.ascontiguousarray(written[:, :2] if name == "Q2_0" else written[:, 64:]).view(np.float16)
    np.testing.assert_array_equal(bits(scales.ravel()), bits(x.astype(np.float16)))


# ---- refusals before a codec reads or writes anything ----


def untouched(*shape):
    return np.full(shape, 0xAA, np.uint8)


@pytest.mark.parametrize(
    ("rows", "cols", "out_rows", "out_bytes"),
    [(2, 256, 2, 143), (2, 256, 2, 145), (2, 256, 1, 144), (2, 256, 3, 144), (2, 255, 2, 144), (1, 0, 1, 144)],
)
def test_encode_refuses_rows_that_do_not_fit(rows, cols, out_rows, out_bytes):
    out = untouched(out_rows, out_bytes)
    with pytest.raises(ValueError):
        codec_at("Q4_K", NATIVE[-1]).encode_rows(np.ones((rows, cols), np.float32), out)
    assert (out == 0xAA).all()


@pytest.mark.parametrize("shape", [(255,), (257,), (0,), (1, 256), (2, 255)])
def test_encode_refuses_importance_of_another_shape(shape):
    out = untouched(2, 144)
    with pytest.raises(ValueError):
        codec_at("Q4_K", NATIVE[-1]).encode_rows(np.ones((2, 256), np.float32), out, np.ones(shape, np.float32))
    assert (out == 0xAA).all()


@pytest.mark.parametrize(
    ("rows", "row_bytes", "out_rows", "cols"),
    [(2, 144, 2, 255), (2, 144, 2, 512), (2, 144, 1, 256), (2, 143, 2, 256), (2, 144, 2, 0)],
)
def test_decode_refuses_bytes_that_do_not_fit(rows, row_bytes, out_rows, cols):
    out = np.full((out_rows, cols), 7, np.float32)
    with pytest.raises(ValueError):
        codec_at("Q4_K", NATIVE[-1]).decode_rows(np.zeros((rows, row_bytes), np.uint8), out)
    assert (out == 7).all()


@pytest.mark.parametrize(("columns", "out"), [(255, (2, 256)), (256, (1, 256)), (256, (2, 255))])
def test_score_refuses_shapes_that_differ(columns, out):
    with pytest.raises(ValueError, match="agree in shape"):
        codec_at("Q4_K", NATIVE[-1]).score_rows(
            np.ones((2, 256), np.float32), np.ones(columns, np.float32), np.empty(out, np.float32)
        )


def test_only_arrays_of_the_right_type_are_taken():
    codec = codec_at("Q4_K", NATIVE[-1])
    x = np.ones((2, 256), np.float32)
    for wrong in (x.astype(np.float64), x.astype(">f4"), x.view(np.int32), x.ravel(), x[None]):
        with pytest.raises(ValueError):
            codec.encode_rows(wrong, untouched(2, 144))


def misaligned(*shape):
    """float32 zeros that begin at an odd address."""
    return np.zeros(4 * np.prod(shape) + 1, np.uint8)[1:].view(np.float32).reshape(shape)


def test_floats_that_are_not_aligned_are_refused():
    codec = codec_at("Q4_K", NATIVE[-1])
    x, odd, data = np.zeros((2, 256), np.float32), misaligned(2, 256), untouched(2, 144)
    for call in (
        lambda: codec.encode_rows(odd, data),
        lambda: codec.encode_rows(x, data, odd[0]),
        lambda: codec.encode_rows(x, data, odd),
        lambda: codec.decode_rows(data, odd),
        lambda: codec.score_rows(odd, x[0], x.copy()),
        lambda: codec.score_rows(x, odd[0], x.copy()),
        lambda: codec.score_rows(x, x[0], odd),
        lambda: first_nonfinite(odd),
    ):
        with pytest.raises(ValueError, match="aligned"):
            call()
    assert (data == 0xAA).all()


def test_no_rows_and_empty_rows_are_nothing_to_do():
    codec = codec_at("Q4_K", NATIVE[-1])
    for rows, blocks in ((0, 1), (3, 0)):
        x, data = np.empty((rows, 256 * blocks), np.float32), np.empty((rows, 144 * blocks), np.uint8)
        codec.encode_rows(x, data)
        codec.decode_rows(data, x)


@pytest.mark.parametrize("at", [0, 1, 1023, 1024, 1025, 2047, 2999])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_the_first_number_that_is_not_finite(value, at):
    x = np.full((3, 1000), np.finfo(np.float32).max)
    assert first_nonfinite(x) == -1
    x.flat[at] = value
    x.flat[-1] = np.nan
    assert first_nonfinite(x) == at


@at_every_level
@pytest.mark.parametrize(
    "name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "Q1_0", "Q2_0", "TQ1_0", "TQ2_0", "Q4_K"]
)
@pytest.mark.parametrize(("huge", "bad"), [(3, 7), (7, 3), (5, 5), (None, 3), (3, None), (None, 0), (299, 298)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_first_bad_row_is_reported_and_rows_before_it_are_complete(name, huge, bad, weighted, level):
    """Whether a codec is handed rows before or after they were checked."""
    x = np.random.default_rng(1).standard_normal((300, 512)).astype(np.float32)
    columns = np.linspace(0.1, 1, 512, dtype=np.float32) if weighted else None
    expected = encode(name, x, columns, level)
    first = min(row for row in (huge, bad) if row is not None)
    if huge is not None:
        x[huge] = 3e38
    if bad is not None:
        x[bad, 77] = np.inf
    out = np.full_like(expected, 0xAA)
    with pytest.raises(RowError) as refused:
        codec_at(name, level).encode_rows(x, out, columns)
    assert refused.value.row == first
    assert refused.value.column == (77 if first == bad else None)
    np.testing.assert_array_equal(out[:first], expected[:first])


# ---- decoding past the caches ----


@at_every_level
@pytest.mark.parametrize("name", list(types))
@pytest.mark.parametrize("at", [0, 4, 60])
def test_decoding_past_the_caches_gives_the_same_floats(name, at, level):
    cols = max(types[name].block_size, 32) * 5
    data = np.random.default_rng(at).integers(0, 256, (37, types[name].row_bytes(cols)), np.uint8)
    room = np.full(37 * cols * 4 + 256, 0xAA, np.uint8)
    start = -room.ctypes.data % 64 + at
    out = room[start : start + 37 * cols * 4].view(np.float32).reshape(37, cols)
    codec_at(name, level).decode_rows(data, out, stream=True)
    np.testing.assert_array_equal(bits(out), bits(decode(name, data, level)))
    assert (room[:start] == 0xAA).all()
    assert (room[start + out.nbytes :] == 0xAA).all()
