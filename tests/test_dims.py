"""Dimensions of 1, scalars and empty tensors on their way through quantize."""

import gguf_files as gf
import numpy as np
import pytest
from safetensors_files import save

import quantreg
from quantreg import cli
from quantreg.gguf import read_header

SHAPES = {
    "row.weight": (1, 256), "rows.weight": (1, 4, 256), "conv.weight": (1, 1, 3, 256), "norm.weight": (256,),
    "matrix.weight": (4, 256), "column.weight": (256, 1), "scalar": (), "one": (1,), "ones": (1, 1),
    "no.weight": (0, 256), "none.weight": (2, 0), "nothing": (0,), "no_rows.weight": (1, 0, 256),
}  # fmt: skip
TRIMMED = SHAPES | {
    "row.weight": (256,), "rows.weight": (4, 256), "conv.weight": (3, 256), "scalar": (1,), "ones": (1,),
    "no_rows.weight": (0, 256),
}  # fmt: skip


def tensors():
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape).astype(np.float32).reshape(shape) for name, shape in SHAPES.items()}


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("m.safetensors", tensors())
    quantreg.write("m.gguf", {"general.architecture": "llama"}, tensors())
    return tmp_path


def shapes(path):
    return {info.name: info.shape for info in read_header(path).tensors}


@pytest.mark.parametrize("file_type", ["Q8_0", "F16", "Q4_K_M", "COPY"])
def test_safetensors_keep_their_dimensions(at, file_type):
    result = quantreg.quantize_file("m.safetensors", "out.gguf", file_type)
    assert shapes("out.gguf") == SHAPES
    assert not any("dimensions of 1" in warning for warning in result.warnings)


@pytest.mark.parametrize("file_type", ["Q8_0", "F16", "COPY"])
def test_gguf_loses_dimensions_of_1_and_is_told(at, file_type):
    assert shapes("m.gguf") == SHAPES
    result = quantreg.quantize_file("m.gguf", "out.gguf", file_type)
    assert shapes("out.gguf") == TRIMMED
    (warning,) = (warning for warning in result.warnings if "dimensions of 1" in warning)
    first = next(t for t in result.plan.tensors if SHAPES[t.name] != TRIMMED[t.name])
    assert "6 tensors lose dimensions of 1" in warning
    assert f"{first.name}: {SHAPES[first.name]} becomes {TRIMMED[first.name]}" in warning
    assert "--keep-dims" in warning


def test_a_model_without_such_dimensions_gets_no_warning(at):
    quantreg.write("plain.gguf", {}, {name: x for name, x in tensors().items() if SHAPES[name] == TRIMMED[name]})
    assert not any("dimensions of 1" in warning for warning in quantreg.plan("plain.gguf", "Q8_0").warnings)


def test_one_tensor_is_told_in_the_singular(at):
    quantreg.write("one.gguf", {}, {"row.weight": np.ones((1, 256), np.float32)})
    (warning,) = (text for text in quantreg.plan("one.gguf", "Q8_0").warnings if "dimensions of 1" in text)
    assert warning.startswith("1 tensor loses dimensions of 1, as in llama-quantize (row.weight: (1, 256) becomes")


def test_with_keep_dims_gguf_keeps_them_too(at, capsys):
    result = quantreg.quantize_file("m.gguf", "out.gguf", "Q8_0", keep_dims=True)
    assert shapes("out.gguf") == SHAPES
    assert not any("dimensions of 1" in warning for warning in result.warnings)
    assert cli.main(["quantize", "--keep-dims", "m.gguf", "cli.gguf", "Q8_0"]) == 0
    assert cli.main(["plan", "--keep-dims", "m.gguf", "Q8_0", "-o", "plan.json"]) == 0
    assert cli.main(["quantize", "--plan", "plan.json", "m.gguf", "planned.gguf"]) == 0
    assert "dimensions of 1" not in "".join(capsys.readouterr())
    with open("out.gguf", "rb") as expected:
        raw = expected.read()
    for name in ("cli.gguf", "planned.gguf"):
        with open(name, "rb") as file:
            assert file.read() == raw


def test_a_plan_in_a_file_tells_what_it_drops(at, capsys):
    for source, told in (("m.gguf", True), ("m.safetensors", False)):
        assert cli.main(["plan", source, "Q8_0", "-o", f"{source}.json"]) == 0
        assert ("dimensions of 1" in capsys.readouterr().err) == told
        assert cli.main(["quantize", "--plan", f"{source}.json", source, f"{source}.out"]) == 0
        assert ("dimensions of 1" in capsys.readouterr().err) == told
        assert shapes(f"{source}.out") == (TRIMMED if told else SHAPES)


def test_the_same_tensors_get_the_same_types_and_bytes_with_and_without_the_dimensions(at):
    quantreg.quantize_file("m.gguf", "dropped.gguf", "Q4_K_M")
    quantreg.quantize_file("m.gguf", "kept.gguf", "Q4_K_M", keep_dims=True)
    quantreg.quantize_file("m.safetensors", "same.gguf", "Q4_K_M", override_kv={"general.architecture": "llama"})
    dropped = quantreg.hash_tensors("dropped.gguf")
    assert dropped == quantreg.hash_tensors("kept.gguf") == quantreg.hash_tensors("same.gguf")
    assert [t.type_id for t in read_header("dropped.gguf").tensors] == [
        t.type_id for t in read_header("kept.gguf").tensors
    ]


def test_gguf_and_safetensors_round_trip_with_every_shape(at):
    quantreg.export("m.gguf", "out.safetensors")
    assert quantreg.compare("out.safetensors", "m.safetensors").same
    quantreg.quantize_file("out.safetensors", "again.gguf", "F32")
    assert quantreg.compare("again.gguf", "out.safetensors").same


def test_merge_and_split_keep_dimensions(at):
    quantreg.split("m.gguf", "part", split_max_tensors=5)
    quantreg.merge("part-00001-of-00003.gguf", "back.gguf")
    assert shapes("back.gguf") == SHAPES


def test_a_row_of_one_dimension_or_two_is_never_quantized(at):
    """As in llama-quantize: the leading 1 does not make a matrix of a vector."""
    plan = quantreg.plan("m.safetensors", "Q4_K_M")
    assert not plan["row.weight"].converted
    assert plan["row.weight"].shape == (1, 256)
    assert plan["matrix.weight"].converted


def test_a_scalar_in_a_gguf_file_has_no_dimensions(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gf.gguf([], [gf.tensor("s", ())], np.float32(2.5).tobytes().ljust(32, b"\0")))
    with quantreg.open(path) as model:
        assert model["s"].shape == ()
        assert model["s"].dequantize() == np.float32(2.5)
