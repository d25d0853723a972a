"""quantize_module: which layers are replaced, by which types, and what the report says."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import toy
from entries import registered

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

import torch_models as models  # noqa: E402

import quantreg  # noqa: E402
import quantreg.torch as qt  # noqa: E402
from quantreg import PlanError, ShapeError, UnknownFileTypeError, UnknownTypeError  # noqa: E402
from quantreg.recipes import plan_header  # noqa: E402
from quantreg.torch.modules import _info  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_device")

IDS = torch.arange(12, device=models.DEVICE).reshape(2, 6)


def test_each_linear_layer_is_replaced_and_the_model_still_computes():
    model = models.decoder()
    twin = copy.deepcopy(model)
    report = qt.quantize_module(model, "Q8_0", embeddings=True)
    assert set(report.replaced) == {n for n, m in twin.named_modules() if type(m).__name__ in ("Linear", "Embedding")}
    assert set(report.replaced.values()) == {"Q8_0"}
    for name in report.replaced:
        old, new = twin.get_submodule(name), model.get_submodule(name)
        assert type(new) is (qt.QuantEmbedding if isinstance(old, torch.nn.Embedding) else qt.QuantLinear)
        expected = quantreg.quantize(old.weight.detach().cpu().numpy(), "Q8_0")
        np.testing.assert_array_equal(new.packed.bytes.cpu().numpy(), expected)
        with torch.no_grad():
            old.weight.copy_(new.weight)
    torch.testing.assert_close(model(IDS), twin(IDS), rtol=1e-4, atol=1e-4)
    assert report.bytes_before == 4 * sum(twin.get_submodule(name).weight.numel() for name in report.replaced)
    assert report.bytes_after == sum(model.get_submodule(name).packed.bytes.numel() for name in report.replaced)


def test_a_file_type_decides_as_it_does_for_a_file():
    model = models.decoder(layers=8)
    report = qt.quantize_module(model, "Q4_K_M", embeddings=True)
    header = SimpleNamespace(metadata={}, tensors=[])
    names = {
        "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
        "up_proj": "ffn_up", "down_proj": "ffn_down", "embed_tokens": "token_embd", "lm_head": "output",
    }  # fmt: skip
    inside = {}
    for name in report.replaced:
        parts = name.split(".")
        inside[name] = f"{f'blk.{parts[1]}.' if len(parts) > 1 else ''}{names[parts[-1]]}.weight"
        header.tensors.append(_info(inside[name], torch.zeros(model.get_submodule(name).packed.shape)))
    plan = plan_header(header, "Q4_K_M")
    assert report.replaced == {name: plan[inside[name]].to_type for name in report.replaced}
    assert len(set(report.replaced.values())) == 2
    assert report.reasons["lm_head"] == "output: Q6_K"


def test_patterns_choose_types_and_the_first_that_is_found_decides():
    model = models.decoder()
    report = qt.quantize_module(model, {r"layers\.1\.mlp": "Q8_0", "mlp": quantreg.types["Q4_0"], "q_proj$": "BF16"})
    assert report.replaced == {
        **{f"layers.0.mlp.{name}_proj": "Q4_0" for name in ("gate", "up", "down")},
        **{f"layers.1.mlp.{name}_proj": "Q8_0" for name in ("gate", "up", "down")},
    }
    assert report.left["layers.0.self_attn.k_proj"] == "no pattern of the recipe is found in its name"
    assert report.left["layers.0.self_attn.q_proj"].endswith("BF16")


def test_rows_that_do_not_fit_get_the_type_that_llama_quantize_falls_back_to():
    model = models.decoder(width=96, hidden=100)
    report = qt.quantize_module(model, "Q4_K")
    assert report.replaced["layers.0.mlp.up_proj"] == "Q5_0"
    assert report.reasons["layers.0.mlp.up_proj"].startswith("96 is not a multiple of 256: Q5_0 instead")
    assert "layers.0.mlp.down_proj" not in report.replaced
    assert report.left["layers.0.mlp.down_proj"].startswith("100 is not a multiple of 32: F16 instead")
    assert type(model.layers[0].mlp.down_proj) is torch.nn.Linear


@pytest.mark.parametrize("skip", ["lm_head", ["lm_head", r"\.0\."]])
def test_skipped_modules_stay(skip):
    model = models.decoder()
    report = qt.quantize_module(model, "Q4_K", skip=skip)
    assert report.left["lm_head"] == "skip names it"
    assert type(model.lm_head) is torch.nn.Linear
    assert ("layers.0.mlp.up_proj" in report.left) == isinstance(skip, list)


def test_tied_weights_stay_tied():
    model = models.decoder(tied=True)
    report = qt.quantize_module(model, "Q4_K_M", embeddings=True)
    assert model.lm_head.packed is model.embed_tokens.packed
    assert report.replaced["lm_head"] == report.replaced["embed_tokens"] == "Q6_K"  # as in a file
    for moved in (copy.deepcopy(model), model.half(), model.to("cpu")):
        assert moved.lm_head.packed.bytes.data_ptr() == moved.embed_tokens.packed.bytes.data_ptr()
    assert report.bytes_before == 4 * sum(p.numel() for n, p in models.decoder(tied=True).named_parameters()
                                          if p.ndim == 2)  # fmt: skip


def test_a_layer_that_is_tied_to_one_that_stays_stays():
    model = models.decoder(tied=True)
    report = qt.quantize_module(model, "Q4_K_M")
    assert report.left == {
        "embed_tokens": "embeddings stay unless embeddings=True",
        "lm_head": "its weights are tied to embed_tokens, which stays: pass embeddings=True",
    }
    assert model.lm_head.weight is model.embed_tokens.weight


def test_a_module_that_stands_in_two_places_is_replaced_in_both():
    shared = torch.nn.Linear(64, 64)
    model = torch.nn.ModuleDict({"a": shared, "b": torch.nn.Sequential(shared)})
    report = qt.quantize_module(model, "Q8_0")
    assert list(report.replaced) == ["a", "b.0"]
    assert model["a"].packed is model["b"][0].packed
    assert model["a"].bias is model["b"][0].bias


class Own(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_what_may_compute_something_else_stays_and_the_report_says_why():
    hooked = torch.nn.Linear(64, 64)
    hooked.register_forward_hook(lambda module, args, result: 2 * result)
    patched = torch.nn.Linear(64, 64)
    patched.forward = lambda x: x
    model = torch.nn.ModuleDict(
        {
            "own": Own(64, 64), "hooked": hooked, "patched": patched, "conv": torch.nn.Conv1d(64, 64, 1),
            "norm": torch.nn.LayerNorm(64), "limited": torch.nn.Embedding(9, 64, max_norm=1),
        }
    )  # fmt: skip
    report = qt.quantize_module(model, "Q8_0", embeddings=True)
    assert not report.replaced
    assert report.left == {
        "own": "Own is a subclass, which may compute something else",
        "hooked": "it has hooks, which would be lost",
        "patched": "it has hooks, which would be lost",
        "conv": "Conv1d is no nn.Linear",
        "limited": "it has max_norm or scale_grad_by_freq, which change or train the table",
    }


def test_the_report_is_readable():
    text = str(qt.quantize_module(models.decoder(layers=1), "Q4_K_M", skip="mlp"))
    assert "5 modules replaced: " in text
    assert "  lm_head: output: Q6_K" in text
    assert "4 modules left unchanged:" in text
    assert "  layers.0.mlp.up_proj: skip names it" in text


@pytest.mark.parametrize("spelling", ["blk.0.ffn_up.weight", "layers.0.mlp.up_proj", "layers.0.mlp.up_proj.weight"])
def test_an_importance_matrix_is_used_under_either_name(spelling):
    columns = np.linspace(0.1, 10, 256, dtype=np.float32)
    model = models.decoder()
    weight = model.layers[0].mlp.up_proj.weight.detach().cpu().numpy().copy()
    report = qt.quantize_module(model, "Q4_K", imatrix={spelling: columns})
    assert report.replaced["layers.0.mlp.up_proj"] == "Q4_K"
    np.testing.assert_array_equal(
        model.layers[0].mlp.up_proj.packed.bytes.cpu().numpy(), quantreg.quantize(weight, "Q4_K", columns)
    )


def test_a_recipe_that_cannot_be_followed_changes_nothing():
    model = models.decoder()
    before = {name: type(module) for name, module in model.named_modules()}
    for recipe, error in (
        ("IQ2_XXS", PlanError), ("Q9_K", UnknownFileTypeError), ({"q_proj": "Q4_0", "k_proj": "Q9"}, UnknownTypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            qt.quantize_module(model, recipe)
        assert {name: type(module) for name, module in model.named_modules()} == before


def test_models_that_cannot_be_changed_are_refused():
    with pytest.raises(ShapeError, match=r"use QuantLinear\.from_linear"):
        qt.quantize_module(torch.nn.Linear(64, 64))
    with pytest.raises(ShapeError, match=r"lm_head|q_proj.* is on the meta device"):
        qt.quantize_module(models.Decoder().to("meta"))


def test_a_plugins_type_is_a_recipe():
    with registered(toy.Plugin(toy.make())):
        model = models.decoder()
        report = qt.quantize_module(model, "TOY3", embeddings=True)
        assert report.replaced["layers.0.mlp.up_proj"] == "TOY3"
        assert report.replaced["lm_head"] == "Q6_K"
        assert torch.isfinite(model(IDS)).all()


def test_training_mode_and_dtype_are_kept():
    model = models.decoder().eval().to(torch.bfloat16)
    qt.quantize_module(model, "Q8_0", embeddings=True)
    assert not model.lm_head.training
    assert model.lm_head.weight.dtype == model.embed_tokens.weight.dtype == torch.bfloat16
    assert model(IDS).dtype == torch.bfloat16


def test_adapters_in_a_quantized_model_get_gradients():
    model = models.decoder()
    qt.quantize_module(model, "Q4_K_M")
    model(IDS).square().mean().backward()
    assert model.embed_tokens.weight.grad is not None
    assert model.layers[0].norm.weight.grad.abs().sum() > 0
    assert model.layers[0].self_attn.q_proj.bias.grad.abs().sum() > 0
