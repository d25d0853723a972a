"""What the reader gives, and everything it refuses (the numbers are those of the container's rules)."""

import struct
import time
from types import SimpleNamespace

import gguf_files as gf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quantreg.errors import GGUFFormatError
from quantreg.gguf import TYPES, TypeLayout, layout, read_header

NO_KEYS_NO_TENSORS = struct.pack("<QQ", 0, 0)
ONE_FLOAT = bytes(32)


def refused(data, code, **options):
    with pytest.raises(GGUFFormatError) as caught:
        read_header(data, **options)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return caught.value


def with_key(*keys):
    return gf.gguf(keys)


def with_tensors(*tensors, data=bytes(1024), keys=(), **options):
    return gf.gguf(keys, [gf.tensor(*t) if isinstance(t, tuple) else t for t in tensors], data, **options)


# What is read


def test_header_of_a_small_model():
    data = gf.small_model()
    header = read_header(data)
    assert (header.version, header.alignment, header.file_size) == (3, 32, len(data))
    assert header.warnings == []
    assert header.path is None
    assert dict(header.metadata) == {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "flag": True,
        "half": 0.5,
        "big": -(1 << 40),
        "tokenizer.ggml.tokens": ["a", "", "é"],
        "tokenizer.ggml.scores": [0.0, -1.0, 2.0],
        "flags": [False, True],
        "nothing": [],
    }
    first, second = header.tensors
    assert (first.name, first.dims, first.shape, first.type_name) == ("a.weight", (3, 2), (2, 3), "F32")
    assert (first.n_elements, first.n_cols, first.n_rows, first.nbytes, first.row_bytes) == (6, 3, 2, 24, 12)
    assert (second.type_id, second.offset, second.nbytes, second.known) == (8, 32, 34, True)
    assert header.tensor("b.weight") is second
    assert header.data_offset + 32 + 64 == len(data)


def test_path_and_buffer_give_the_same(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gf.small_model())
    from_path, from_buffer = read_header(path), read_header(gf.small_model())
    assert from_path.tensors == from_buffer.tensors
    assert from_path.metadata == from_buffer.metadata
    assert from_path.path == str(path)


def test_metadata_outlives_the_file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gf.small_model())
    metadata = read_header(path).metadata
    path.write_bytes(b"")
    path.unlink()
    assert metadata["tokenizer.ggml.tokens"] == ["a", "", "é"]


def test_metadata_types_and_lengths_without_decoding():
    metadata = read_header(gf.small_model()).metadata
    assert metadata.value_type("llama.block_count") == "u32"
    assert metadata.value_type("tokenizer.ggml.tokens") == "array[string]"
    assert metadata.array_length("tokenizer.ggml.tokens") == 3
    assert metadata.array_length("flag") is None
    with pytest.raises(KeyError):
        metadata["missing"]


def test_header_longer_than_the_first_read(tmp_path):
    """Strings and arrays that cross the steps in which a file is read."""
    words = [b"x" * (i % 7000) for i in range(1500)]
    path = tmp_path / "m.gguf"
    payload = b"".join(map(gf.string, words))
    path.write_bytes(with_key(gf.array("words", gf.STRING, 1500, payload), gf.text("long", "y" * 3_000_000)))
    metadata = read_header(path).metadata
    assert metadata["words"] == [word.decode() for word in words]
    assert len(metadata["long"]) == 3_000_000


def test_header_longer_than_its_buffer_grows(tmp_path, monkeypatch):
    monkeypatch.setattr("quantreg.gguf.reader._CAPACITY", 10)
    monkeypatch.setattr("quantreg.gguf.reader._CHUNK", 7)
    path = tmp_path / "m.gguf"
    path.write_bytes(gf.small_model())
    assert read_header(path).metadata == read_header(gf.small_model()).metadata


def test_strings_that_are_not_utf8_keep_their_bytes():
    metadata = read_header(with_key(gf.text("k", b"\xff\x00a"))).metadata
    assert metadata["k"].encode("utf-8", "surrogateescape") == b"\xff\x00a"


def test_version_2_is_read():
    assert read_header(gf.gguf(version=2)).version == 2


def test_no_dimensions_and_zero_dimensions_are_read():
    header = read_header(
        with_tensors(("scalar", ()), ("none", (32, 0), 8, 32), ("also", (0, 5), 0, 32), data=ONE_FLOAT)
    )
    assert [tensor.nbytes for tensor in header.tensors] == [4, 0, 0]
    assert header.tensors[0].shape == ()


def test_stated_alignment_moves_the_data():
    header = read_header(
        with_tensors(("a", (1,)), ("b", (1,), 0, 128), keys=[gf.u32("general.alignment", 128)], alignment=128)
    )
    assert header.alignment == 128
    assert header.data_offset % 128 == 0


def test_missing_padding_after_the_last_tensor_is_read():
    assert read_header(with_tensors(("a", (1,)), data=bytes(4))).warnings == []


def test_unknown_type_is_opaque_up_to_the_next_tensor_or_the_end():
    header = read_header(with_tensors(("a", (7,), 999), ("b", (1,), 0, 96), ("c", (5,), 998, 128), data=bytes(200)))
    first, _, last = header.tensors
    assert (first.known, first.type_name, first.nbytes, last.nbytes) == (False, "type 999", 96, 72)


def test_layout_of_a_plugin_is_used():
    def plugin(type_id):
        return TypeLayout("MINE", 10, 7, 3) if type_id in (4, 1000) else layout(type_id)

    header = read_header(with_tensors(("a", (20, 2), 1000), ("b", (10,), 4, 64)), layout=plugin)
    assert (header.tensors[0].row_bytes, header.tensors[0].nbytes) == (17, 34)
    assert header.tensors[1].type_name == "MINE"


def test_layout_table_agrees_with_gguf_py():
    constants = pytest.importorskip("gguf.constants")
    for known in constants.GGMLQuantizationType:
        if known.name != "Q8_1":  # gguf-py has the size of the older block with two f32
            sizes = constants.GGML_QUANT_SIZES[known]
            assert (TYPES[known].name, *sizes) == (known.name, *TYPES[known][1:3])


# What is refused


@pytest.mark.parametrize("length", [0, 3, 5, 23])
def test_01_shorter_than_a_header(length):
    refused(gf.gguf()[:length], "too-short")


def test_02_magic():
    error = refused(b"PK\3\4" + bytes(40), "bad-magic")
    assert (error.offset, error.found, error.limit) == (0, b"PK\3\4", b"GGUF")


@pytest.mark.parametrize("version", [0, 1, 4, 0xFFFFFFFF])
def test_03_version(version):
    assert refused(gf.gguf(version=version), "bad-version").found == version


def test_04_byte_swapped():
    assert "big-endian" in str(refused(b"GGUF" + struct.pack(">I", 3) + NO_KEYS_NO_TENSORS, "byte-swapped"))


@pytest.mark.parametrize("count", [1 << 63, (1 << 64) - 1, 1 << 32, 10])
def test_05_counts_that_cannot_fit(count):
    refused(gf.gguf(n_keys=count), "bad-count")
    refused(gf.gguf(n_tensors=count), "bad-count")


def test_05_counts_above_the_limit():
    refused(gf.gguf(n_keys=(1 << 20) + 1, data=bytes(16 << 20)), "bad-count")


@pytest.mark.parametrize("length", [100, 1 << 31, (1 << 63) - 8, 1 << 63, (1 << 64) - 1, (1 << 64) - 8])
def test_06_lengths_beyond_the_file(length):
    size = struct.pack("<Q", length)
    refused(with_key(gf.key("k", gf.STRING, size)), "truncated")
    refused(with_key(gf.array("k", gf.STRING, length, b"")), "truncated")
    refused(with_key(gf.array("k", gf.STRING, 1, size)), "truncated")
    refused(with_key(gf.array("k", gf.F64, length, b"")), "truncated")
    refused(with_key(gf.array("k", gf.U8, length, b"")), "truncated")
    refused(with_key(size + bytes(20)), "truncated" if length == 100 else "name-too-long")


def test_06_message_names_the_key():
    error = refused(with_key(gf.u32("a", 1), gf.key("my.key", gf.STRING, struct.pack("<Q", 999))), "truncated")
    assert error.field == "value of key 1 'my.key'"
    assert "999" in error.message


def test_06_header_cut_anywhere(tmp_path):
    data = gf.small_model()
    end = read_header(data).data_offset
    for length in range(0, end, 7):
        with pytest.raises(GGUFFormatError):
            read_header(data[:length])


def test_06_header_above_the_limit_is_not_read(tmp_path):
    """A sparse file of 3 GiB that claims a string of 2 GiB: refused at once and without the memory."""
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(with_key(gf.key("k", gf.STRING, struct.pack("<Q", 1 << 31))))
        file.truncate(3 << 30)
    start = time.perf_counter()
    refused(path, "too-long")
    assert time.perf_counter() - start < 1


def test_06_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    path.write_bytes(gf.small_model()[:100])

    monkeypatch.setattr("quantreg.gguf.reader.os.fstat", lambda _: SimpleNamespace(st_size=500))
    refused(path, "truncated")


@pytest.mark.parametrize("kind", [13, 255, 0xFFFFFFFF])
def test_07_unknown_value_types(kind):
    refused(with_key(gf.key("k", kind, bytes(16))), "bad-value-type")
    refused(with_key(gf.array("k", kind, 1, bytes(16))), "bad-value-type")


def test_08_nested_array():
    refused(with_key(gf.array("k", gf.ARRAY, 1, bytes(16))), "nested-array")


def test_09_bool_that_is_neither_0_nor_1():
    assert refused(with_key(gf.key("k", gf.BOOL, b"\2")), "bad-bool").found == 2
    refused(with_key(gf.array("k", gf.BOOL, 4, b"\0\1\1\xff")), "bad-bool")


def test_10_keys_that_are_empty_too_long_or_twice():
    refused(with_key(gf.u32("", 1)), "empty-key")
    refused(with_key(gf.u32("k" * 65536, 1)), "name-too-long")
    assert "k" * 65535 in read_header(with_key(gf.u32("k" * 65535, 1))).metadata
    refused(with_key(gf.u32("k", 1), gf.u32("k", 1)), "duplicate-key")


@pytest.mark.parametrize(
    ("raw", "code"), [(b"a\xff", "bad-utf8"), (b"\xed\xa0\x80", "bad-utf8"), (b"a\0b", "nul-byte")]
)
def test_11_names_that_are_no_text(raw, code):
    refused(with_key(gf.u32(raw, 1)), code)
    refused(with_tensors((raw, (1,))), code)


@pytest.mark.parametrize("value", [0, 3, 48, 1 << 21, 0xFFFFFFFF])
def test_12_alignment_values(value):
    assert refused(with_key(gf.u32("general.alignment", value)), "bad-alignment").found == value


def test_12_alignment_of_another_type():
    refused(with_key(gf.key("general.alignment", gf.U64, struct.pack("<Q", 32))), "bad-alignment")
    refused(with_key(gf.text("general.alignment", "32")), "bad-alignment")


def test_13_tensor_names():
    refused(with_tensors(("", (1,))), "empty-tensor-name")
    refused(with_tensors(("a", (1,)), ("a", (1,), 0, 32)), "duplicate-tensor")
    refused(with_tensors(("a" * 65536, (1,))), "name-too-long")


def test_13_long_tensor_name_is_read_with_a_warning():
    assert read_header(with_tensors(("a" * 63, (1,)), data=ONE_FLOAT)).warnings == []
    (warning,) = read_header(with_tensors(("a" * 64, (1,)), data=ONE_FLOAT)).warnings
    assert "64 bytes" in warning


def test_14_more_than_four_dimensions():
    assert read_header(with_tensors(("a", (1, 1, 1, 1)))).tensors[0].dims == (1, 1, 1, 1)
    refused(with_tensors(("a", (1, 1, 1, 1, 1))), "too-many-dims")
    refused(with_tensors(gf.string("a") + struct.pack("<I", 0xFFFFFFFF) + bytes(64)), "too-many-dims")


@pytest.mark.parametrize(
    ("dims", "type_id"),
    [
        ((1 << 63,), 0),
        (((1 << 64) - 1,), 0),
        ((1 << 32, 1 << 32), 0),  # the number of elements wraps to 0
        ((1 << 62, 1 << 62, 0), 0),  # hidden by a zero
        ((1 << 61,), 0),  # the bytes
        ((1 << 60, 8), 24),
        (((1 << 63) - 1,), 24),  # the padding
    ],
)
def test_15_sizes_that_overflow(dims, type_id):
    refused(with_tensors(("a", dims, type_id)), "size-overflow")


@pytest.mark.parametrize("type_id", [4, 5, 31, 32, 33, 36, 37, 38])
def test_16_removed_types(type_id):
    assert "Q4_" in str(refused(with_tensors(("a", (32,), type_id)), "removed-type")) or type_id > 35


def test_17_rows_of_partial_blocks():
    error = refused(with_tensors(("a", (33,), 8)), "partial-block")
    assert "Q8_0" in error.message
    assert "32" in error.message
    refused(with_tensors(("a", (), 12)), "partial-block")


def test_18_misaligned_offset():
    refused(with_tensors(("a", (1,), 0, 4)), "tensor-misaligned")


@pytest.mark.parametrize("offset", [1024, 1 << 62, (1 << 64) - 32, 1 << 63])
def test_18_tensor_past_the_end(offset):
    refused(with_tensors(("a", (1,), 0, offset)), "tensor-past-end")
    refused(with_tensors(("opaque", (1,), 999), ("a", (0,), 0, (1 << 64) - 32)), "tensor-past-end")
    refused(with_tensors(("opaque", (1,), 999, (1 << 64) - 32)), "tensor-past-end")


def test_18_tensor_longer_than_the_file():
    refused(with_tensors(("a", (257,)), data=bytes(1024)), "tensor-past-end")


def test_18_overlap():
    refused(with_tensors(("a", (9,)), ("b", (1,), 0, 32)), "tensor-overlap")
    refused(with_tensors(("opaque", (1,), 999), ("b", (1,), 0, 64), ("c", (1,), 0, 32)), "tensor-overlap")


def test_19_gap_and_disorder():
    refused(with_tensors(("a", (1,), 0, 32)), "tensor-gap")
    refused(with_tensors(("a", (1,)), ("b", (1,), 0, 64)), "tensor-gap")
    refused(with_tensors(("a", (1,), 0, 32), ("b", (1,), 0, 0)), "tensor-order")


def test_20_trailing_bytes_are_a_warning():
    (warning,) = read_header(with_tensors(("a", (1,)), data=ONE_FLOAT + b"xyz")).warnings
    assert "3 bytes" in warning


@pytest.mark.parametrize("name", ["tokens", "merges", "scores"])
def test_22_well_known_arrays_of_another_type(name):
    refused(with_key(gf.array(f"tokenizer.ggml.{name}", gf.U32, 1, bytes(4))), "bad-array-type")
    refused(with_key(gf.text(f"tokenizer.ggml.{name}", "a")), "bad-array-type")


def test_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none.gguf")


def test_what_is_no_regular_file_is_refused(tmp_path):
    refused(tmp_path, "not-a-file")
    refused("/dev/zero", "not-a-file")


def test_error_shows_the_file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"nothing like it, at all")
    assert str(refused(path, "bad-magic")).startswith(f"{path}: magic is b'noth'")


# Damage at random

WHOLE = gf.small_model()
SPLICE = st.binary(min_size=1, max_size=9) | st.sampled_from(
    [b"\xff" * 8, struct.pack("<Q", 1 << 63), struct.pack("<Q", (1 << 63) - 1), struct.pack("<I", 9), b"\0" * 8]
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    edits=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), SPLICE), max_size=3),
    length=st.integers(0, len(WHOLE)) | st.just(len(WHOLE)),
)
@example(edits=[], length=len(WHOLE))
def test_only_format_errors_escape_from_damaged_files(edits, length):
    data = bytearray(WHOLE)
    for position, piece in edits:
        data[position : position + len(piece)] = piece
    data = bytes(data[:length])
    try:
        header = read_header(data)
    except GGUFFormatError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    dict(header.metadata)
    for tensor in header.tensors:
        assert header.data_offset + tensor.offset + tensor.nbytes <= len(data) or not tensor.nbytes
        assert np.prod(tensor.shape, dtype=object) == tensor.n_elements
