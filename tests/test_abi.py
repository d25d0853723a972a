"""The codec ABI: structs filled by hand, as a plugin's module would export them."""

import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from row_codec import Args, DotArgs, Prepare, RowCodec, Rows, as_capsule, new_capsule

from quantreg_kernels._run import Codec, RowError


@pytest.fixture
def make_capsule():
    """Capsules of structs filled by hand."""
    alive = []

    def make(**fields):
        fields = {
            "struct_size": ctypes.sizeof(RowCodec),
            "abi_major": 1,
            "type_id": 1000,
            "block_size": 4,
            "type_size": 2,
            "encode_rows": Rows(lambda codec, args: 2),
            "decode_rows": Rows(lambda codec, args: 2),
            **fields,
        }
        plain = {
            key: value if isinstance(value, int) else ctypes.cast(value, ctypes.c_void_p)
            for key, value in fields.items()
        }
        struct = RowCodec(**plain)
        alive.append((struct, fields))
        return as_capsule(struct)

    return make


@pytest.fixture
def make_codec(make_capsule):
    return lambda **fields: Codec(make_capsule(**fields))


def test_a_struct_of_this_abi_is_taken(make_codec):
    codec = make_codec(row_header_size=3)
    assert (codec.type_id, codec.block_size, codec.type_size, codec.row_header_size) == (1000, 4, 2, 3)
    assert codec.can_encode
    assert not codec.has_scorer
    codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 3 + 2 * 2), np.uint8))


@pytest.mark.parametrize(("abi", "advice"), [(0, "rebuild the plugin"), (2, "upgrade quantreg")])
def test_another_abi_is_refused(make_codec, abi, advice):
    with pytest.raises(ImportError, match=f"built for quantreg ABI {abi}, but this quantreg has ABI 1: {advice}"):
        make_codec(abi_major=abi)


def test_members_that_an_older_struct_lacks_are_null(make_codec):
    called = Rows(lambda codec, args: 2)
    codec = make_codec(struct_size=RowCodec.score_rows.offset, score_rows=called)
    assert codec.can_encode
    assert not codec.has_scorer


def test_a_struct_that_is_older_than_products_has_none(make_codec):
    codec = make_codec(struct_size=RowCodec.dot_rows.offset, dot_rows=Rows(lambda codec, args: 2))
    assert not codec.has_dot
    with pytest.raises(TypeError, match="has no product of its own"):
        codec.dot_rows(np.zeros((2, 4), np.uint8), np.ones((1, 8), np.float32), np.empty((1, 2), np.float32))


def test_a_product_gets_pointers_sizes_and_strides(make_codec):
    seen = []

    def dot_rows(codec, args):
        seen.append(DotArgs.from_buffer_copy(DotArgs.from_address(args)))
        return 2

    codec = make_codec(dot_rows=Rows(dot_rows))
    data, x, out = np.zeros((4, 6), np.uint8), np.ones((3, 12), np.float32), np.empty((3, 5), np.float32)
    codec.dot_rows(data[::2, :4], x[:, 4:], out[:, 1:3])
    (a,) = seen
    assert (a.struct_size, a.src, a.x, a.dst) == (
        ctypes.sizeof(DotArgs),
        data.ctypes.data,
        x.ctypes.data + 16,
        out.ctypes.data + 4,
    )
    assert (a.n_rows, a.n_cols, a.n_x, a.src_stride, a.x_stride, a.dst_stride) == (2, 8, 3, 12, 12, 5)


@pytest.mark.parametrize("size", [0, 1, 100, 70000])
def test_an_encoder_gets_the_scratch_that_it_asks_for(make_codec, size):
    seen = []

    def encode_rows(codec, args):
        scratch = Args.from_address(args).scratch
        if scratch:
            ctypes.memset(scratch, 0xAA, size)
        seen.append(scratch)
        return Args.from_address(args).n_rows

    codec = make_codec(encode_rows=Rows(encode_rows), scratch_size=size)
    codec.encode_rows(np.ones((3, 40000), np.float32), np.empty((3, 20000), np.uint8))
    assert len(seen) == 3  # a row at a time, as it is so long
    assert [scratch is not None and scratch % 64 == 0 for scratch in seen] == [size > 0] * 3


def test_a_struct_that_is_older_than_scratch_gets_none(make_codec):
    seen = []
    encode_rows = Rows(lambda codec, args: seen.append(Args.from_address(args).scratch) or 2)
    codec = make_codec(struct_size=RowCodec.scratch_size.offset, encode_rows=encode_rows, scratch_size=100)
    codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 4), np.uint8))
    assert seen == [None]


@pytest.mark.parametrize("size", [-1, 1 << 40])
def test_an_absurd_size_of_scratch_is_refused(make_codec, size):
    with pytest.raises(ValueError, match=f"asks for {size} bytes of scratch"):
        make_codec(scratch_size=size)


@pytest.mark.parametrize(
    ("data", "x", "out", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.ones((1, 8), np.float32), np.empty((1, 2), np.float32), "2 rows of 4 bytes"),
        (np.zeros((2, 4), np.uint8), np.ones((1, 8), np.float32), np.empty((1, 3), np.float32), r"out \(1, 3\)"),
        (np.zeros((2, 4), np.uint8), np.ones((1, 9), np.float32), np.empty((1, 2), np.float32), "does not divide"),
        (
            np.zeros((2, 4), np.uint8),
            np.ones((1, 16), np.float32)[:, ::2],
            np.empty((1, 2), np.float32),
            "columns of x",
        ),
        (
            np.zeros((2, 4), np.uint8),
            np.frombuffer(bytes(33), np.uint8)[1:].view(np.float32).reshape(1, 8),
            np.empty((1, 2), np.float32),
            "x is float32 that is not aligned",
        ),
    ],
)
def test_arrays_that_do_not_fit_a_product_are_refused(make_codec, data, x, out, message):
    codec = make_codec(dot_rows=Rows(lambda codec, args: pytest.fail("called")))
    with pytest.raises(ValueError, match=message):
        codec.dot_rows(data, x, out)


def test_a_struct_without_its_sizes_is_refused(make_codec):
    with pytest.raises(ImportError, match="too short"):
        make_codec(struct_size=RowCodec.type_size.offset)


@pytest.mark.parametrize("fields", [{"block_size": 0}, {"type_size": 0}, {"block_size": -1}, {"row_header_size": -1}])
def test_an_empty_block_is_refused(make_codec, fields):
    with pytest.raises(ValueError, match="empty block"):
        make_codec(**fields)


def test_other_capsules_and_objects_are_refused():
    for other in (new_capsule(1, b"something.else"), None, "codec"):
        with pytest.raises(TypeError, match=r"not a quantreg\.RowCodec capsule"):
            Codec(other)


def test_functions_that_a_codec_lacks_are_refused(make_codec):
    codec = make_codec(encode_rows=Rows(), decode_rows=Rows())
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
        prepare=Prepare(lambda: calls.append("prepare")),
        encode_rows=Rows(lambda codec, args: calls.append("encode") or 2),
    )
    assert not calls
    for _ in range(2):
        codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 4), np.uint8))
    assert calls == ["prepare", "encode", "encode"]


def test_prepare_runs_once_when_many_threads_encode_at_once(make_codec):
    """No thread may encode before prepare() has ended, and none may run it a second time."""
    events = []

    def prepare():
        events.append("prepare")
        time.sleep(0.05)
        events.append("prepared")

    codec = make_codec(prepare=Prepare(prepare), encode_rows=Rows(lambda codec, args: events.append("encode") or 2))
    start = threading.Barrier(16)

    def encode():
        start.wait()
        codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 4), np.uint8))

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(encode) for _ in range(16)]:
            done.result()
    assert events == ["prepare", "prepared", *["encode"] * 16]


def test_prepare_runs_once_for_a_module_that_is_loaded_twice(make_capsule):
    """Its tables belong to the module: a second run would write them while another thread encodes with them."""
    calls = []
    capsule = make_capsule(prepare=Prepare(lambda: calls.append("prepare")))
    for codec in (Codec(capsule), Codec(capsule)):
        codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 4), np.uint8))
    assert calls == ["prepare"]


def test_the_row_that_a_codec_stops_at_is_reported(make_codec):
    codec = make_codec(encode_rows=Rows(lambda codec, args: 1))
    with pytest.raises(RowError) as refused:
        codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 4), np.uint8), first_row=10)
    assert (refused.value.row, refused.value.column) == (11, None)


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

    codec = make_codec(decode_rows=Rows(decode_rows), **fields)
    header, block = codec.row_header_size, codec.block_size
    codec.decode_rows(np.zeros((33, header + 100 // block * 2), np.uint8), np.empty((33, 100), np.float32), stream=True)
    assert pieces[0] == piece
    assert all(got <= piece for got in pieces)
    assert sum(rows * cols for rows, cols in pieces) == 33 * 100


@pytest.mark.parametrize("takes_nonfinite", [0, 1])
@pytest.mark.parametrize("says", [10**9, 300])
def test_a_codec_that_counts_more_rows_than_it_got_still_gets_all(make_codec, says, takes_nonfinite):
    """It may count blocks by mistake; large matrices are handed over in parts."""
    seen = []

    def encode_rows(codec, args):
        got = Args.from_address(args)
        seen.append((got.src, got.n_rows * got.src_stride * 4))
        return says

    codec = make_codec(encode_rows=Rows(encode_rows), takes_nonfinite=takes_nonfinite)
    x = np.ones((600, 512), np.float32)
    codec.encode_rows(x, np.empty((600, 256), np.uint8))
    assert len(seen) > 2
    at = x.ctypes.data
    for start, nbytes in seen:
        assert start == at
        at += nbytes
    assert at == x.ctypes.data + x.nbytes


def test_a_codec_that_counts_less_than_no_rows_stops_at_the_first(make_codec):
    codec = make_codec(encode_rows=Rows(lambda codec, args: -1))
    with pytest.raises(RowError) as refused:
        codec.encode_rows(np.ones((2, 8), np.float32), np.empty((2, 4), np.uint8))
    assert refused.value.row == 0
