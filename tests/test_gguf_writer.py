"""Metadata values, headers, and files that appear only when they are complete."""

import os
import stat
import struct
from pathlib import Path

import gguf_files as gf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from links import needs_links

from quantreg.errors import GGUFFormatError, OutputError
from quantreg.gguf import HeaderEdit, Value, encode_header, read_header
from quantreg.storage import AtomicFile


def refused(code, call, *args, **options):
    with pytest.raises(GGUFFormatError) as caught:
        call(*args, **options)
    assert caught.value.code == code


# Values


@pytest.mark.parametrize(
    ("data", "type"),
    [
        (True, "bool"),
        (5, "u32"),
        (-5, "i32"),
        (1 << 32, "u64"),
        (-(1 << 40), "i64"),
        (0.5, "f32"),
        ("llama", "string"),
        (np.uint8(5), "u8"),
        (np.int64(-5), "i64"),
        (np.float64(0.1), "f64"),
        (np.float16(0.5), "f32"),
        (np.True_, "bool"),
        ([1, 2, -3], "array[i32]"),
        ((1 << 31, 0), "array[u32]"),
        ([1 << 63], "array[u64]"),
        ([True, False], "array[bool]"),
        ([0.5, 1.0], "array[f32]"),
        ([0.5, 1], "array[f32]"),
        (["a", "", "é"], "array[string]"),
        (np.array([1, 2], np.int8), "array[i8]"),
        (np.array([0.1, 2], np.float64), "array[f64]"),
        (np.array([], np.uint16), "array[u16]"),
    ],
)
def test_python_objects_get_a_type(data, type):
    value = Value.of(data)
    assert value.type == type
    assert value.data == (list(data) if isinstance(data, (tuple, np.ndarray)) else data)


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("u8", 256),
        ("u8", -1),
        ("u32", 1.5),
        ("u32", True),
        ("bool", 1),
        ("f32", 1e300),
        ("string", 5),
        ("string", "\ud800"),
        ("u33", 5),
        ("array", [1]),
        ("array[u33]", [1]),
        ("array[array[u8]]", [[1]]),
        ("array[u8]", [256]),
        ("array[u8]", [1.0]),
        ("array[i64]", [1 << 63]),
        ("array[f32]", [1e300]),
        ("array[u8]", [[1], [2]]),
        ("array[string]", "word"),
        ("array[string]", ["a", 5]),
        ("array[u8]", 5),
    ],
)
def test_values_that_do_not_fit_their_type(type, data):
    refused("bad-value", Value, type, data)


@pytest.mark.parametrize("data", [None, [], [1, "a"], [[1]], {}, 1 << 64, [1 << 63, -1], np.zeros((2, 2)), [None]])
def test_objects_without_a_type(data):
    refused("bad-value", Value.of, data)


SCALARS = {
    **{f"{sign}{bits}": st.integers(*((-(1 << bits - 1), (1 << bits - 1) - 1) if sign == "i" else (0, (1 << bits) - 1)))
       for sign in "iu" for bits in (8, 16, 32, 64)},
    "f32": st.floats(width=32, allow_nan=False),
    "f64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(max_size=20),
}  # fmt: skip
PAIRS = st.sampled_from(sorted(SCALARS)).flatmap(
    lambda name: (
        st.tuples(st.just(name), SCALARS[name])
        | st.tuples(st.just(f"array[{name}]"), st.lists(SCALARS[name], max_size=5))
    )
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), PAIRS, max_size=5))
def test_whatever_is_written_is_read_back(pairs):
    pairs = {f"k.{name}": pair for name, pair in pairs.items()}
    metadata = read_header(encode_header([(key, Value(*pair)) for key, pair in pairs.items()], [])).metadata
    assert [(key, metadata.value_type(key), metadata[key]) for key in metadata] == [
        (key, type, data) for key, (type, data) in pairs.items()
    ]


# Headers


def test_header_equals_that_of_an_independent_builder():
    keys = [("a", Value("u32", 7)), ("b", Value("array[string]", ["x", "yz"]))]
    expected = gf.gguf(
        [gf.u32("a", 7), gf.array("b", gf.STRING, 2, gf.string("x") + gf.string("yz"))],
        [gf.tensor("t", (32, 2), 8, 0), gf.tensor("u", (1,), 0, 96)],
    )
    assert encode_header(keys, [("t", (32, 2), 8, 68), ("u", (1,), 0, 4)]) == expected


def test_header_read_and_written_is_the_same():
    data = gf.small_model()
    header = read_header(data)
    tensors = [(t.name, t.dims, t.type_id, t.nbytes) for t in header.tensors]
    assert encode_header(header.metadata.raw_items(), tensors) == data[: header.data_offset]


def test_tensors_must_be_aligned_as_the_metadata_states():
    items = [("general.alignment", Value("u32", 64))]
    assert len(encode_header(items, [], 64)) % 64 == 0
    refused("bad-alignment", encode_header, items, [])
    refused("bad-alignment", encode_header, [], [], 64)
    refused("bad-alignment", encode_header, [("general.alignment", Value("u32", 48))], [], 48)


@pytest.mark.parametrize(
    ("items", "tensors", "code"),
    [
        ([("", Value("u8", 1))], [], "empty-key"),
        ([("k" * 65536, Value("u8", 1))], [], "name-too-long"),
        ([("k", Value("u8", 1))] * 2, [], "duplicate-key"),
        ([("a\0", Value("u8", 1))], [], "nul-byte"),
        ([("\ud800", Value("u8", 1))], [], "bad-utf8"),
        ([("tokenizer.ggml.tokens", Value("array[i32]", [1]))], [], "bad-array-type"),
        ([], [("", (1,), 0, 4)], "empty-tensor-name"),
        ([], [("t", (1,), 0, 4)] * 2, "duplicate-tensor"),
        ([], [("t", (1,) * 5, 0, 4)], "too-many-dims"),
        ([], [("t", (1 << 63,), 0, 4)], "size-overflow"),
        ([], [("t", (-1,), 0, 4)], "size-overflow"),
        ([], [("t", (1,), 0, 1 << 62), ("u", (1,), 0, 1 << 62)], "size-overflow"),
    ],
)
def test_what_a_reader_would_refuse_is_not_written(items, tensors, code):
    refused(code, encode_header, items, tensors)


def test_a_key_that_is_set_moves_to_the_end():
    edit = HeaderEdit(read_header(gf.small_model()).metadata)
    edit.set("general.architecture", "gemma")
    edit.set("new", Value("u8", 1))
    edit.remove("flag")
    edit.remove("missing")
    metadata = read_header(encode_header(edit.items(), [])).metadata
    assert next(iter(metadata)) == "llama.block_count"
    assert list(metadata)[-2:] == ["general.architecture", "new"]
    assert "flag" not in metadata
    assert metadata["general.architecture"] == "gemma"
    assert edit.get("flag") is None


# Files


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out.gguf"
    with AtomicFile(path, size=7) as file:
        file.write(b"abc")
        file.write(np.frombuffer(b"de", np.uint8))
        file.pwrite(memoryview(b"fg"), 5)
        file.pwrite(b"A", 0)
        assert not path.exists()
    assert contents(tmp_path) == {"out.gguf": b"Abcdefg"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failure_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "out.gguf"
    path.write_bytes(b"old")
    with pytest.raises(error), AtomicFile(path, force=True):
        raise error
    assert contents(tmp_path) == {"out.gguf": b"old"}


def test_existing_file_needs_force(tmp_path):
    path = tmp_path / "out.gguf"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="force"), AtomicFile(path):
        pass
    with AtomicFile(path, force=True) as file:
        file.write(b"new")
    assert contents(tmp_path) == {"out.gguf": b"new"}


def test_a_file_that_appears_in_the_meantime_needs_force(tmp_path):
    path = tmp_path / "out.gguf"
    with pytest.raises(OutputError, match="force"), AtomicFile(path):
        path.write_bytes(b"other")
    assert contents(tmp_path) == {"out.gguf": b"other"}


@pytest.mark.parametrize("link", [os.link, pytest.param(os.symlink, marks=needs_links)])
def test_output_that_is_the_input_is_refused_even_with_force(tmp_path, link):
    source, path = tmp_path / "in.gguf", tmp_path / "out.gguf"
    source.write_bytes(b"old")
    link(source, path)
    for sources in (source, [tmp_path / "other", str(source)]):
        with pytest.raises(OutputError, match="input"), AtomicFile(path, force=True, source=sources):
            pass
    assert source.read_bytes() == b"old"


@needs_links
def test_link_is_followed(tmp_path):
    target, link = tmp_path / "target.gguf", tmp_path / "link.gguf"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with AtomicFile(link, force=True) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("path", [os.devnull, "/"])
def test_a_path_that_is_not_a_regular_file_is_never_replaced(path):
    with pytest.raises(OutputError, match="regular"), AtomicFile(path, force=True):
        pass


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_mode_of_the_old_file_is_kept_and_a_new_file_follows_the_umask(tmp_path):
    path = tmp_path / "out.gguf"
    old = os.umask(0o027)
    try:
        with AtomicFile(path):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    with AtomicFile(path, force=True):
        (temporary,) = (other for other in tmp_path.iterdir() if other != path)
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o604
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_size_is_checked_against_the_disk_before_and_the_file_after(tmp_path):
    with pytest.raises(OutputError, match="free"), AtomicFile(tmp_path / "out.gguf", size=1 << 62):
        pass
    with pytest.raises(OutputError, match="planned"), AtomicFile(tmp_path / "out.gguf", size=2) as file:
        file.write(b"abc")
    assert contents(tmp_path) == {}


def test_missing_folder(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"), AtomicFile(tmp_path / "none" / "out.gguf"):
        pass


def test_first_of_nested_files_is_renamed_last(tmp_path, monkeypatch):
    replace, order = os.replace, []
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(Path(new).name), replace(old, new)))
    with AtomicFile(tmp_path / "1"), AtomicFile(tmp_path / "2"):
        pass
    assert order == ["2", "1"]
    assert contents(tmp_path) == {"1": b"", "2": b""}


def test_gguf_py_reads_what_is_written(tmp_path):
    reader = pytest.importorskip("gguf").GGUFReader
    path = tmp_path / "m.gguf"
    values = {"general.architecture": "llama", "n": 7, "x": 0.25, "words": ["a", "bé"], "ids": [1, -2]}
    header = encode_header([(key, Value.of(value)) for key, value in values.items()], [("t", (3, 2), 0, 24)])
    path.write_bytes(header + struct.pack("<6f", *range(6)) + bytes(8))
    found = reader(path)
    assert {key: found.get_field(key).contents() for key in values} == values
    assert found.tensors[0].data.tolist() == [[0, 1, 2], [3, 4, 5]]
