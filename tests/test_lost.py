"""Encoding that destroys a tensor is never silent, and NVFP4 has the scale that it needs."""

import json

import numpy as np
import pytest

import quantreg
from quantreg import LossWarning, cli
from quantreg.ggml import INTEGER_TYPES

RNG = np.random.default_rng(11)
TINY = (RNG.standard_normal((64, 256)) * 5e-4).astype(np.float32)
OUTLIER = np.full((64, 256), 0.05, np.float32)
OUTLIER.ravel()[1000] = 6e4
LLAMA = {"general.architecture": "llama", "llama.block_count": 1}
NAME = "blk.0.ffn_down.weight"
WEIGHT_TYPES = [name for name, qtype in quantreg.types.items() if qtype.codec.can_encode and name not in INTEGER_TYPES]


def quantized(tmp_path, tensors, file_type, metadata=None, **options):
    quantreg.write(tmp_path / "in.gguf", LLAMA if metadata is None else metadata, tensors, force=True)
    return quantreg.quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", file_type, force=True, **options)


def rmse(x, y):
    return float(np.sqrt(((x - y) ** 2).mean() / (x**2).mean()))


# ---- the scale of NVFP4 ----


@pytest.mark.parametrize("size", [1e-12, 5e-4, 0.02, 1, 3e4])
def test_nvfp4_holds_weights_of_every_size_with_its_scale(tmp_path, size):
    x = (RNG.standard_normal((64, 256)) * size).astype(np.float32)
    result = quantized(tmp_path, {NAME: x}, "NVFP4")
    assert not result.warnings
    with quantreg.open(result) as model:
        assert model["blk.0.ffn_down.scale"].shape == (1,)
        assert rmse(x, model[NAME].dequantize()) < 0.11


def test_each_expert_has_its_own_scale(tmp_path):
    x = RNG.standard_normal((4, 16, 64)).astype(np.float32) * np.float32([1, 1e-6, 1e3, 0]).reshape(4, 1, 1)
    name = "blk.0.ffn_up_exps.weight"
    with quantreg.open(quantized(tmp_path, {name: x}, "NVFP4")) as model:
        assert model["blk.0.ffn_up_exps.scale"].shape == (4,)
        back = model[name].dequantize()
        np.testing.assert_array_equal(model[name][1:3], back[1:3])
    assert all(rmse(x[i], back[i]) < 0.12 for i in range(3))
    assert not back[3].any()


@pytest.mark.parametrize(
    ("architecture", "tensor", "others", "scaled"),
    [
        ("llama", "blk.0.attn_q.weight", (), True),
        ("qwen2", "blk.0.attn_q.weight", (), True),
        ("qwen2", "blk.0.ffn_up.weight", (), False),  # its graph does not multiply by this scale
        ("qwen3moe", "blk.0.ffn_up_exps.weight", (), True),
        ("llama", "blk.0.ffn_up.weight", ("blk.0.ffn_up.bias",), False),  # the engine stops if both are there
        ("llama", "blk.0.attn_q.weight", ("blk.0.attn_q.scale",), False),  # BitNet has a scale of its own
        ("an-unknown-one", "blk.0.attn_q.weight", (), False),
    ],
)
def test_nvfp4_gets_a_scale_where_llama_cpp_applies_it(tmp_path, architecture, tensor, others, scaled):
    metadata = {"general.architecture": architecture, f"{architecture}.block_count": 1}
    shape = (2, 8, 64) if "exps" in tensor else (8, 64)
    tensors = {tensor: RNG.standard_normal(shape).astype(np.float32)} | {
        name: np.ones(1, np.float32) for name in others
    }
    plan = quantreg.plan(_write(tmp_path, metadata, tensors), "NVFP4")
    assert [p.name for p in plan[tensor].parameters] == ([tensor.replace("weight", "scale")] if scaled else [])


def test_the_output_gets_a_scale_but_token_embeddings_do_not(tmp_path):
    x = RNG.standard_normal((8, 64)).astype(np.float32)
    tensors = {"token_embd.weight": x, "output.weight": x}
    plan = quantreg.plan(_write(tmp_path, LLAMA, tensors), "NVFP4", pure=True)
    assert {name: bool(tensor.parameters) for name, tensor in plan.items()} == {
        "token_embd.weight": False,
        "output.weight": True,
    }


def test_pruned_layers_rename_the_scales_of_nvfp4(tmp_path):
    x = RNG.standard_normal((8, 64)).astype(np.float32)
    metadata = {"general.architecture": "llama", "llama.block_count": 3}
    tensors = {f"blk.{i}.attn_q.weight": x * 10**i for i in range(3)}
    result = quantized(tmp_path, tensors, "NVFP4", metadata, prune_layers=[1])
    with quantreg.open(result) as model:
        assert sorted(model) == [f"blk.{i}.attn_q.{what}" for i in range(2) for what in ("scale", "weight")]
        assert rmse(x * 100, model["blk.1.attn_q.weight"].dequantize()) < 0.11
    again = quantreg.quantize_file(result, tmp_path / "again.gguf", "COPY", prune_layers=[0])
    with quantreg.open(again) as model:
        assert rmse(x * 100, model["blk.0.attn_q.weight"].dequantize()) < 0.11


def test_bytes_without_a_scale_are_the_reference_encoder_s(tmp_path):
    x = RNG.standard_normal((8, 64)).astype(np.float32)
    scale = np.float32([1])
    np.testing.assert_array_equal(
        quantreg.quantize(x, "NVFP4"), quantreg.quantize(x, "NVFP4", parameters={"scale": scale})
    )


def test_every_command_decodes_nvfp4_with_its_scale(tmp_path):
    result = quantized(tmp_path, {NAME: TINY}, "NVFP4")
    found = quantreg.compare(tmp_path / "in.gguf", result)
    assert found[NAME].rmse < 0.11
    assert not found[NAME].lost
    checked = quantreg.validate(result)
    assert (checked.ok, [*checked.warnings]) == (True, [])
    quantreg.export(result, tmp_path / "out.safetensors", dtype="F32")
    quantreg.quantize_file(result, tmp_path / "f32.gguf", "F32", allow_requantize=True)
    with (
        quantreg.open(result) as model,
        quantreg.open(tmp_path / "out.safetensors") as exported,
        quantreg.open(tmp_path / "f32.gguf") as back,
    ):
        weights = model[NAME].dequantize()
        assert rmse(TINY, weights) < 0.11
        assert (set(exported), set(back)) == ({NAME}, {NAME})
        np.testing.assert_array_equal(exported[NAME].dequantize(), weights)
        np.testing.assert_array_equal(back[NAME].dequantize(), weights)
        x = RNG.standard_normal((3, 256)).astype(np.float32)
        np.testing.assert_allclose(quantreg.matmul(x, model[NAME]), x @ weights.T, rtol=1e-4, atol=1e-5)


def _write(tmp_path, metadata, tensors):
    quantreg.write(tmp_path / "in.gguf", metadata, tensors)
    return tmp_path / "in.gguf"


# ---- tensors that are lost ----


@pytest.mark.parametrize(
    ("x", "name"),
    [
        (TINY, "NVFP4"),  # block scales underflow
        (OUTLIER, "NVFP4"),  # a block scale saturates
        (np.full((4, 256), 1e-9, np.float32), "Q8_0"),
        (np.full((4, 256), 1e-9, np.float32), "Q4_K"),
        (np.full((4, 256), 1e-9, np.float32), "F16"),
        (np.full((4, 256), 0.2, np.float32), "I8"),
    ],
)
def test_an_array_that_a_type_cannot_hold_is_told(x, name):
    with pytest.warns(LossWarning, match=rf"my\.weight: {name} loses the weights: the error is (9[0-9]|1\d\d)%"):
        quantreg.quantize(x, name, tensor="my.weight")


@pytest.mark.parametrize("name", WEIGHT_TYPES)
def test_ordinary_weights_are_never_called_lost(name):
    x = RNG.standard_t(4, (32, 512)).astype(np.float32) * np.float32(0.02)
    importance = np.ones(512, np.float32)
    data = quantreg.quantize(x, name, importance if quantreg.types[name].requires_importance else None)
    assert rmse(x, quantreg.dequantize(data, name)) < 0.9


def test_zeros_are_not_lost():
    assert not quantreg.quantize(np.zeros((4, 256), np.float32), "Q8_0")[:, :2].any()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_names_the_tensors_that_are_lost(tmp_path, threads):
    result = quantized(tmp_path, {NAME: TINY * np.float32(1e-8)}, "Q8_0", threads=threads)
    (warning,) = [text for text in result.warnings if "loses" in text]
    assert NAME in warning
    assert "--tensor-type blk.0.ffn_down.weight=BF16" in warning


def test_events_tell_the_error_of_each_tensor(tmp_path):
    quantreg.write(tmp_path / "in.gguf", LLAMA, {NAME: TINY, "output_norm.weight": np.ones(256, np.float32)})
    events = list(quantreg.quantize_events(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_0"))
    errors = {e.tensor.name: e.error for e in events if isinstance(e, quantreg.events.TensorDone)}
    assert errors["output_norm.weight"] is None
    assert 0.05 < errors[NAME] < 0.12


def test_compare_and_validate_see_a_lost_tensor(tmp_path, capsys):
    quantized(tmp_path, {NAME: TINY * np.float32(1e-8)}, "Q8_0")
    found = quantreg.validate(tmp_path / "out.gguf")
    assert any(f"{NAME}: every weight is zero" in text for text in found.warnings)
    assert quantreg.compare(tmp_path / "in.gguf", tmp_path / "out.gguf")[NAME].lost
    paths = [str(tmp_path / "in.gguf"), str(tmp_path / "out.gguf")]
    assert cli.main(["compare", *paths]) == 1
    assert f"B has lost 1 tensor of A: {NAME}" in capsys.readouterr().out
    assert cli.main(["compare", "--json", *paths]) == 1
    assert next(t for t in json.loads(capsys.readouterr().out)["tensors"] if t["name"] == NAME)["lost"]
