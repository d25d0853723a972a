"""FP8 weights of safetensors models are decoded with their scales; formats that are not known are refused."""

import os
import re
from concurrent.futures import ProcessPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from safetensors_files import save_as

import quantreg
from quantreg import GGUFFormatError, SafetensorsError, cli
from quantreg.evaluation import evaluate
from quantreg.safetensors import stored

FP8 = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
RNG = np.random.default_rng(0)


def codes(*shape, dtype="F8_E4M3"):
    """Random weights as (dtype, FP8 array)."""
    return dtype, RNG.standard_normal(shape).astype(FP8[dtype])


def f32(array):
    return "F32", np.asarray(array, np.float32)


def decoded(path, out, file_type="F32", **options):
    """Quantize a file; name -> decoded float32 array."""
    quantreg.quantize_file(path, out, file_type, **options)
    with quantreg.open(out) as file:
        return {name: tensor.dequantize() for name, tensor in file.items()}


@pytest.mark.parametrize("dtype", FP8)
def test_all_codes_have_the_values_of_ml_dtypes(dtype):
    every = np.arange(256, dtype=np.uint8).view(FP8[dtype]).astype(np.float32)
    found = stored.fp8_values(dtype)
    np.testing.assert_array_equal(found, every)
    number = ~np.isnan(every)
    np.testing.assert_array_equal(np.signbit(found)[number], np.signbit(every)[number])


@pytest.mark.parametrize("dtype", FP8)
def test_weights_without_scales_are_decoded_as_they_are_and_kept_without_loss(tmp_path, dtype):
    finite = np.arange(256, dtype=np.uint8)
    finite = finite[np.isfinite(finite.view(FP8[dtype]).astype(np.float32))].view(FP8[dtype])
    weights = np.resize(finite, (64, 64))
    path = save_as(tmp_path / "m.safetensors", {"a.weight": (dtype, weights)})
    for file_type in ("COPY", "BF16", "F32"):
        out = tmp_path / f"{file_type}.gguf"
        np.testing.assert_array_equal(decoded(path, out, file_type)["a.weight"], weights.astype(np.float32))
    assert quantreg.plan(path, "COPY")["a.weight"].to_type == "BF16"


SCALES = {
    "a number": ("a.weight_scale", np.float32(0.013), lambda s: s),
    "one value": ("a.weight_scale", np.float32([0.013]), lambda s: s),
    "per row": ("a.weight_scale", RNG.random((200, 1), np.float32), lambda s: s),
    "per row, one dimension": ("a.weight_scale", RNG.random(200, np.float32), lambda s: s[:, None]),
    "per row, inverse": ("a.weight_scale_inv", RNG.random((200, 1), np.float32), lambda s: s),
    "per block": (
        "a.weight_scale_inv", RNG.random((2, 3), np.float32), lambda s: s.repeat(128, 0)[:200].repeat(128, 1)[:, :320],
    ),
    "per group": ("a.weight_scale", RNG.random((200, 10), np.float32), lambda s: s.repeat(32, 1)),
    "ComfyUI": ("a.scale_weight", np.float32([0.013]), lambda s: s),
    "half precision": ("a.weight_scale", RNG.random((200, 1)).astype(np.float16), lambda s: s.astype(np.float32)),
    "bfloat16": ("a.weight_scale", RNG.random((200, 1)).astype(ml_dtypes.bfloat16), lambda s: s.astype(np.float32)),
    "powers of two": (
        "a.weight_scale_inv", np.uint8([[120, 127, 130], [100, 126, 1]]),
        lambda s: (2.0 ** (s.astype(float) - 127)).astype(np.float32).repeat(128, 0)[:200].repeat(128, 1)[:, :320],
    ),
}  # fmt: skip
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "F8_E8M0"}


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("kind", SCALES)
def test_weights_are_multiplied_by_their_scales_which_are_not_written(tmp_path, kind, dtype):
    name, scales, wide = SCALES[kind]
    weights = codes(200, 320, dtype=dtype)
    path = save_as(
        tmp_path / "m.safetensors",
        {"a.weight": weights, name: (DTYPES[scales.dtype.name], scales), "a.bias": f32(np.ones(200))},
    )
    expected = weights[1].astype(np.float32) * wide(scales)
    found = decoded(path, tmp_path / "f32.gguf")
    assert set(found) == {"a.weight", "a.bias"}
    np.testing.assert_array_equal(found["a.weight"], expected)
    q8 = decoded(path, tmp_path / "q8.gguf", "Q8_0")["a.weight"]
    np.testing.assert_array_equal(q8, quantreg.dequantize(quantreg.quantize(expected, "Q8_0"), "Q8_0"))


def test_a_stack_of_experts_is_scaled_per_block_of_each_expert(tmp_path):
    weights, scales = codes(3, 256, 384), RNG.random((3, 2, 3), np.float32)
    tensors = {"experts.up_proj": weights, "experts.up_proj_scale_inv": f32(scales)}
    path = save_as(tmp_path / "m.safetensors", tensors)
    found = decoded(path, tmp_path / "o.gguf", "COPY")
    expected = weights[1].astype(np.float32) * scales.repeat(128, 1).repeat(128, 2)
    np.testing.assert_array_equal(found["experts.up_proj"], expected)


@pytest.mark.parametrize(("n_rows", "n_cols"), [(1, 300_000), (3000, 700), (5, 0), (2, 131_072)])
def test_large_long_and_empty_tensors_are_read_piece_by_piece(tmp_path, n_rows, n_cols):
    weights, scales = codes(n_rows, n_cols), RNG.random((n_rows, 1), np.float32)
    path = save_as(tmp_path / "m.safetensors", {"a.weight": weights, "a.weight_scale": f32(scales)})
    expected = weights[1].astype(np.float32) * scales
    for file_type in ("COPY", "F32"):  # kept and so copied in pieces of bytes; and in pieces of rows
        out = tmp_path / f"{file_type}.gguf"
        np.testing.assert_array_equal(decoded(path, out, file_type)["a.weight"].reshape(n_rows, n_cols), expected)


def test_any_piece_of_a_scaled_tensor_can_be_read():
    weights, scales = codes(37, 50)[1], RNG.random((37, 5), np.float32)
    whole = (weights.astype(np.float32) * scales.repeat(10, 1)).reshape(-1)
    how = stored.Stored(
        stored.Part(0, 0, "F8_E4M3", (37, 50)), "F32", scales=stored.Part(1, 0, "F32", (37, 5)), block=(1, 10)
    )

    files = [array.reshape(-1).view(np.uint8) for array in (weights, scales)]

    def read(file, position, buffer):
        buffer[:] = files[file][position : position + len(buffer)]

    for start, count in ((0, 1), (49, 2), (13, 1000), (1849, 1), (0, 1850)):
        buffer = np.empty(count * 4, np.uint8)
        how.read_into(read, start * 4, buffer)
        np.testing.assert_array_equal(buffer.view(np.float32), whole[start : start + count])


def test_scales_in_another_shard_and_workers_in_other_processes_give_the_same_bytes(tmp_path):
    weights, scales = codes(300, 256), RNG.random((3, 2), np.float32)
    save_as(tmp_path / "model-00001-of-00002.safetensors", {"a.weight": weights})
    save_as(tmp_path / "model-00002-of-00002.safetensors", {"a.weight_scale_inv": f32(scales)})
    path = tmp_path / "model-00001-of-00002.safetensors"
    expected = weights[1].astype(np.float32) * scales.repeat(128, 0)[:300].repeat(128, 1)
    np.testing.assert_array_equal(decoded(path, tmp_path / "one.gguf")["a.weight"], expected)
    quantreg.quantize_file(path, tmp_path / "here.gguf", "Q4_K", threads=1)
    with ProcessPoolExecutor(2) as pool:
        quantreg.quantize_file(path, tmp_path / "there.gguf", "Q4_K", executor=pool)
    assert (tmp_path / "here.gguf").read_bytes() == (tmp_path / "there.gguf").read_bytes()


def test_comfyui_markers_and_activation_scales_are_left_out(tmp_path):
    kept = RNG.standard_normal((64, 64)).astype(ml_dtypes.bfloat16)
    scaled = RNG.standard_normal((64, 64)).astype(ml_dtypes.bfloat16)
    weights = codes(64, 64)
    tensors = {
        "scaled_fp8": ("F8_E4M3", np.zeros(2, FP8["F8_E4M3"])),
        "a.weight": weights, "a.scale_weight": f32(0.5), "a.scale_input": f32(3.0),
        "b.weight": weights, "b.weight_scale": f32(0.3), "b.input_scale": f32(3.0),
        "b.comfy_quant": ("U8", np.frombuffer(b'{"format": "float8_e4m3fn"}', np.uint8)),
        "kept.weight": ("BF16", kept), "kept.scale_weight": f32([1.0]),
        "scaled.weight": ("BF16", scaled), "scaled.scale_weight": f32([0.3]),
        "attn.k_scale": f32(1.0), "norm.scale": f32(np.ones(64)),
    }  # fmt: skip
    path = save_as(tmp_path / "m.safetensors", tensors)
    planned = quantreg.plan(path, "COPY")
    assert {name: tensor.to_type for name, tensor in planned.items()} == {
        "a.weight": "BF16",  # 0.5 is a power of two, so BF16 holds the products
        "b.weight": "F32", "kept.weight": "BF16", "scaled.weight": "F32", "norm.scale": "F32",
    }  # fmt: skip
    found = decoded(path, tmp_path / "o.gguf", "COPY")
    np.testing.assert_array_equal(found["a.weight"], weights[1].astype(np.float32) * np.float32(0.5))
    np.testing.assert_array_equal(found["b.weight"], weights[1].astype(np.float32) * np.float32(0.3))
    np.testing.assert_array_equal(found["scaled.weight"], scaled.astype(np.float32) * np.float32(0.3))
    assert any("2 tensors are stored as F8_E4M3, 2 of them with scales" in text for text in planned.warnings)


def test_names_may_rename_or_leave_out_an_fp8_tensor(tmp_path):
    weights = codes(32, 32)
    tensors = {"a": weights, "a_scale": f32(0.3), "b.qweight": ("I32", np.zeros((4, 4), np.int32))}
    path = save_as(tmp_path / "m.safetensors", tensors)
    names = {"a": "new.weight", "b.qweight": None}
    assert any(
        "1 tensor is stored as F8_E4M3, with scales: decoded" in text
        for text in quantreg.plan(path, "F32", names=names).warnings
    )
    found = decoded(path, tmp_path / "o.gguf", names=names)
    np.testing.assert_array_equal(found["new.weight"], weights[1].astype(np.float32) * np.float32(0.3))


def test_nan_in_fp8_is_refused_with_the_name_of_the_tensor(tmp_path):
    weights = np.full((32, 32), 0x38, np.uint8)
    weights[3, 4] = 0x7F
    path = save_as(tmp_path / "m.safetensors", {"a.weight": ("F8_E4M3", weights.view(FP8["F8_E4M3"]))})
    for file_type in ("Q8_0", "COPY"):
        with pytest.raises(quantreg.NonFiniteError, match=r"a\.weight"):
            quantreg.quantize_file(path, tmp_path / "o.gguf", file_type)
        assert not (tmp_path / "o.gguf").exists()


def test_types_that_fit_parameters_see_the_decoded_weights(tmp_path):
    name = "blk.0.ffn_down.weight"
    weights, scales = codes(256, 256), RNG.random((2, 2), np.float32) + 50
    fp8 = save_as(tmp_path / "fp8.safetensors", {name: weights, f"{name}_scale_inv": f32(scales)})
    floats = weights[1].astype(np.float32) * scales.repeat(128, 0).repeat(128, 1)
    plain = save_as(tmp_path / "plain.safetensors", {name: f32(floats)})
    llama = {"general.architecture": "llama", "llama.block_count": 1}
    of_fp8, of_plain = (decoded(p, p.with_suffix(".gguf"), "NVFP4", override_kv=llama, pure=True) for p in (fp8, plain))
    assert of_plain.keys() == {name, "blk.0.ffn_down.scale"}
    for key, values in of_plain.items():
        np.testing.assert_array_equal(of_fp8[key], values)


INTEGERS = ("I32", np.zeros((4, 4), np.int32))
BYTES = ("U8", np.zeros((4, 4), np.uint8))
REFUSED = {
    "GPTQ": ({"a.qweight": INTEGERS, "a.qzeros": INTEGERS, "a.scales": f32(np.ones(4))}, "as GPTQ and AWQ store them"),
    "compressed-tensors": ({"a.weight_packed": INTEGERS, "a.weight_scale": f32([1])}, "as compressed-tensors stores"),
    "bitsandbytes, 4 bits": ({"a.weight": BYTES, "a.weight.absmax": f32([1])}, "bitsandbytes"),
    "bitsandbytes, state": ({"a.weight.quant_state.bitsandbytes__nf4": BYTES}, "bitsandbytes"),
    "bitsandbytes, 8 bits": ({"a.weight": ("I8", np.zeros((4, 4), np.int8)), "a.SCB": f32([1])}, "bitsandbytes"),
    "integers": ({"a.weight": ("I8", np.zeros((4, 4), np.int8)), "a.weight_scale": f32([1])}, "integers with scales"),
    "gpt-oss": ({"a.up_proj_blocks": BYTES, "a.up_proj_scales": BYTES}, "as gpt-oss stores them"),
    "MLX": ({"a.weight": ("U32", np.zeros((4, 4), np.uint32)), "a.scales": f32(np.ones(4))}, "as MLX stores them"),
    "NVFP4": ({"a.weight_scale_2": f32([1])}, "the second scale of NVFP4"),
    "MXFP8": ({"a.weight": codes(32, 32), "a.weight_scale": ("U8", np.zeros((32, 1), np.uint8))}, "as MXFP8 has"),
    "MXFP8, named": ({"a.weight": codes(32, 32), "a.weight_scale": ("F8_E8M0", np.zeros(32, np.uint8))}, "as MXFP8"),
    "wrong shape": ({"a.weight": codes(32, 32), "a.weight_scale": f32(np.ones((3, 5)))}, "but expected one, one per"),
    "two scales": (
        {"a.weight": codes(4, 4), "a.weight_scale": f32(1), "a.weight_scale_inv": f32(1)}, "has two tensors of scales",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_formats_that_are_not_known_are_refused_with_the_reason_by_plan_and_run(tmp_path, kind, capsys):
    tensors, message = REFUSED[kind]
    path = save_as(tmp_path / "m.safetensors", tensors)
    with pytest.raises(SafetensorsError, match=re.escape(message)) as raised:
        quantreg.plan(path, "Q8_0")
    assert "a." in str(raised.value)
    for options in ([], ["--dry-run"]):
        assert cli.main(["quantize", *options, str(path), str(tmp_path / "o.gguf"), "Q8_0"]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o.gguf").exists()


def test_inspect_shows_what_the_file_holds(tmp_path, capsys):
    tensors = {"a.weight": codes(32, 32), "a.weight_scale": f32(0.3)}
    path = save_as(tmp_path / "m.safetensors", tensors)
    assert cli.main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "F8_E4M3" in out
    assert "a.weight_scale" in out


def test_compare_decodes_fp8_and_takes_unknown_formats_as_they_are(tmp_path):
    weights = codes(64, 64)
    path = save_as(tmp_path / "m.safetensors", {"a.weight": weights, "a.weight_scale": f32(0.3)})
    quantreg.quantize_file(path, tmp_path / "o.gguf", "F32")
    assert quantreg.compare(path, tmp_path / "o.gguf").tensors == ()
    packed = save_as(tmp_path / "gptq.safetensors", REFUSED["GPTQ"][0])
    assert quantreg.compare(packed, packed).same
    with quantreg.open(packed) as model:
        assert (model["a.qweight"].type_name, model["a.qweight"].shape) == ("I32", (4, 4))


def test_open_decodes_fp8_with_scales_in_any_shard_when_the_data_is_used(tmp_path):
    layers = {f"blk.{i}.ffn_up.weight": codes(256, 256) for i in range(2)}
    scales = {f"{name}_scale_inv": f32(RNG.random((2, 2)) + 0.5) for name in layers}
    save_as(tmp_path / "m-00001-of-00002.safetensors", layers | {"plain.weight": codes(4, 256)})
    path = save_as(tmp_path / "m-00002-of-00002.safetensors", scales)
    expected = decoded(path, tmp_path / "o.gguf", "COPY")
    with quantreg.open(path) as model:
        assert {name: tensor.type_name for name, tensor in model.items()} == dict.fromkeys(layers, "F32") | {
            "plain.weight": "BF16"
        }
        assert any("decoded to floats" in text for text in model.warnings)
        kept = model["blk.1.ffn_up.weight"]
        for name, tensor in model.items():
            assert tensor.nbytes == expected[name].size * (2 if name == "plain.weight" else 4)
            np.testing.assert_array_equal(tensor[:3], expected[name][:3])
            np.testing.assert_array_equal(tensor.dequantize(), expected[name])
    np.testing.assert_array_equal(kept.dequantize(), expected["blk.1.ffn_up.weight"])  # the model is closed
    found = evaluate(path, ["Q8_0"])
    assert {measure.tensor for measure in found.tensors} == set(expected)
    assert found.totals[0].error == evaluate(tmp_path / "o.gguf", ["Q8_0"]).totals[0].error < 0.02


def test_a_fp8_file_that_shrinks_while_it_is_open_is_noticed(tmp_path):
    path = save_as(tmp_path / "m.safetensors", {"a.weight": codes(64, 256), "a.weight_scale": f32(0.3)})
    with quantreg.open(path) as model:
        tensor = model["a.weight"]
        os.truncate(path, 4096)
        with pytest.raises(GGUFFormatError, match="the file has shrunk to 4096"):
            tensor.dequantize()
        with pytest.raises(GGUFFormatError, match="the file has shrunk to 4096"):
            model["a.weight"]
