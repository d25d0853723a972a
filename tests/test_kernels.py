"""What codecs share: half precision, checks before a codec runs, the ABI, and the choice of a CPU level."""

import ctypes

import numpy as np
import pytest
from oracles import LEVELS, bits, codec_at, decode, encode

import quantreg_kernels
from quantreg import types
from quantreg_kernels import load_codec, usable_levels
from quantreg_kernels._cpu import machine_levels
from quantreg_kernels._run import Codec, RowError, first_nonfinite

EVERY_HALF = np.arange(2**16, dtype=np.uint16).view(np.float16)
FLOATS_OF_HALVES = EVERY_HALF.astype(np.float32)
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
        codec_at("Q4_K", LEVELS[-1]).encode_rows(np.ones((rows, cols), np.float32), out)
    assert (out == 0xAA).all()


@pytest.mark.parametrize("shape", [(255,), (257,), (0,), (1, 256), (2, 255)])
def test_encode_refuses_importance_of_another_shape(shape):
    out = untouched(2, 144)
    with pytest.raises(ValueError):
        codec_at("Q4_K", LEVELS[-1]).encode_rows(np.ones((2, 256), np.float32), out, np.ones(shape, np.float32))
    assert (out == 0xAA).all()


@pytest.mark.parametrize(
    ("rows", "row_bytes", "out_rows", "cols"),
    [(2, 144, 2, 255), (2, 144, 2, 512), (2, 144, 1, 256), (2, 143, 2, 256), (2, 144, 2, 0)],
)
def test_decode_refuses_bytes_that_do_not_fit(rows, row_bytes, out_rows, cols):
    out = np.full((out_rows, cols), 7, np.float32)
    with pytest.raises(ValueError):
        codec_at("Q4_K", LEVELS[-1]).decode_rows(np.zeros((rows, row_bytes), np.uint8), out)
    assert (out == 7).all()


@pytest.mark.parametrize(("columns", "out"), [(255, (2, 256)), (256, (1, 256)), (256, (2, 255))])
def test_score_refuses_shapes_that_differ(columns, out):
    with pytest.raises(ValueError, match="agree in shape"):
        codec_at("Q4_K", LEVELS[-1]).score_rows(
            np.ones((2, 256), np.float32), np.ones(columns, np.float32), np.empty(out, np.float32)
        )


def test_only_contiguous_arrays_of_the_right_type_are_taken():
    codec = codec_at("Q4_K", LEVELS[-1])
    x = np.ones((2, 512), np.float32)
    for wrong in (x[:, ::2], x.astype(np.float64)[:, :256], x.ravel()):
        with pytest.raises(ValueError):
            codec.encode_rows(wrong, untouched(2, 144))


def misaligned(*shape):
    """float32 zeros that begin at an odd address."""
    return np.zeros(4 * np.prod(shape) + 1, np.uint8)[1:].view(np.float32).reshape(shape)


def test_floats_that_are_not_aligned_are_refused():
    codec = codec_at("Q4_K", LEVELS[-1])
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
    codec = codec_at("Q4_K", LEVELS[-1])
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


# ---- the ABI ----

ROWS = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p)
PREPARE = ctypes.CFUNCTYPE(None)


class RowCodecStruct(ctypes.Structure):
    """abi.pxd's RowCodec."""

    _fields_ = (
        ("struct_size", ctypes.c_ssize_t),
        ("abi_major", ctypes.c_int32),
        ("type_id", ctypes.c_int32),
        ("block_size", ctypes.c_ssize_t),
        ("type_size", ctypes.c_ssize_t),
        ("row_header_size", ctypes.c_ssize_t),
        ("prepare", PREPARE),
        ("encode_rows", ROWS),
        ("decode_rows", ROWS),
        ("score_rows", ROWS),
        ("whole_rows", ctypes.c_int32),
        ("takes_nonfinite", ctypes.c_int32),
    )


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
NAME = b"quantreg.RowCodec"


@pytest.fixture
def make_codec():
    """Codecs from structs filled by hand, as a plugin's module would export them."""
    alive = []

    def make(**fields):
        struct = RowCodecStruct(
            **{
                "struct_size": ctypes.sizeof(RowCodecStruct),
                "abi_major": 1,
                "type_id": 1000,
                "block_size": 4,
                "type_size": 2,
                "encode_rows": ROWS(lambda codec, args: 2),
                "decode_rows": ROWS(lambda codec, args: 2),
                **fields,
            }
        )
        alive.append(struct)
        return Codec(new_capsule(ctypes.addressof(struct), NAME, None))

    return make


def test_a_struct_of_this_abi_is_taken(make_codec):
    codec = make_codec(row_header_size=3)
    assert (codec.type_id, codec.block_size, codec.type_size, codec.row_header_size) == (1000, 4, 2, 3)
    assert codec.can_encode
    assert not codec.has_scorer
    codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 3 + 2 * 2), np.uint8))


@pytest.mark.parametrize(("abi", "advice"), [(0, "rebuild the plugin"), (2, "upgrade quantreg")])
def test_another_abi_is_refused(make_codec, abi, advice):
    with pytest.raises(ImportError, match=f"built for quantreg ABI {abi}, this quantreg has ABI 1: {advice}"):
        make_codec(abi_major=abi)


def test_members_that_an_older_struct_lacks_are_null(make_codec):
    called = ROWS(lambda codec, args: 2)
    codec = make_codec(struct_size=RowCodecStruct.score_rows.offset, score_rows=called)
    assert codec.can_encode
    assert not codec.has_scorer


def test_a_struct_without_its_sizes_is_refused(make_codec):
    with pytest.raises(ImportError, match="too short"):
        make_codec(struct_size=RowCodecStruct.type_size.offset)


@pytest.mark.parametrize("fields", [{"block_size": 0}, {"type_size": 0}, {"block_size": -1}, {"row_header_size": -1}])
def test_an_empty_block_is_refused(make_codec, fields):
    with pytest.raises(ValueError, match="empty block"):
        make_codec(**fields)


def test_other_capsules_and_objects_are_refused():
    for other in (new_capsule(1, b"something.else", None), None, "codec"):
        with pytest.raises(TypeError, match=r"not a quantreg\.RowCodec capsule"):
            Codec(other)


def test_functions_that_a_codec_lacks_are_refused(make_codec):
    codec = make_codec(encode_rows=ROWS(), decode_rows=ROWS())
    x, data = np.ones((2, 8), np.float32), np.empty((2, 4), np.uint8)
    assert not codec.can_encode
    with pytest.raises(TypeError, match="only decodes"):
        codec.encode_rows(x, data)
    with pytest.raises(TypeError, match="does not decode"):
        codec.decode_rows(data, x)
    with pytest.raises(TypeError, match="reads no importance"):
        codec.score_rows(x, x[0], x)


def test_prepare_runs_once_before_the_first_encode(make_codec):
    calls = []
    codec = make_codec(
        prepare=PREPARE(lambda: calls.append("prepare")),
        encode_rows=ROWS(lambda codec, args: calls.append("encode") or 2),
    )
    assert not calls
    for _ in range(2):
        codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 4), np.uint8))
    assert calls == ["prepare", "encode", "encode"]


def test_the_row_that_a_codec_stops_at_is_reported(make_codec):
    codec = make_codec(encode_rows=ROWS(lambda codec, args: 1))
    with pytest.raises(RowError) as refused:
        codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 4), np.uint8), first_row=10)
    assert (refused.value.row, refused.value.column) == (11, None)


# ---- CPU levels ----


class Args(ctypes.Structure):
    """What EncodeArgs and DecodeArgs begin with."""

    _fields_ = (
        ("struct_size", ctypes.c_ssize_t),
        ("src", ctypes.c_void_p),
        ("dst", ctypes.c_void_p),
        ("n_rows", ctypes.c_ssize_t),
        ("n_cols", ctypes.c_ssize_t),
        ("src_stride", ctypes.c_ssize_t),
        ("dst_stride", ctypes.c_ssize_t),
    )


@pytest.mark.parametrize(
    ("fields", "piece"),
    [
        ({}, (1, 512)),
        ({"whole_rows": 1}, (5, 100)),
        ({"row_header_size": 3}, (5, 100)),
        ({"block_size": 100}, (1, 500)),
    ],
)
def test_past_the_caches_blocks_are_decoded_in_pieces_but_rows_with_a_header_whole(make_codec, fields, piece):
    pieces = []

    def decode_rows(codec, args):
        got = Args.from_address(args)
        assert (got.src_stride, got.dst_stride) == (header + got.n_cols // block * 2, got.n_cols) or got.n_rows == 1
        pieces.append((got.n_rows, got.n_cols))
        return got.n_rows

    codec = make_codec(decode_rows=ROWS(decode_rows), **fields)
    header, block = codec.row_header_size, codec.block_size
    codec.decode_rows(np.zeros((33, header + 100 // block * 2), np.uint8), np.empty((33, 100), np.float32), stream=True)
    assert pieces[0] == piece
    assert all(got <= piece for got in pieces)
    assert sum(rows * cols for rows, cols in pieces) == 33 * 100


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


def test_levels_are_slowest_first_and_begin_with_base(monkeypatch):
    monkeypatch.delenv("QUANTREG_CPU", raising=False)
    assert usable_levels() == machine_levels() == quantreg_kernels.LEVELS[: len(machine_levels())]
    monkeypatch.setenv("QUANTREG_CPU", "")
    assert usable_levels() == machine_levels()


@pytest.mark.parametrize("level", machine_levels())
def test_a_forced_level_is_the_one_loaded(monkeypatch, level):
    monkeypatch.setenv("QUANTREG_CPU", level)
    assert usable_levels() == (level,)
    assert load_codec("quantreg_lowbit.q1_0", "_q1_0").level == level


def test_the_fastest_level_is_loaded_by_default(monkeypatch):
    monkeypatch.delenv("QUANTREG_CPU", raising=False)
    codec = load_codec("quantreg_lowbit.q1_0", "_q1_0")
    assert codec.level == [level for level in machine_levels() if level in codec.built][-1]


def test_an_unknown_level_is_refused(monkeypatch):
    monkeypatch.setenv("QUANTREG_CPU", "sse9")
    with pytest.raises(ValueError, match="QUANTREG_CPU=sse9: unknown CPU level, use one of base, avx2, avx512"):
        load_codec("quantreg_lowbit.q1_0", "_q1_0")


def test_a_level_that_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setenv("QUANTREG_CPU", "avx512")
    monkeypatch.setattr("quantreg_kernels._cpu.machine_levels", lambda: ("base", "avx2"))
    with pytest.raises(ValueError, match="QUANTREG_CPU=avx512: this machine only has base, avx2"):
        usable_levels()


def test_a_codec_that_was_not_built_is_reported(monkeypatch):
    monkeypatch.setenv("QUANTREG_CPU", "base")
    with pytest.raises(ImportError, match=r"quantreg_lowbit\._q9_0 was not built for the CPU level base: reinstall"):
        load_codec("quantreg_lowbit.q9_0", "_q9_0")
