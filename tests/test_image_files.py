"""Files of image and video models: names without prefix, the architecture named, at most four dimensions."""

import json

import ml_dtypes
import numpy as np
import pytest
from gguf_files import gguf, tensor, text
from safetensors import numpy as safetensors_numpy
from safetensors_files import save

import quantreg
from quantreg import GGUFFormatError, cli
from quantreg.gguf import Value

RNG = np.random.default_rng(0)
WAN = {
    "blocks.0.self_attn.norm_q.weight": (256,), "text_embedding.2.weight": (256, 256), "head.modulation": (1, 2, 256),
    "patch_embedding.weight": (64, 48, 1, 2, 2), "blocks.0.ffn.0.weight": (64, 256), "blocks.0.modulation": (1, 6, 256),
}  # fmt: skip
SDXL = {
    "label_emb.0.0.weight": (64, 64), "input_blocks.0.0.weight": (64, 4, 3, 3),
    "input_blocks.1.0.weight": (64, 64, 3, 3),
    "input_blocks.2.0.weight": (24, 8, 3, 3), "out.0.bias": (320,), "middle.weight": (64, 512), "tiny.weight": (5, 7),
}  # fmt: skip


def random(shapes, prefix="", dtype=ml_dtypes.bfloat16):
    return {prefix + name: RNG.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def shapes_and_types(path):
    with quantreg.open(path) as file:
        return {name: (tensor.shape, tensor.type_name) for name, tensor in file.items()}


def test_a_wan_model_has_four_dimensions_its_architecture_and_the_shape_before(tmp_path):
    tensors = random(WAN, "model.diffusion_model.") | {"vae.conv1.weight": np.zeros((4, 4), np.float32)}
    path = tmp_path / "wan.safetensors"
    save(path, tensors)
    result = quantreg.quantize_file(path, tmp_path / "o.gguf", "Q4_K_M")
    assert shapes_and_types(tmp_path / "o.gguf") == {
        "blocks.0.ffn.0.weight": ((64, 256), "Q4_K"),
        "blocks.0.modulation": ((1, 6, 256), "F32"),
        "blocks.0.self_attn.norm_q.weight": ((256,), "F32"),
        "head.modulation": ((1, 2, 256), "F32"),
        "patch_embedding.weight": ((64, 192), "BF16"),
        "text_embedding.2.weight": ((256, 256), "BF16"),
    }
    with quantreg.open(tmp_path / "o.gguf") as file:
        assert file.metadata["general.architecture"] == "wan"
        assert file.metadata.value("comfy.gguf.orig_shape.patch_embedding.weight") == Value(
            "array[i32]", [64, 48, 1, 2, 2]
        )
        weights = file["patch_embedding.weight"].dequantize()
    expected = tensors["model.diffusion_model.patch_embedding.weight"].astype(np.float32)
    np.testing.assert_array_equal(weights, expected.reshape(64, 192))
    assert "left out 1 tensor that is not part of the wan model (vae.conv1.weight)" in result.warnings


def test_plan_dry_run_plan_file_and_run_agree_on_five_dimensions(tmp_path, capsys):
    path, out = tmp_path / "wan.safetensors", tmp_path / "o.gguf"
    save(path, random(WAN))
    planned = quantreg.plan(path, "Q4_K_M")
    assert planned["patch_embedding.weight"].shape == (64, 192)
    assert cli.main(["quantize", "--dry-run", str(path), "Q4_K_M"]) == 0
    assert "64 x 192" in capsys.readouterr().out
    assert cli.main(["plan", str(path), "Q4_K_M", "-o", str(tmp_path / "plan.json")]) == 0
    quantreg.quantize_file(path, out, planned)
    again = quantreg.read_plan(tmp_path / "plan.json", path)
    quantreg.quantize_file(path, tmp_path / "again.gguf", again)
    assert out.read_bytes() == (tmp_path / "again.gguf").read_bytes()


def test_five_dimensions_of_an_unknown_model_are_folded_and_kept(tmp_path):
    path = tmp_path / "m.safetensors"
    save(path, random({"a.weight": (4, 64, 1, 2, 2), "b.weight": (1, 2, 3, 4, 32), "c.weight": (64, 256)}))
    quantreg.quantize_file(path, tmp_path / "o.gguf", "Q8_0")
    assert shapes_and_types(tmp_path / "o.gguf") == {
        "a.weight": ((4, 256), "BF16"), "b.weight": ((2, 3, 4, 32), "BF16"), "c.weight": ((64, 256), "Q8_0"),
    }  # fmt: skip


def test_convolutions_of_sdxl_become_rows_of_256_where_their_size_allows(tmp_path):
    path, out = tmp_path / "sdxl.safetensors", tmp_path / "o.gguf"
    tensors = random(SDXL, dtype=np.float16)
    save(path, tensors)
    quantreg.quantize_file(path, out, "Q8_0")
    assert shapes_and_types(out) == {
        "input_blocks.0.0.weight": ((9, 256), "F16"),
        "input_blocks.1.0.weight": ((144, 256), "Q8_0"),
        "input_blocks.2.0.weight": ((24, 8, 3, 3), "F16"),  # 1728 weights are not a multiple of 256
        "label_emb.0.0.weight": ((16, 256), "F16"),
        "middle.weight": ((64, 512), "Q8_0"),
        "out.0.bias": ((320,), "F32"),
        "tiny.weight": ((5, 7), "F32"),
    }
    exported = tmp_path / "back.safetensors"
    quantreg.export(out, exported)
    back = safetensors_numpy.load_file(exported)
    assert {name: array.shape for name, array in back.items()} == SDXL
    np.testing.assert_array_equal(back["input_blocks.0.0.weight"], tensors["input_blocks.0.0.weight"])
    error = np.abs(back["input_blocks.1.0.weight"].astype(float) - tensors["input_blocks.1.0.weight"]).max()
    assert 0 < error < 0.03


def test_the_dimensions_of_convolutions_are_restored_for_wan_too(tmp_path):
    path, out, exported = tmp_path / "wan.safetensors", tmp_path / "o.gguf", tmp_path / "back.safetensors"
    tensors = random(WAN)
    save(path, tensors)
    quantreg.quantize_file(path, out, "Q8_0")
    quantreg.export(out, exported, dtype="f32")
    back = safetensors_numpy.load_file(exported)
    assert {name: array.shape for name, array in back.items()} == WAN
    patch = tensors["patch_embedding.weight"].astype(np.float32)
    np.testing.assert_array_equal(back["patch_embedding.weight"], patch)


def test_compare_sees_no_difference_but_types_between_a_model_and_its_gguf(tmp_path):
    path, out = tmp_path / "sdxl.safetensors", tmp_path / "o.gguf"
    save(path, random(SDXL, "model.diffusion_model.", np.float32))
    quantreg.quantize_file(path, out, "Q8_0")
    found = quantreg.compare(path, out)
    assert {(tensor.name, tensor.what) for tensor in found.tensors} == {
        ("input_blocks.1.0.weight", "type"), ("middle.weight", "type"),
    }  # fmt: skip
    assert all(tensor.rmse < 0.01 for tensor in found.tensors)


def test_a_shape_that_does_not_fit_the_tensor_is_not_restored(tmp_path):
    path, out = tmp_path / "m.gguf", tmp_path / "m.safetensors"
    shape = "comfy.gguf.orig_shape."
    metadata = {
        f"{shape}a": Value("array[i32]", [3, 5]), f"{shape}b": Value("array[i32]", [2, 2, 16]), f"{shape}c": "2x32",
        f"{shape}d": Value("array[i32]", [-8, -8]),
    }  # fmt: skip
    quantreg.write(path, metadata, {name: np.zeros((2, 32), np.float32) for name in "abcd"})
    quantreg.export(path, out)
    shapes = {name: array.shape for name, array in safetensors_numpy.load_file(out).items()}
    assert shapes == {"a": (2, 32), "b": (2, 2, 16), "c": (2, 32), "d": (2, 32)}


def test_a_gguf_model_without_architecture_is_recognised_and_keeps_its_other_metadata(tmp_path):
    path, out = tmp_path / "flux.gguf", tmp_path / "o.gguf"
    prefix = "model.diffusion_model."
    names = ("double_blocks.0.img_attn.proj.weight", "img_in.weight", "folded.weight")
    metadata = {
        "a.u64": Value("u64", 7), "a.floats": Value("array[f64]", [0.5]), "a.text": "x",
        f"comfy.gguf.orig_shape.{prefix}folded.weight": Value("array[i32]", [16, 16, 256]),
    }  # fmt: skip
    tensors = {prefix + name: RNG.standard_normal((256, 256), dtype=np.float32) for name in names}
    quantreg.write(path, metadata, tensors)
    quantreg.quantize_file(path, out, "Q4_0")
    assert {name: kind for name, (_, kind) in shapes_and_types(out).items()} == {
        "double_blocks.0.img_attn.proj.weight": "Q4_0", "img_in.weight": "F32", "folded.weight": "Q4_0",
    }  # fmt: skip
    with quantreg.open(out) as file:
        assert file.metadata["general.architecture"] == "flux"
        for key, value in list(metadata.items())[:2]:
            assert file.metadata.value(key) == value
        assert file.metadata["comfy.gguf.orig_shape.folded.weight"] == [16, 16, 256]
        assert f"comfy.gguf.orig_shape.{prefix}folded.weight" not in file.metadata


def test_a_gguf_model_that_names_its_architecture_keeps_its_names_and_dimensions(tmp_path):
    path, out = tmp_path / "sdxl.gguf", tmp_path / "o.gguf"
    tensors = {
        "model.diffusion_model.label_emb.0.0.weight": np.ones((64, 64), np.float32),
        "a.weight": np.ones((64, 64)),
    }
    quantreg.write(path, {"general.architecture": "sdxl"}, tensors)
    quantreg.quantize_file(path, out, "Q8_0")
    assert shapes_and_types(out) == {
        "model.diffusion_model.label_emb.0.0.weight": ((64, 64), "F32"), "a.weight": ((64, 64), "Q8_0"),
    }  # fmt: skip


def test_an_override_of_the_architecture_counts_more_than_what_is_recognised(tmp_path):
    path, out = tmp_path / "m.safetensors", tmp_path / "o.gguf"
    save(path, random({"double_blocks.0.img_attn.proj.weight": (256, 256), "img_in.weight": (256, 256)}))
    quantreg.quantize_file(path, out, "Q8_0", override_kv={"general.architecture": "mine"})
    with quantreg.open(out) as file:
        assert file.metadata["general.architecture"] == "mine"
        assert file["img_in.weight"].type_name == "Q8_0"


def test_the_layout_of_diffusers_is_told(tmp_path):
    path = tmp_path / "m.safetensors"
    save(path, random({"transformer_blocks.0.attn.add_q_proj.weight": (64, 64)}))
    (told,) = (text for text in quantreg.plan(path, "Q8_0").warnings if "another program's layout of sd3" in text)
    assert "transformer_blocks.0.attn.add_q_proj.weight" in told
    assert "Start from the model's original file" in told


def five_dimensions(path):
    data = RNG.standard_normal((64, 48, 1, 2, 2)).astype("<f4")
    path.write_bytes(
        gguf(
            [text("general.architecture", "wan")], [tensor("patch_embedding.weight", data.shape[::-1])], data.tobytes()
        )
    )
    return data


def test_a_gguf_file_of_five_dimensions_is_shown_folded_and_exported(tmp_path, capsys):
    path, out, exported = tmp_path / "wan.gguf", tmp_path / "o.gguf", tmp_path / "m.safetensors"
    data = five_dimensions(path)
    assert cli.main(["inspect", "--json", str(path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["tensors"][0]["shape"] == [64, 48, 1, 2, 2]
    assert "has 5 dimensions: llama.cpp and other programs that read GGUF with ggml refuse more" in shown["warnings"][0]
    assert cli.main(["metadata", "get", str(path), "general.architecture"]) == 0
    assert capsys.readouterr().out == "wan\n"
    quantreg.quantize_file(path, out, "Q8_0")
    assert shapes_and_types(out) == {"patch_embedding.weight": ((64, 192), "F32")}
    for model in (path, out):
        quantreg.export(model, exported, force=True)
        np.testing.assert_array_equal(safetensors_numpy.load_file(exported)["patch_embedding.weight"], data)
    assert quantreg.compare(path, out).tensors == ()
    quantreg.quantize_file(path, tmp_path / "copy.gguf", "COPY")
    assert shapes_and_types(tmp_path / "copy.gguf") == shapes_and_types(out)


def test_other_readers_refuse_more_than_four_dimensions_and_say_what_to_do(tmp_path):
    path = tmp_path / "wan.gguf"
    five_dimensions(path)
    for read in (quantreg.open, lambda p: quantreg.edit_metadata(p, tmp_path / "o.gguf", set={"a": 1})):
        with pytest.raises(
            GGUFFormatError, match="or fold the tensors of a file with `quantreg quantize IN OUT COPY`"
        ) as e:
            read(path)
        assert e.value.code == "too-many-dims"
