"""What the reader returns, and how it describes what it refuses (rules numbered as in docs/bad-input.md)."""

import os
import struct
from types import SimpleNamespace

import gguf_files as gf
import pytest

from quantreg.errors import GGUFFormatError
from quantreg.gguf import TYPES, TypeLayout, layout_of, read_header

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


# Files that are read


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
    """Strings and arrays that cross the boundaries between two reads of the file."""
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


def test_scalars_and_zero_dimensions_are_accepted():
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


def test_missing_padding_after_the_last_tensor_is_accepted():
    assert read_header(with_tensors(("a", (1,)), data=bytes(4))).warnings == []


def test_unknown_type_is_opaque_up_to_the_next_tensor_or_the_end():
    header = read_header(with_tensors(("a", (7,), 999), ("b", (1,), 0, 96), ("c", (5,), 998, 128), data=bytes(200)))
    first, _, last = header.tensors
    assert (first.known, first.type_name, first.nbytes, last.nbytes) == (False, "type 999", 96, 72)


def test_layout_of_a_plugin_is_used():
    def plugin(type_id):
        return TypeLayout("MINE", 10, 7, 3) if type_id in (4, 1000) else layout_of(type_id)

    header = read_header(with_tensors(("a", (20, 2), 1000), ("b", (10,), 4, 64)), layout=plugin)
    assert (header.tensors[0].row_bytes, header.tensors[0].nbytes) == (17, 34)
    assert header.tensors[1].type_name == "MINE"


def test_layout_table_agrees_with_gguf_py():
    constants = pytest.importorskip("gguf.constants")
    for known in constants.GGMLQuantizationType:
        if known.name != "Q8_1":  # gguf-py still has the size of the older block with two f32
            sizes = constants.GGML_QUANT_SIZES[known]
            assert (TYPES[known].name, *sizes) == (known.name, *TYPES[known][1:3])


# Refusals: details beyond the error code, which tests/test_refusals.py checks


def test_02_magic():
    error = refused(b"PK\3\4" + bytes(40), "bad-magic")
    assert (error.offset, error.found, error.limit) == (0, b"PK\3\4", b"GGUF")


def test_04_byte_swapped():
    assert "big-endian" in str(refused(b"GGUF" + struct.pack(">I", 3) + NO_KEYS_NO_TENSORS, "byte-swapped"))


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


def test_06_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    path.write_bytes(gf.small_model()[:100])

    monkeypatch.setattr("quantreg.gguf.reader.os.fstat", lambda _: SimpleNamespace(st_size=500))
    refused(path, "truncated")


def test_09_bool_that_is_neither_0_nor_1():
    assert refused(with_key(gf.key("k", gf.BOOL, b"\2")), "bad-bool").found == 2
    refused(with_key(gf.array("k", gf.BOOL, 4, b"\0\1\1\xff")), "bad-bool")


def test_10_keys_that_are_empty_too_long_or_duplicated():
    refused(with_key(gf.u32("", 1)), "empty-key")
    refused(with_key(gf.u32("k" * 65536, 1)), "name-too-long")
    assert "k" * 65535 in read_header(with_key(gf.u32("k" * 65535, 1))).metadata
    refused(with_key(gf.u32("k", 1), gf.u32("k", 1)), "duplicate-key")


@pytest.mark.parametrize("value", [0, 3, 48, 1 << 21, 0xFFFFFFFF])
def test_12_alignment_values(value):
    assert refused(with_key(gf.u32("general.alignment", value)), "bad-alignment").found == value


def test_13_long_tensor_name_is_read_with_a_warning():
    assert read_header(with_tensors(("a" * 63, (1,)), data=ONE_FLOAT)).warnings == []
    (warning,) = read_header(with_tensors(("a" * 64, (1,)), data=ONE_FLOAT)).warnings
    assert "64 bytes" in warning


def test_14_more_than_four_dimensions():
    assert read_header(with_tensors(("a", (1, 1, 1, 1)))).tensors[0].dims == (1, 1, 1, 1)
    refused(with_tensors(("a", (1, 1, 1, 1, 1))), "too-many-dims")
    refused(with_tensors(gf.string("a") + struct.pack("<I", 0xFFFFFFFF) + bytes(64)), "too-many-dims")


@pytest.mark.parametrize("type_id", [4, 5, 31, 32, 33, 36, 37, 38])
def test_16_removed_types(type_id):
    assert "Q4_" in str(refused(with_tensors(("a", (32,), type_id)), "removed-type")) or type_id > 35


def test_17_rows_of_partial_blocks():
    error = refused(with_tensors(("a", (33,), 8)), "partial-block")
    assert "Q8_0" in error.message
    assert "32" in error.message
    refused(with_tensors(("a", (), 12)), "partial-block")


def test_20_trailing_bytes_are_a_warning():
    (warning,) = read_header(with_tensors(("a", (1,)), data=ONE_FLOAT + b"xyz")).warnings
    assert "3 bytes" in warning


def test_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none.gguf")


def test_a_path_that_is_not_a_regular_file_is_refused(tmp_path):
    refused(tmp_path, "not-a-file")
    refused(os.devnull, "not-a-file")


def test_an_error_names_the_file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"\xff\xfenothing like it, at all")
    assert str(refused(path, "bad-magic")).startswith(f"{path}: magic is b'\\xff\\xfeno'")
