"""Metadata as Python values: types survive a dict, arithmetic gives plain numbers, and everything pickles."""

import copy
import json
import pickle

import numpy as np
import pytest

import quantreg
from quantreg.errors import GGUFFormatError
from quantreg.gguf import Metadata, Value

ALL = {
    "general.architecture": Value("string", "llama"),
    **{f"a.{bits}": Value(bits, 5) for bits in ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64")},
    "a.big": Value("u64", 2**63 + 1),
    "a.negative": Value("i64", -5),
    "a.f32": Value("f32", 0.1),
    "a.f64": Value("f64", 0.1),
    "a.infinite": Value("f64", float("inf")),
    "a.bool": Value("bool", True),
    "a.text": Value("string", b"\xff\xfe raw"),
    **{f"b.{bits}": Value(f"array[{bits}]", [1, 2]) for bits in ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64")},
    "b.f32": Value("array[f32]", [0.5]),
    "b.f64": Value("array[f64]", [0.1]),
    "b.bool": Value("array[bool]", [True, False]),
    "b.string": Value("array[string]", ["a", b"\xff"]),
    **{f"c.{kind}": Value(f"array[{kind}]", []) for kind in ("u8", "u32", "f32", "f64", "bool", "string")},
}
WEIGHTS = {"w": np.ones((2, 32), np.float32)}


@pytest.fixture
def metadata(tmp_path):
    quantreg.write(tmp_path / "a.gguf", ALL, WEIGHTS)
    with quantreg.open(tmp_path / "a.gguf") as model:
        return model.metadata


def written(path, values):
    quantreg.write(path, values, WEIGHTS)
    with quantreg.open(path) as model:
        return dict(model.metadata.raw_items())


@pytest.mark.parametrize(
    "made",
    [
        dict,
        lambda m: {**m},
        lambda m: m | {},
        lambda m: {} | m,
        lambda m: dict(m.items()),
        lambda m: copy.deepcopy(dict(m)),
        lambda m: pickle.loads(pickle.dumps(dict(m))),
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: copy.copy(m),
        lambda m: m | Metadata(),
    ],
)
def test_every_value_keeps_its_type_and_bytes(metadata, made, tmp_path):
    assert written(tmp_path / "b.gguf", made(metadata)) == ALL


def test_a_key_is_added_or_replaced_in_a_dict(metadata, tmp_path):
    for i, values in enumerate(({**metadata, "note": "x", "a.u64": 7}, metadata | {"note": "x", "a.u64": 7})):
        expected = ALL | {"note": Value("string", "x"), "a.u64": Value("u32", 7)}
        assert written(tmp_path / f"{i}.gguf", values) == expected
        assert list(values)[-1] == "note"
    assert ({"a.u8": 1, "first": 2} | metadata)["a.u8"] == 5
    with pytest.raises(TypeError):
        metadata | 5


def test_what_is_computed_from_a_value_is_a_plain_number(metadata):
    for value in (metadata["a.u64"] + 1, metadata["a.f64"] * 2, metadata["a.u8"] // 2, metadata["b.u8"] + [1]):
        assert type(value) in (int, float, list)
    assert isinstance(metadata["a.u64"], int)
    assert isinstance(metadata["a.f64"], float)
    assert type(metadata["a.u32"]) is int  # what would get the same type again is plain
    assert type(metadata["a.f32"]) is float
    assert type(metadata["a.bool"]) is bool
    assert type(metadata["a.text"]) is str


def test_values_look_like_plain_ones(metadata):
    assert repr(metadata["a.u64"]) == "5"
    assert str(metadata["a.f64"]) == f"{metadata['a.f64']}" == "0.1"
    assert repr(metadata["b.u8"]) == "[1, 2]"
    assert metadata["b.u8"] == [1, 2]
    assert range(9)[metadata["a.u64"]] == 5
    assert {metadata["a.u64"]: 1} == {5: 1}
    values = {key: value for key, value in metadata.items() if key != "a.infinite"}
    assert json.loads(json.dumps(values)) == values


def test_a_changed_list_must_still_fit_its_type(metadata):
    numbers = metadata["b.u8"]
    numbers.append(3)
    assert Value.of(numbers) == Value("array[u8]", [1, 2, 3])
    numbers.append(300)
    with pytest.raises(GGUFFormatError, match="is not a metadata value of type 'array"):
        Value.of(numbers)


def test_values_of_a_file_can_be_set_in_another(metadata, tmp_path):
    quantreg.write(tmp_path / "b.gguf", {"general.architecture": "x"}, WEIGHTS)
    quantreg.edit_metadata(tmp_path / "b.gguf", tmp_path / "c.gguf", set={"a.u64": metadata["a.u64"]})
    with quantreg.open(tmp_path / "c.gguf") as model:
        assert model.metadata.value_type("a.u64") == "u64"


def test_the_repr_of_a_value_is_short():
    assert repr(Value("u64", 5)) == "Value('u64', 5)"
    assert repr(Value("array[u8]", [1, 2])) == "Value('array[u8]', [1, 2])"
    tokens = Value("array[string]", ["token"] * 100_000)
    assert len(repr(tokens)) < 200
    assert "99,992 more" in repr(tokens)
    assert len(repr(Value("string", "x" * 10_000))) < 300
    assert repr(pickle.loads(pickle.dumps(tokens))) == repr(tokens)


@pytest.mark.parametrize(
    ("data", "type", "read"),
    [
        (range(3), "array[i32]", [0, 1, 2]),
        (np.array("x"), "string", "x"),
        (np.array([b"a", b"b"]), "array[string]", ["a", "b"]),
        (np.array(["a", "bc"], object), "array[string]", ["a", "bc"]),
        (np.array([1, 2], object), "array[i32]", [1, 2]),
        (np.bytes_(b"x"), "string", "x"),
    ],
)
def test_arrays_of_texts_and_ranges_have_types(data, type, read, tmp_path):
    quantreg.write(tmp_path / "out.gguf", {"k": data}, {})
    with quantreg.open(tmp_path / "out.gguf") as model:
        assert model.metadata.value_type("k") == type
        assert model.metadata["k"] == read


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "None has no metadata type of its own: leave the key out"),
        ({"a": 1}, "store each of its values under a key of its own"),
        ([], r"give a typed Value, as in Value\('array\[string\]', \[\]\)"),
        (["a", 1], "its elements differ in type"),
        ([None], "None has no metadata type"),
        ({1, 2}, "convert it to bool, int, float, str or a list"),
        ([[1, 2], [3, 4]], "arrays of arrays are not supported: store one flat array"),
        (np.longdouble(1), r"no metadata type holds NumPy's (float128|longdouble|float96)"),
        (np.array([1j]), "no metadata type holds NumPy's complex128"),
        (np.zeros((2, 2)), "expected a one-dimensional array"),
        (np.array([["a"]]), "expected a one-dimensional array of strings"),
    ],
)
def test_what_has_no_type_says_what_to_do(data, message):
    with pytest.raises(quantreg.GGUFFormatError, match=message):
        quantreg.gguf.Value.of(data)
