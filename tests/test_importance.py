"""Importance matrices: the reference's arithmetic, the mapping, and damaged files."""

import contextlib
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantreg.errors import ImportanceError
from quantreg.importance import ImportanceMatrix

GOLDEN = Path(__file__).resolve().parent / "golden" / "imatrix"
f32 = np.float32


def legacy(entries, tail=b"", count=None):
    """The bytes of a .dat file with these entries (name, calls, values)."""
    parts = [struct.pack("<i", len(entries) if count is None else count)]
    for name, calls, values in entries:
        raw = name.encode() if isinstance(name, str) else name
        parts.append(struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, len(values)))
        parts.append(np.asarray(values, "<f4").tobytes())
    return b"".join([*parts, tail])


def tail(chunks, dataset):
    return struct.pack("<ii", chunks, len(dataset)) + dataset.encode()


def write_gguf(path, tensors, *, datasets=("calib.txt",), chunks=12, size=512):
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    if datasets is not None:
        writer.add_array("imatrix.datasets", list(datasets))
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", size)
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values, f32) if not isinstance(values, np.ndarray) else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(tmp_path, raw):
    path = tmp_path / "i.dat"
    path.write_bytes(raw)
    return ImportanceMatrix.read(path)


def bits(array):
    return np.asarray(array, f32).view(np.uint32).tolist()


# --- reading ---


def test_a_legacy_file_gives_sums_divided_by_calls(tmp_path):
    sums = np.array([1, 2, 3.3, 1e-30], f32)
    matrix = read(tmp_path, legacy([("a.weight", 7, sums), ("b.weight", 0, sums)], tail(37, "wiki.txt")))
    assert (matrix.dataset, matrix.chunk_count, matrix.path) == ("wiki.txt", 37, str(tmp_path / "i.dat"))
    assert list(matrix.entries) == ["a.weight", "b.weight"]
    assert bits(matrix.entries["a.weight"]) == [bits(value / f32(7)) for value in sums]
    assert bits(matrix.entries["b.weight"]) == bits(sums)  # never called: the reference uses the sums
    assert matrix.n_values("a.weight") == 4
    assert matrix.warnings == []


@pytest.mark.parametrize(
    ("end", "dataset", "chunks"),
    [(b"", None, 0), (struct.pack("<i", 5), None, 5), (tail(5, ""), None, 5), (tail(-1, "x"), "x", 0)],
)
def test_the_end_of_a_legacy_file_is_optional(tmp_path, end, dataset, chunks):
    matrix = read(tmp_path, legacy([("a", 1, [1])], end))
    assert (matrix.dataset, matrix.chunk_count) == (dataset, chunks)


def test_a_gguf_file_gives_sums_divided_by_rounded_counts(tmp_path):
    sums = np.array([[1, 2, 3.3], [4, 5, 6]], f32)
    tensors = {"a.weight.in_sum2": sums, "a.weight.counts": [[2.5], [6.0]]}
    matrix = ImportanceMatrix.read(write_gguf(tmp_path / "i.gguf", tensors))
    assert (matrix.dataset, matrix.chunk_count) == ("calib.txt", 12)
    wanted = np.concatenate([sums[0] / f32(3), sums[1] / f32(6)])  # counts are rounded, halves up
    assert bits(matrix.entries["a.weight"]) == bits(wanted)
    assert bits(matrix.row("a.weight", 3, 2)) == [bits(row) for row in wanted.reshape(2, 3)]
    assert matrix.row("a.weight", 6).shape == (6,)


def test_an_expert_that_was_never_called_gets_ones(tmp_path):
    tensors = {"a.in_sum2": [[0, 0], [4, 5]], "a.counts": [[0], [2]]}
    matrix = ImportanceMatrix.read(write_gguf(tmp_path / "i.gguf", tensors))
    assert matrix.row("a", 2, 2).tolist() == [[1, 1], [2, 2.5]]
    assert "entry a: the count is 0 for 1 of 2 experts, so an importance of ones is used" in matrix.warnings[0]


def test_a_row_of_zeros_becomes_ones(tmp_path):
    matrix = read(tmp_path, legacy([("a", 1, [0, 0, 0, 4]), ("b", 1, [0, 0])]))
    assert matrix.row("a", 2, 2).tolist() == [[1, 1], [0, 4]]
    assert matrix.row("b", 2).tolist() == [1, 1]
    assert matrix.row("b", 2).dtype == f32
    assert [text.partition(": ")[2] for text in matrix.warnings] == [
        "entry a: all values of 1 of 2 experts (the first is 0) are zero, so ones are used instead",
        "entry b: all values are zero, so ones are used instead",
    ]
    assert matrix.entries["b"].tolist() == [0, 0]


def test_blocks_of_zeros_are_kept_with_a_warning(tmp_path):
    values = np.ones(96, f32)
    values[32:64] = 0
    matrix = read(tmp_path, legacy([("a", 1, values)]))
    assert bits(matrix.row("a", 96)) == bits(values)
    assert matrix.warnings[0].endswith(
        "entry a: 2 of 6 blocks of 16 columns are all zero, and many types lose the weights of such a block: "
        "--imatrix-floor (imatrix_floor=) keeps them"
    )
    assert bits(matrix.row("a", 96, floor=0.25)) == bits(np.maximum(values, f32(1 / 6)))


def test_a_matrix_of_own_statistics():
    matrix = ImportanceMatrix({"a": np.arange(6.0).reshape(2, 3)}, dataset="mine", chunk_count=3)
    assert matrix.row("a", 3, 2).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert matrix.n_values("a") == 6
    with pytest.raises(ImportanceError, match="entry a: value 1 is nan"):
        ImportanceMatrix({"a": [1, np.nan]})


def test_a_wrong_length_or_a_missing_entry_is_refused(tmp_path):
    matrix = read(tmp_path, legacy([("a", 1, [1, 2, 3])]))
    with pytest.raises(ImportanceError, match=r"i.dat: entry a has 3 values, expected 1 x 4"):
        matrix.row("a", 4)
    with pytest.raises(ImportanceError, match="expected 3 x 3"):
        matrix.row("a", 3, 3)
    with pytest.raises(ImportanceError, match="no entry for b"):
        matrix.row("b", 3)


def test_the_legacy_and_the_gguf_file_of_one_matrix_agree():
    old = ImportanceMatrix.read(GOLDEN / "minilm-imatrix.dat")
    new = ImportanceMatrix.read(GOLDEN / "minilm-imatrix.gguf")
    assert len(old.entries) > 30
    assert set(old.entries) == set(new.entries)
    assert old.chunk_count == new.chunk_count == 37
    assert old.dataset == new.dataset
    for key in old.entries:
        np.testing.assert_allclose(old.entries[key], new.entries[key], rtol=1e-5)


# --- the mapping ---


def test_a_matrix_maps_tensor_names_to_entries(tmp_path):
    matrix = read(tmp_path, legacy([("a.weight", 2, [2, 4]), ("b.weight", 1, [1])], tail(3, "x.txt")))
    own = ImportanceMatrix({"a.weight": [[1.0], [2.0]], "b.weight": [1]})
    for each in (matrix, own):
        assert "a.weight" in each
        assert "c.weight" not in each
        assert (len(each), list(each)) == (2, ["a.weight", "b.weight"])
        assert each["a.weight"].tolist() == [1, 2]
        assert each["a.weight"].dtype == f32
        assert each.get("c.weight") is None
        with pytest.raises(KeyError, match=r"c\.weight"):
            each["c.weight"]
        with pytest.raises(KeyError, match=r"c\.weight"):
            each.n_values("c.weight")
    assert matrix == matrix
    assert matrix != own
    assert len({matrix, own}) == 2


def test_the_html_of_a_matrix_shows_its_entries_and_its_source(tmp_path):
    matrix = read(tmp_path, legacy([("a.weight", 2, [2, 4]), ("<b>", 1, np.ones(1024))], tail(3, "x<y>.txt")))
    html = matrix._repr_html_()
    assert "2 entries, 3 chunks of x&lt;y&gt;.txt</caption>" in html
    assert "i.dat" in html
    assert ">a.weight</td>" in html
    assert ">1,024</td>" in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "<caption>ImportanceMatrix: 1 entries</caption>" in ImportanceMatrix({"a": [1]})._repr_html_()


# --- damaged files ---

GOOD = legacy([("abc.weight", 3, [1, 2, 3, 4]), ("d.weight", 3, [5, 6])], tail(9, "calib.txt"))


# A file that ends before its tail, or between the two numbers of the tail, is one that an older version wrote.
COMPLETE = {len(GOOD) - 17, len(GOOD) - 13, len(GOOD)}


@pytest.mark.parametrize("length", [n for n in range(len(GOOD)) if n not in COMPLETE])
def test_a_legacy_file_that_is_cut_off_is_refused(tmp_path, length):
    with pytest.raises(ImportanceError, match=r"i\.dat: "):
        read(tmp_path, GOOD[:length])


def test_a_legacy_file_may_end_before_or_within_its_tail(tmp_path):
    for length in COMPLETE:
        assert len(read(tmp_path, GOOD[:length]).entries) == 2


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (legacy([], count=0), "it claims 0 entries"),
        (legacy([("a", 1, [1])], count=-1), "it claims -1 entries"),
        (legacy([("a", 1, [1])], count=2**31 - 1), "it claims 2147483647 entries"),
        (struct.pack("<ii", 1, 2**31 - 1) + b"abc" * 10, "the name of entry 1 of 1 at byte 8 takes 2147483647 bytes"),
        (struct.pack("<ii", 1, -5) + b"abc" * 10, "takes -5 bytes"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, 2**31 - 1) + b"abcd", "the data of entry a at byte 17 takes 8589934588"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, 0) + b"abcd", "entry a claims 0 values"),
        (legacy([("a", -1, [1])]), "from -1 calls"),
        (legacy([(b"\xff\xfe", 1, [1])]), "is not text"),
        (legacy([("", 1, [1])]), "is not text"),
        (legacy([("a\0b", 1, [1])]), "is not text"),
        (legacy([("a", 1, [1]), ("a", 1, [1])]), "entry a appears twice"),
        (legacy([("a", 1, [1, np.nan])]), "entry a: value 1 is nan"),
        (legacy([("a", 1, [np.inf])]), "entry a: value 0 is inf"),
        (legacy([("a", 1, [0, 0, -1])]), "entry a: value 2 is -1.0"),
        (legacy([("a", 1, [1])], struct.pack("<ii", 1, 2**30)), "the dataset's name at byte"),
        (b"", "the number of entries"),
    ],
)
def test_the_error_about_a_damaged_legacy_file_says_what_is_wrong(tmp_path, raw, message):
    with pytest.raises(ImportanceError) as caught:
        read(tmp_path, raw)
    assert message in str(caught.value)
    assert "i.dat" in str(caught.value)


def test_bytes_after_the_end_give_a_warning(tmp_path):
    matrix = read(tmp_path, GOOD + b"xyz")
    assert "3 unexpected bytes after the end" in matrix.warnings[0]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.in_sum2": [1.0]}, "entry a is incomplete: the tensor a.counts is missing"),
        ({"a.counts": [1.0]}, "entry a is incomplete: the tensor a.in_sum2 is missing"),
        ({"a.in_sum2": [1.0, 2, 3], "a.counts": [1.0, 2]}, "3 sums do not divide into 2 rows"),
        ({"a.in_sum2": [1.0, np.nan], "a.counts": [1.0]}, "entry a: value 1 is nan"),
        ({"a.in_sum2": [1.0, -2], "a.counts": [1.0]}, "entry a: value 1 is -2.0"),
        ({"a.in_sum2": [1.0], "a.counts": [-1.0]}, "entry a.counts: value 0 is -1.0"),
        ({"a.in_sum2": [1.0], "a.counts": [np.inf]}, "entry a.counts: value 0 is inf"),
        ({"a.in_sum2": [1.0], "a.counts": [1e30]}, "entry a: the counts are cut off or do not fit into 64 bits"),
        ({"a.in_sum2": np.ones(2, np.float16), "a.counts": [1.0]}, "a.in_sum2 is F16, expected F32"),
        ({"other": [1.0]}, "has no entries"),
    ],
)
def test_the_error_about_a_damaged_gguf_file_says_what_is_wrong(tmp_path, tensors, message):
    path = write_gguf(tmp_path / "i.gguf", tensors)
    with pytest.raises(ImportanceError) as caught:
        ImportanceMatrix.read(path)
    assert message in str(caught.value)
    assert "i.gguf" in str(caught.value)


def test_a_gguf_file_that_is_not_an_imatrix_is_refused(tmp_path):
    path = write_gguf(tmp_path / "i.gguf", {"a.in_sum2": [1.0], "a.counts": [1.0]}, datasets=None)
    with pytest.raises(ImportanceError, match=r"lacks the key imatrix\.datasets"):
        ImportanceMatrix.read(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ImportanceError, match=r"not a readable importance matrix: .*i\.gguf"):
        ImportanceMatrix.read(path)


def test_a_file_that_shrinks_after_it_was_read_is_refused(tmp_path):
    matrix = read(tmp_path, GOOD)
    (tmp_path / "i.dat").write_bytes(GOOD[:40])
    with pytest.raises(ImportanceError, match=r"entry d\.weight: the file has shrunk"):
        matrix.row("d.weight", 2)


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_importance_errors(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "random.dat"
    path.write_bytes(raw)
    with contextlib.suppress(ImportanceError):
        ImportanceMatrix.read(path)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_file_with_a_changed_byte_is_read_or_refused(tmp_path_factory, at, byte):
    path = tmp_path_factory.getbasetemp() / "changed.dat"
    path.write_bytes(GOOD[:at] + bytes([byte]) + GOOD[at + 1 :])
    with contextlib.suppress(ImportanceError):
        ImportanceMatrix.read(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n", "a Git LFS pointer"),
        (struct.pack("<Q", 2) + b"{}" + bytes(8), "a safetensors file"),
        (b'{"a": 1}', "a JSON file"),
    ],
)
def test_what_is_given_as_the_imatrix_by_mistake_is_named(tmp_path, content, what):
    path = tmp_path / "imatrix.dat"
    path.write_bytes(content)
    with pytest.raises(ImportanceError, match=f"is not an importance matrix but {what}.*: give the file that llama-"):
        ImportanceMatrix.read(path)


def test_no_legacy_file_is_taken_for_another_kind_of_file(tmp_path):
    path = tmp_path / "imatrix.dat"
    for count in (1, 8, 10, 31, 64, 123, 256, 2056):
        path.write_bytes(legacy([(f"blk.{i}.x", 1, [1.0]) for i in range(count)]))
        assert len(ImportanceMatrix.read(path)) == count
