"""A safetensors model of several files, opened, inspected and compared; damage in its headers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import small_model
from safetensors_files import save, write_raw

import quantreg
from quantreg import GGUFFormatError, SafetensorsError, UnknownTypeError, cli
from quantreg.safetensors import files, header

ITEMS = list(small_model.tensors().items())
NAMES = {name for name, _ in ITEMS}


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_shards(names):
    """Save the small model in these files, an equal part in each."""
    for i, name in enumerate(names):
        save(name, dict(ITEMS[i :: len(names)]))


def write_index(path, names):
    weight_map = {tensor: names[i % len(names)] for i, (tensor, _) in enumerate(ITEMS)}
    Path(path).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


NAMINGS = {
    "as transformers": [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)],
    "widths differ": [f"model-{i:05d}-of-000003.safetensors" for i in (1, 2, 3)],
    "from zero": [f"model-{i:05d}-of-00003.safetensors" for i in (0, 1, 2)],
    "variant before": [f"model.fp16-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)],
    "variant after": [f"model-{i:05d}-of-00003.fp16.safetensors" for i in (1, 2, 3)],
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("given", [0, 2])
def test_one_shard_stands_for_all_that_are_named_alike(at, naming, given):
    names = NAMINGS[naming]
    save_shards(names)
    with quantreg.open(names[given]) as model:
        assert set(model) == NAMES
        assert [os.path.basename(path) for path in model.paths] == names
    assert {t.name for t in quantreg.plan(names[given], "Q8_0").tensors} == NAMES


def test_one_shard_stands_for_all_that_its_index_names(at):
    names = ["model-00001-of-00002.safetensors", "rest.safetensors"]  # the index decides
    save_shards(names)
    write_index("model.safetensors.index.json", names)
    with quantreg.open(names[0]) as model:
        assert set(model) == NAMES
    for command in (["inspect"], ["quantize"]):
        more = ["out.gguf", "Q8_0"] if command == ["quantize"] else []
        assert cli.main([*command, names[0], *more]) == 0
    with quantreg.open("out.gguf") as model:
        assert set(model) == NAMES


def test_an_index_stands_for_its_files_whatever_their_names(at):
    names = ["a.safetensors", "b.safetensors"]
    save_shards(names)
    write_index("model.safetensors.index.fp16.json", names)
    save("whole.safetensors", dict(ITEMS))  # which the index does not name
    Path("broken.safetensors.index.json").write_text("version https://git-lfs.github.com/spec/v1")
    for given in ("b.safetensors", "model.safetensors.index.fp16.json", "whole.safetensors"):
        with quantreg.open(given) as model:
            assert set(model) == NAMES
            assert len(model.paths) == (1 if given == "whole.safetensors" else 2)
    with pytest.raises(SafetensorsError, match="is not JSON: it is a Git LFS pointer"):
        quantreg.open("broken.safetensors.index.json")


def test_each_header_and_the_index_are_parsed_once(at, monkeypatch):
    names = ["a.safetensors", "b.safetensors"]
    save_shards(names)
    write_index("model.safetensors.index.json", names)
    seen = []

    def recorded(module):
        parsed = module.parsed
        return lambda raw, path: (seen.append(os.path.basename(path)), parsed(raw, path))[1]

    for module in (files, header):
        monkeypatch.setattr(module, "parsed", recorded(module))
    for given in ("b.safetensors", "model.safetensors.index.json"):
        seen.clear()
        quantreg.open(given).close()
        assert sorted(seen) == ["a.safetensors", "b.safetensors", "model.safetensors.index.json"]


def test_a_number_too_large_to_count_files_is_no_count(at):
    save("m-1-of-999999999.safetensors", dict(ITEMS))
    with quantreg.open("m-1-of-999999999.safetensors") as model:
        assert set(model) == NAMES


@pytest.mark.parametrize("with_index", [True, False])
def test_a_missing_shard_is_named_and_nothing_is_written(at, with_index, capsys):
    names = NAMINGS["as transformers"]
    save_shards(names)
    if with_index:
        write_index("model.safetensors.index.json", names)
    os.remove(names[1])
    for words in (["quantize", names[0], "out.gguf", "Q8_0"], ["compare", names[0], names[2]], ["evaluate", "Q8_0"]):
        assert cli.main([*words, "--on", names[0]] if words[0] == "evaluate" else words) == 1
        err = capsys.readouterr().err
        assert f"{names[1]} is missing: download it" in err
    assert not Path("out.gguf").exists()
    os.remove(names[2])
    with pytest.raises(SafetensorsError, match="are missing: download them"):
        quantreg.open(names[0])


def test_one_shard_can_be_inspected_alone(at, capsys):
    names = NAMINGS["as transformers"]
    save_shards(names)
    os.remove(names[1])
    assert cli.main(["inspect", names[0]]) == 0
    out, err = capsys.readouterr()
    assert ITEMS[0][0] in out
    assert ITEMS[1][0] not in out
    assert f"{names[0]} is one of 3 shards, shown alone: {names[1]} is missing" in err


def test_a_file_that_is_named_like_the_only_shard_is_the_model(at):
    save("model-00001-of-00001.safetensors", dict(ITEMS))
    save("part-9-of-2.safetensors", dict(ITEMS))  # no shard: its number is larger than the count
    for name in ("model-00001-of-00001.safetensors", "part-9-of-2.safetensors"):
        with quantreg.open(name) as model:
            assert set(model) == NAMES


def test_a_tensor_in_two_shards_is_refused(at):
    for i in (1, 2):
        save(f"m-0000{i}-of-00002.safetensors", dict(ITEMS[:1]))
    with pytest.raises(SafetensorsError, match="two tensors would be named"):
        quantreg.open("m-00001-of-00002.safetensors")


# Opened, inspected, compared


def test_open_gives_the_tensors_of_a_safetensors_model(at):
    save("model.safetensors", dict(ITEMS) | {"scalar": np.float32(3.5).reshape(())})
    with quantreg.open("model.safetensors") as model:
        assert dict(model.metadata) == {}
        assert model.headers == ()
        assert model.paths == ("model.safetensors",)
        assert "model.safetensors" in repr(model)
        assert "model.safetensors" in model._repr_html_()
        for name, x in ITEMS:
            assert model[name].shape == x.shape
            assert model[name].type_name == ("F16" if x.dtype == np.float16 else "F32")
            np.testing.assert_array_equal(model[name].dequantize(x.dtype), x)
        assert model["scalar"].dequantize() == np.float32(3.5)
        quantreg.write("copy.gguf", model.metadata, model)
    with quantreg.open("copy.gguf") as copy:
        assert copy["scalar"].shape == ()
        np.testing.assert_array_equal(copy[ITEMS[0][0]].dequantize(), ITEMS[0][1])


def test_a_dtype_that_gguf_lacks_can_be_opened_and_shown_but_not_decoded(at, capsys):
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "mask": {"dtype": "BOOL", "shape": [3], "data_offsets": [8, 11]},
    }
    write_raw("m.safetensors", json.dumps(header).encode(), bytes(8) + b"\1\0\1")
    with quantreg.open("m.safetensors") as model:
        assert model["mask"].data.tobytes() == b"\1\0\1"
        assert (model["mask"].type_name, model["mask"].shape) == ("BOOL", (3,))
        with pytest.raises(UnknownTypeError):
            model["mask"].dequantize()
    assert cli.main(["inspect", "m.safetensors"]) == 0
    assert "BOOL" in capsys.readouterr().out
    assert cli.main(["inspect", "--json", "m.safetensors"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["metadata"], [t["type"] for t in found["tensors"]]) == ({}, ["F32", "BOOL"])
    assert quantreg.compare("m.safetensors", "m.safetensors").same


def test_a_file_that_shrinks_while_it_is_open_is_noticed_at_the_next_tensor(at):
    save("model.safetensors", dict(ITEMS))
    with quantreg.open("model.safetensors") as model:
        os.truncate("model.safetensors", os.path.getsize("model.safetensors") - 8)
        with pytest.raises(GGUFFormatError) as refused:
            model[ITEMS[-1][0]]
    assert refused.value.code == "tensor-past-end"


def test_compare_takes_safetensors_on_both_sides_and_leaves_metadata_out(at):
    small_model.write_model("small.gguf")
    save("model.safetensors", dict(ITEMS))
    assert quantreg.compare("small.gguf", "model.safetensors").same
    assert quantreg.compare("model.safetensors", "small.gguf").same
    assert cli.main(["compare", "model.safetensors", "small.gguf"]) == 0
    save("other.safetensors", dict(ITEMS[1:]) | {ITEMS[0][0]: ITEMS[0][1] + np.float16(1)})
    found = quantreg.compare("model.safetensors", "other.safetensors")
    assert (list(found), found.tensors[0].what) == ([ITEMS[0][0]], "bytes")
    assert found.tensors[0].largest == pytest.approx(1, rel=0.01)
    quantreg.quantize_file("model.safetensors", "q.gguf", "Q8_0", override_kv={"general.architecture": "llama"})
    assert quantreg.compare("model.safetensors", "q.gguf")["output.weight"].rmse < 0.02


# Damage

A = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
B = {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}


def text(**entries):
    return json.dumps(entries).encode()


REFUSED = {
    "a name twice": (b'{"a": %b, "a": %b}' % (json.dumps(A).encode(), json.dumps(B).encode()), "'a' occurs twice"),
    "a field twice": (b'{"a": {"shape": [2], "dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "'shape' occ"),
    "tensors that overlap": (text(a=A, b=B | {"data_offsets": [8, 24]}), "'a' and 'b' overlap"),
    "tensors in one place": (text(a=A, b=A), "overlap"),
    "a tensor within another": (
        text(a={"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}, b=A | {"data_offsets": [4, 20]}), "overlap",
    ),
    "a bool for a place": (text(a=A | {"data_offsets": [False, 16]}), "expected dtype"),
    "a size hidden by a zero": (text(a=A | {"shape": [2**50, 2**50, 0], "data_offsets": [0, 0]}), "too large"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_damaged_headers_are_refused(at, what):
    header, message = REFUSED[what]
    write_raw("m.safetensors", header, bytes(32))
    for action in (quantreg.open, lambda p: quantreg.plan(p, "Q8_0", names={"b": None})):
        with pytest.raises(SafetensorsError, match=message):
            action("m.safetensors")


def test_a_name_twice_in_the_names_or_the_index_is_refused(at):
    save("model.safetensors", dict(ITEMS))
    Path("names.json").write_text('{"output.weight": "a", "output.weight": "b"}')
    with pytest.raises(SafetensorsError, match=r"names.json: 'output.weight' occurs twice"):
        quantreg.plan("model.safetensors", "Q8_0", names="names.json")
    Path("m.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    with pytest.raises(SafetensorsError, match="'a' occurs twice"):
        quantreg.open("m.safetensors.index.json")


@pytest.mark.parametrize(
    ("header", "unused"),
    [(text(b=B), 16), (text(a=A), 16), (text(a=A, b=B), 0), (text(e=A | {"shape": [0], "data_offsets": [8, 8]}), 32)],
)
def test_bytes_that_belong_to_no_tensor_are_told(at, header, unused):
    write_raw("m.safetensors", header, bytes(32))
    with quantreg.open("m.safetensors") as model:
        warnings = "".join(model.warnings)
    assert (f"{unused} bytes of the data are not part of any tensor" in warnings) == bool(unused)


def test_names_that_llama_cpp_refuses_are_told_by_plan_and_run(at):
    short = "y" * 63
    x = np.ones((4, 256), np.float32)
    save("m.safetensors", {"x" * 64: x, short: x})
    said = f"1 tensor name of 64 bytes or more, which llama.cpp refuses ({'x' * 64}): `names` (--names) gives"
    for result in (quantreg.plan("m.safetensors", "Q8_0"), quantreg.quantize_file("m.safetensors", "a.gguf", "Q8_0")):
        assert [text for text in result.warnings if "llama.cpp refuses" in text] == [
            f"{said} tensors of safetensors shorter names"
        ]
    planned = quantreg.plan("m.safetensors", "Q8_0", names={"x" * 64: "short"})
    assert not [text for text in planned.warnings if "llama.cpp refuses" in text]
    told = [text for text in quantreg.plan("a.gguf", "COPY").warnings if "llama.cpp refuses" in text]
    assert len(told) == 1  # when the file is read
