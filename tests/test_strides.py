"""Rows that lie apart in memory: the same bytes as from contiguous arrays, and nothing between the rows is touched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import LEVELS, NATIVE, bits, codec_at, decode, encode

from quantreg import types
from quantreg_kernels._run import RowError, first_nonfinite

FILL = 0xAA

at_every_level = pytest.mark.parametrize("level", LEVELS)


class Placed:
    """Room with a view in it: rows `step` apart, with `before` and `after` more items in front of and behind each."""

    def __init__(self, shape, dtype, step, before, after):
        rows, cols = shape
        nbytes = np.dtype(dtype).itemsize
        self.room = np.full((rows * abs(step), (before + cols + after) * nbytes), FILL, np.uint8).view(dtype)
        self.view = self.room[::step, before : before + cols]
        self.between = np.ones(self.room.shape, bool)
        self.between[::step, before : before + cols] = False

    def untouched(self):
        """Whether the room holds what it did at first, except for the view."""
        return (self.room[self.between].view(np.uint8) == FILL).all()


places = st.tuples(st.sampled_from([1, 2, 3, -1, -2]), st.integers(0, 40), st.integers(0, 40))


def placed_copy(x, place, between=None):
    """The rows of x as such a view; `between` is what lies around them."""
    copy = Placed(x.shape, x.dtype, *place)
    copy.view[...] = x
    if between is not None:
        copy.room[copy.between] = between
    return copy.view


def shape_of(name, rows, blocks):
    size = types[name].block_size
    return rows, blocks * (size if size > 8 else 32 * size)


# ---- every type: encoding, decoding and scoring in place ----


@at_every_level
@pytest.mark.parametrize("name", list(types))
def test_strided_rows_give_the_bytes_of_contiguous_ones(name, level):
    codec = codec_at(name, level)

    @settings(max_examples=10 if level in NATIVE else 2, database=None)
    @given(st.data())
    def run(data):
        rows, cols = shape_of(name, data.draw(st.integers(1, 20)), data.draw(st.integers(1, 4)))
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        x = rng.standard_normal((rows, cols)).astype(np.float32)
        written = rng.integers(0, 256, (rows, types[name].row_bytes(cols)), np.uint8)
        if codec.can_encode:
            columns = rng.random(cols, np.float32) + np.float32(0.1)
            kinds = [columns, np.abs(x) + np.float32(0.1)] if codec.has_scorer else [None]
            if not types[name].requires_importance:
                kinds.append(None)
            importance = data.draw(st.sampled_from(kinds))
            written = encode(name, x, importance, level)
            if importance is not None and importance.ndim == 2:
                importance = placed_copy(importance, data.draw(places), np.nan)
            out = Placed(written.shape, np.uint8, *data.draw(places))
            codec.encode_rows(placed_copy(x, data.draw(places), np.nan), out.view, importance)
            np.testing.assert_array_equal(out.view, written)
            assert out.untouched()
        if codec.has_scorer:
            expected, out = np.empty_like(x), Placed(x.shape, np.float32, *data.draw(places))
            codec.score_rows(x, columns, expected)
            codec.score_rows(placed_copy(x, data.draw(places), np.nan), columns, out.view)
            np.testing.assert_array_equal(bits(out.view), bits(expected))
            assert out.untouched()
        out = Placed(x.shape, np.float32, *data.draw(places))
        codec.decode_rows(placed_copy(written, data.draw(places)), out.view, stream=data.draw(st.booleans()))
        np.testing.assert_array_equal(bits(out.view), bits(decode(name, written, level)))
        assert out.untouched()

    run()


@pytest.mark.parametrize("level", NATIVE)  # it would take minutes on an emulated processor
@pytest.mark.parametrize("name", [name for name in types if types[name].block_size in (1, 32)])
def test_long_strided_rows_take_several_turns(name, level):
    """They hold more weights than are checked at once (65,536) and than are decoded at once past the caches (512)."""
    codec = codec_at(name, level)
    x = np.random.default_rng(1).standard_normal((70, 1024)).astype(np.float32)
    written = np.random.default_rng(2).integers(0, 256, (70, types[name].row_bytes(1024)), np.uint8)
    if codec.can_encode:
        weights = np.abs(x[::-1]) if codec.has_scorer else None
        written = encode(name, x, weights, level)
        out = Placed(written.shape, np.uint8, 2, 3, 5)
        given = None if weights is None else placed_copy(weights, (3, 2, 1), np.nan)
        codec.encode_rows(placed_copy(x, (2, 1, 2), np.nan), out.view, given)
        np.testing.assert_array_equal(out.view, written)
        assert out.untouched()
    out = Placed(x.shape, np.float32, -2, 3, 5)
    codec.decode_rows(placed_copy(written, (2, 1, 2)), out.view, stream=True)
    np.testing.assert_array_equal(bits(out.view), bits(decode(name, written, level)))
    assert out.untouched()


def test_some_blocks_of_every_row_can_be_encoded_in_place():
    x = np.random.default_rng(3).standard_normal((6, 1024)).astype(np.float32)
    whole = encode("Q4_K", x)
    part = np.zeros_like(whole)
    codec_at("Q4_K", NATIVE[-1]).encode_rows(x[:, 256:768], part[:, 144:432])
    np.testing.assert_array_equal(part[:, 144:432], whole[:, 144:432])
    assert not part[:, :144].any()
    assert not part[:, 432:].any()


def test_all_rows_may_share_their_memory_if_they_are_only_read():
    x = np.random.default_rng(4).standard_normal((1, 512)).astype(np.float32)
    shared, weights = np.broadcast_to(x, (5, 512)), np.broadcast_to(np.abs(x), (5, 512))
    out = np.empty((5, 288), np.uint8)
    codec_at("Q4_K", NATIVE[-1]).encode_rows(shared, out, weights)
    np.testing.assert_array_equal(out, encode("Q4_K", shared.copy(), weights.copy()))
    np.testing.assert_array_equal(decode("Q4_K", np.broadcast_to(out[:1], (5, 288))), decode("Q4_K", out))


# ---- NaN and infinity ----


@at_every_level
@pytest.mark.parametrize("place", [(1, 0, 0), (1, 3, 2), (2, 0, 0), (-1, 0, 0), (-3, 1, 1)])
@pytest.mark.parametrize("name", ["Q8_0", "F16", "Q4_K", "Q6_K"])  # two that are checked after they are encoded
def test_a_nan_in_a_strided_row_is_reported_by_row_and_column(name, place, level):
    x = np.random.default_rng(5).standard_normal((300, 512)).astype(np.float32)
    x[150, 77] = x[290, 0] = np.nan
    view = placed_copy(x, place, np.inf)
    out = Placed((300, types[name].row_bytes(512)), np.uint8, 2, 1, 1)
    with pytest.raises(RowError, match="row 1150 cannot be encoded: it holds NaN or infinity at column 77") as refused:
        codec_at(name, level).encode_rows(view, out.view, first_row=1000)
    assert (refused.value.row, refused.value.column) == (1150, 77)
    np.testing.assert_array_equal(out.view[:150], encode(name, x[:150], None, level))
    assert out.untouched()
    assert first_nonfinite(view) == 150 * 512 + 77
    assert first_nonfinite(view[:150]) == -1


def test_values_that_are_too_large_are_reported_by_row():
    x = np.zeros((2, 256), np.float32)
    x[1] = 3e38
    with pytest.raises(RowError, match="row 1 cannot be encoded: it holds values that are too large") as refused:
        encode("Q4_K", x)
    assert (refused.value.row, refused.value.column) == (1, None)


# ---- what is refused ----


def calls_with(**wrong):
    """Every function that takes the named array, called with it."""
    arrays = {
        "x": np.ones((4, 512), np.float32),
        "importance": np.ones((4, 512), np.float32),
        "bytes": np.full((4, 288), FILL, np.uint8),
        "floats": np.full((4, 512), 7, np.float32),
    } | wrong
    codec = codec_at("Q4_K", NATIVE[-1])
    x, importance, data, floats = arrays.values()
    calls = {
        "encode": lambda: codec.encode_rows(x, data, importance),
        "decode": lambda: codec.decode_rows(data, floats),
        "score": lambda: codec.score_rows(x, np.ones(512, np.float32), floats),
        "check": lambda: first_nonfinite(x),
    }
    used = {"x": ("encode", "score", "check"), "importance": ("encode",), "bytes": ("encode", "decode")}
    return [calls[name] for key in wrong for name in used.get(key, ("decode", "score"))]


@pytest.mark.parametrize("what", ["x", "importance", "floats"])
def test_columns_that_lie_apart_are_refused(what):
    for wrong in (np.ones((4, 1024), np.float32)[:, ::2], np.ones((4, 512), np.float32)[:, ::-1]):
        for call in calls_with(**{what: wrong}):
            with pytest.raises(ValueError, match=r"must be contiguous \(4 bytes apart\).*Rows may lie apart"):
                call()
    for call in calls_with(bytes=np.ones((4, 576), np.uint8)[:, ::2]):
        with pytest.raises(ValueError, match=r"columns of (out|data) lie 2 bytes apart"):
            call()


def test_rows_that_are_written_must_not_overlap():
    room = np.ones(4096, np.float32)
    for stride in (0, 4, 2044, -4, -2044):
        overlapping = np.lib.stride_tricks.as_strided(room[2048:], (4, 512), (stride, 4))
        for call in calls_with(floats=overlapping):
            with pytest.raises(ValueError, match=f"rows of out overlap: they lie {stride} bytes apart and have 2048"):
                call()
    out = np.lib.stride_tricks.as_strided(np.zeros(1152, np.uint8), (4, 288), (287, 1))
    with pytest.raises(ValueError, match="rows of out overlap: they lie 287 bytes apart and have 288 bytes each"):
        codec_at("Q4_K", NATIVE[-1]).encode_rows(np.ones((4, 512), np.float32), out)


@pytest.mark.parametrize("what", ["x", "importance", "floats"])
def test_every_row_must_be_aligned(what):
    """The rows of a structured array can lie at odd addresses though the first does not."""
    records = np.zeros(4, np.dtype([("row", np.float32, 512), ("odd", np.uint8)]))
    assert records["row"].strides == (2049, 4)
    for call in calls_with(**{what: records["row"]}):
        with pytest.raises(ValueError, match="is float32 that is not aligned in memory"):
            call()
