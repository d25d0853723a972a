"""Image and video models: how they are recognised, and what stays at high precision."""

import re
from types import ModuleType, SimpleNamespace

import pytest
from documents import file_in
from plan_models import header, tensor

import quantreg
from quantreg import cli
from quantreg.recipes import Architecture, Choice, Keep, architectures, condition, file_types, plan_header
from quantreg.recipes.architecture import Architectures
from quantreg.registry import registry

EXPECTED = {
    "flux": ("double_blocks.0.img_attn.proj.weight",),
    "sd3": ("joint_blocks.0.x_block.attn.qkv.weight",),
    "aura": ("double_layers.3.modX.1.weight",),
    "hidream": (
        "caption_projection.0.linear.weight", "double_stream_blocks.0.block.ff_i.shared_experts.w3.weight",
    ),
    "cosmos": ("blocks.0.mlp.layer1.weight", "blocks.0.adaln_modulation_cross_attn.1.weight"),
    "ltxv": (
        "adaln_single.emb.timestep_embedder.linear_2.weight", "transformer_blocks.27.scale_shift_table",
        "caption_projection.linear_2.weight",
    ),
    "hyvid": (
        "double_blocks.0.img_attn_proj.weight", "txt_in.individual_token_refiner.blocks.1.self_attn_qkv.weight",
    ),
    "wan": ("blocks.0.self_attn.norm_q.weight", "text_embedding.2.weight", "head.modulation"),
    "qwen_image": (
        "time_text_embed.timestep_embedder.linear_2.weight", "transformer_blocks.0.attn.norm_added_q.weight",
        "transformer_blocks.0.attn.norm_added_k.weight", "transformer_blocks.0.attn.add_q_proj.weight",
        "transformer_blocks.0.img_mlp.net.0.proj.weight",
    ),
    "lumina2": ("cap_embedder.1.weight", "context_refiner.0.attention.qkv.weight"),
    "sdxl": (
        "input_blocks.3.0.op.weight", "input_blocks.6.0.op.weight", "output_blocks.2.2.conv.weight",
        "output_blocks.5.2.conv.weight", "label_emb.0.0.weight",
    ),
    "sd1": (
        "input_blocks.3.0.op.weight", "input_blocks.6.0.op.weight", "input_blocks.9.0.op.weight",
        "output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.weight", "output_blocks.8.2.conv.weight",
    ),
}  # fmt: skip


def types_of(architecture, file_type, shapes, **options):
    """Plan a model of these tensors (name -> shape or (shape, source type)): name -> type."""
    tensors = []
    for name, shape in shapes.items():
        shape, source = shape if isinstance(shape[0], tuple) else (shape, "BF16")
        tensors.append(tensor(name, shape[::-1], source))
    metadata = {"general.architecture": architecture}
    planned = plan_header(header(tensors, metadata), file_type, options=quantreg.PlanOptions(**options))
    return {name: planned[name].to_type for name in shapes}


# ---- recognition ----


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "model.", "net.", "module.", "_orig_mod.", "unet."])
@pytest.mark.parametrize("name", EXPECTED)
def test_an_architecture_is_recognised_by_its_tensors_behind_any_usual_prefix(name, prefix):
    found = architectures.recognise([prefix + tensor for tensor in EXPECTED[name]] + ["vae.decoder.weight"])
    assert (found.architecture.name, found.prefix, found.foreign) == (name, prefix, False)
    assert found.new_name(f"{prefix}a.weight") == "a.weight"
    assert found.new_name("vae.decoder.weight") == (None if prefix else "vae.decoder.weight")


def test_every_architecture_has_a_test():
    assert set(EXPECTED) == {found.name for found in architectures.values() if found.graph is None}


def test_language_models_and_parts_of_a_signature_are_not_recognised():
    assert architectures.recognise(["blk.0.attn_q.weight", "output.weight", "token_embd.weight"]) is None
    assert architectures.recognise(["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]) is None
    assert architectures.recognise(EXPECTED["wan"][:2]) is None
    mixed = ["blocks.0.self_attn.norm_q.weight", "net.text_embedding.2.weight", "net.head.modulation"]
    assert architectures.recognise(mixed) is None


def test_the_layout_of_diffusers_is_foreign_unless_the_model_is_one_that_uses_these_names():
    found = architectures.recognise(["transformer_blocks.0.attn.norm_added_k.weight"])
    assert (found.architecture.name, found.foreign) == ("flux", True)
    assert found.new_name("net.a") == "net.a"
    assert not architectures.recognise(EXPECTED["qwen_image"]).foreign


def test_what_training_left_over_is_left_out():
    found = architectures.recognise(EXPECTED["cosmos"])
    assert found.new_name("blocks.0.self_attn.q_norm._extra_state") is None


# ---- what is kept ----

FLUX = {
    "img_in.weight": (256, 64), "txt_in.weight": (256, 512), "time_in.in_layer.weight": (256, 256),
    "guidance_in.in_layer.weight": (256, 256), "final_layer.linear.weight": (64, 256),
    "final_layer.adaLN_modulation.1.weight": (512, 256),
    "distilled_guidance_layer.layers.0.in_layer.weight": (256, 256),
    "double_blocks.0.img_attn.qkv.weight": (768, 256), "double_blocks.0.img_mod.lin.weight": (1536, 256),
    "double_blocks.0.img_attn.norm.query_norm.scale": (128,), "double_blocks.0.img_mlp.2.bias": (256,),
    "double_blocks.0.img_mlp.2.weight": (256, 1024),
}  # fmt: skip


def test_q4_k_m_of_flux_keeps_what_the_tools_of_its_world_keep():
    found = types_of("flux", "Q4_K_M", FLUX)
    assert {name for name, kind in found.items() if kind == "BF16"} == {
        "img_in.weight", "txt_in.weight", "time_in.in_layer.weight", "guidance_in.in_layer.weight",
        "final_layer.linear.weight", "final_layer.adaLN_modulation.1.weight",
        "distilled_guidance_layer.layers.0.in_layer.weight",
    }  # fmt: skip
    assert {name for name, kind in found.items() if kind == "F32"} == {
        "double_blocks.0.img_attn.norm.query_norm.scale", "double_blocks.0.img_mlp.2.bias",
    }  # fmt: skip
    assert found["double_blocks.0.img_attn.qkv.weight"] == "Q5_K"
    assert found["double_blocks.0.img_mlp.2.weight"] == found["double_blocks.0.img_mod.lin.weight"] == "Q4_K"


# architecture -> what stays as the source has it, what becomes F32, and a weight of a block, which is quantized.
KEPT = {
    "sd3": (
        ("final_layer.linear", "t_embedder.mlp.0", "y_embedder.mlp.0", "context_embedder"), ("pos_embed",),
        "joint_blocks.0.x_block.mlp.fc1",
    ),
    "aura": (
        ("init_x_linear", "final_linear", "t_embedder.mlp.0", "cond_seq_linear", "modF.1"), (),
        "single_layers.0.mlp.c_fc1",
    ),
    "hidream": (
        (
            "x_embedder.proj", "final_layer.linear", "p_embedder.pooled_embedder.linear_1",
            "t_embedder.timestep_embedder.linear_1", "caption_projection.0.linear",
        ),
        ("double_stream_blocks.0.block.ff_i.gate.weight",), "double_stream_blocks.0.block.ff_i.shared_experts.w3",
    ),
    "cosmos": (
        ("x_embedder.proj.1", "final_layer.linear", "t_embedder.1.linear_1"), ("pos_embedder.seq",),
        "blocks.0.mlp.layer1",
    ),
    "ltxv": (
        ("patchify_proj", "proj_out", "adaln_single.linear", "caption_projection.linear_1"), ("scale_shift_table",),
        "transformer_blocks.0.ff.net.0.proj",
    ),
    "hyvid": (
        ("img_in.proj", "txt_in.input_embedder", "final_layer.linear", "time_in.in_layer", "vector_in.in_layer",
         "guidance_in.in_layer"), (), "double_blocks.0.img_mlp.fc1",
    ),
    "qwen_image": (
        ("img_in", "txt_in", "norm_out.linear", "proj_out", "time_text_embed.timestep_embedder.linear_1",
         "transformer_blocks.0.img_mod.1"), (), "transformer_blocks.0.img_mlp.net.0.proj",
    ),
    "lumina2": (
        ("x_embedder", "final_layer.linear", "t_embedder.mlp.0", "cap_embedder.1", "context_refiner.0.feed_forward.w1",
         "noise_refiner.0.feed_forward.w1", "layers.0.adaLN_modulation.1"), (), "layers.0.feed_forward.w1",
    ),
    "sdxl": (
        ("time_embed.0", "label_emb.0.0", "add_embedding.linear_1"), (),
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
    ),
    "sd1": (("time_embed.0", "out.2"), (), "input_blocks.1.1.transformer_blocks.0.attn1.to_q"),
}  # fmt: skip


@pytest.mark.parametrize("architecture", KEPT)
def test_inputs_outputs_and_conditions_of_each_architecture_are_kept(architecture):
    kept, bare, of_a_block = KEPT[architecture]
    expected = (
        {f"{name}.weight": "BF16" for name in kept} | dict.fromkeys(bare, "F32") | {f"{of_a_block}.weight": "Q4_K"}
    )
    assert types_of(architecture, "Q4_K_M", dict.fromkeys(expected, (256, 512))) == expected


def test_every_architecture_has_a_test_of_what_is_kept():
    assert {*KEPT, "flux", "wan"} == {found.name for found in architectures.values() if found.graph is None}


MINE = quantreg.FileType(
    "MINE_IMAGES", None, "Q4_1", "a recipe of a user", rules=(lambda t, _: Choice("Q5_1", "mine"),)
)


@pytest.mark.parametrize(
    "file_type", ["Q8_0", "Q2_K", "IQ4_XS", "Q4_0", "F16", MINE], ids=lambda t: getattr(t, "name", t)
)
@pytest.mark.parametrize("pure", [False, True])
def test_what_an_architecture_keeps_is_kept_in_every_file_type(file_type, pure):
    found = types_of("flux", file_type, FLUX, pure=pure)
    assert found["img_in.weight"] == "BF16"
    assert found["double_blocks.0.img_mlp.2.bias"] == "F32"
    expected = "Q5_1" if file_type is MINE and not pure else file_types.find(file_type).type
    assert found["double_blocks.0.img_mod.lin.weight"] == expected


def test_a_plan_of_an_image_model_assumes_nothing_about_heads_and_layers():
    shapes = {"double_blocks.0.img_attn_qkv.weight": (768, 256), "single_blocks.0.attn_v.weight": (256, 256)}
    tensors = [tensor(name, shape[::-1], "BF16") for name, shape in shapes.items()]
    for file_type in ("Q4_K_M", "IQ4_XS", "IQ3_XXS", "Q3_K_S"):
        options = quantreg.PlanOptions(on_missing_importance="fallback")
        planned = plan_header(header(tensors, {"general.architecture": "hyvid"}), file_type, options=options)
        assert planned.warnings == ()


def test_modulation_tables_and_other_bare_parameters_become_f32():
    found = types_of(
        "wan", "Q4_K_M",
        {
            "blocks.0.modulation": (1, 6, 256), "head.modulation": (1, 2, 256), "head.head.weight": (64, 256),
            "patch_embedding.weight": (256, 64), "time_projection.1.weight": (1536, 256),
            "blocks.0.cross_attn.v.weight": (256, 256), "blocks.0.ffn.2.weight": (256, 1024),
            "blocks.0.ffn.0.weight": (1024, 256), "blocks.0.cross_attn.norm_q.weight": (256,),
        },
    )  # fmt: skip
    assert list(found.values()) == ["F32", "F32", "BF16", "BF16", "BF16", "Q6_K", "Q6_K", "Q4_K", "F32"]


def test_integers_and_quantized_tensors_are_not_turned_into_f32():
    found = types_of("wan", "COPY", {"head.modulation": ((2, 256), "Q8_0")})
    assert found == {"head.modulation": "Q8_0"}
    found = types_of("wan", "Q8_0", {"step": ((4,), "I64"), "head.modulation": ((2, 256), "Q4_0")})
    assert found == {"step": "I64", "head.modulation": "Q4_0"}


def test_v_and_ffn_of_an_image_model_get_more_bits_in_the_first_tensors_or_all():
    names = [f"blocks.{i}.self_attn.v.weight" for i in range(5)]
    found = types_of("wan", "Q3_K_M", dict.fromkeys(names, (256, 256)))
    assert list(found.values()) == ["Q5_K", "Q5_K", "Q4_K", "Q4_K", "Q4_K"]
    found = types_of("wan", "Q4_K_S", dict.fromkeys(names, (256, 256)))
    assert list(found.values()) == ["Q5_K"] * 4 + ["Q4_K"]


@pytest.mark.parametrize(
    ("file_type", "edge", "middle"),
    [("Q2_K", "Q5_K", "Q2_K"), ("Q4_0", "Q5_K", "Q4_0"), ("Q5_K_M", "Q6_K", "Q5_K"), ("Q6_K", "Q6_K", "Q6_K")],
)
def test_the_first_and_last_blocks_of_qwen_image_are_better(file_type, edge, middle):
    names = [f"transformer_blocks.{i}.attn.to_q.weight" for i in (0, 1, 9, 10, 58, 59)]
    found = types_of("qwen_image", file_type, dict.fromkeys(names, (256, 256)))
    assert list(found.values()) == [edge, middle, middle, middle, middle, edge]


def test_the_first_and_last_blocks_are_never_worse_than_the_others():
    names = [f"transformer_blocks.{i}.attn.to_v.weight" for i in (0, 30, 59)]
    assert set(types_of("qwen_image", "Q4_K_M", dict.fromkeys(names, (256, 256))).values()) == {"Q6_K"}
    assert set(types_of("qwen_image", "Q8_0", dict.fromkeys(names, (256, 256))).values()) == {"Q8_0"}


# ---- the hook ----


@condition("wide")
def wide(t):
    return t.shape[-1] > 256


def third_party(**fields):
    return Architecture("mine", signatures=(("a.weight", "b.weight"),), **fields)


@pytest.fixture
def register():
    """Register architectures as a plugin does, until the test ends."""
    modules = []

    def add(*new, **options):
        module = ModuleType("mine")
        module.register_architectures = quantreg.hookimpl(
            lambda register: [register(architecture, **options) for architecture in new]
        )
        modules.append(module)
        return registry.register_plugin(module)

    yield add
    for module in modules:
        registry.unregister_plugin(module)


def test_a_plugin_describes_its_own_architecture(register):
    register(
        third_party(
            keep=(Keep(("gate",), "a gate", when=wide), Keep(("=b.weight",), "b", "F32")),
            rules=(lambda t, chosen: Choice("Q8_0", "last block") if t.block == t.n_blocks - 1 else None,),
            blocks=("layer",),
        )
    )
    assert architectures.recognise(["a.weight", "b.weight", "c"]).architecture.name == "mine"
    names = {
        "a.weight": (256, 256), "b.weight": (256, 256), "gate.weight": (256, 512), "gate.small.weight": (256, 256),
        "layer.0.x.weight": (256, 256), "layer.1.x.weight": (256, 256),
    }  # fmt: skip
    found = types_of("mine", "Q4_K_M", names)
    assert list(found.values()) == ["Q4_K", "F32", "BF16", "Q4_K", "Q4_K", "Q8_0"]
    planned = plan_header(header([tensor("gate.weight", (512, 256), "BF16")], {"general.architecture": "mine"}), "Q8_0")
    assert planned["gate.weight"].reason == "a gate: kept"


def test_a_condition_that_fails_is_told_with_tensor_and_architecture(register):
    register(third_party(keep=(Keep((), "x", when=lambda t: 1 / 0),)))
    with pytest.raises(quantreg.PlanError, match=r"a.weight: keep of architecture mine failed: ZeroDivisionError"):
        types_of("mine", "Q8_0", {"a.weight": (32, 32)})


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (Architecture("flux"), "architecture 'flux' is registered already: choose another name, or use register"),
        ("flux", "expected a quantreg.Architecture"),
        (Architecture("mine", signatures=((),)), "a signature names no tensor, so every model would match"),
        (Architecture("mine", signatures=("a.weight",)), "each signature must be a tuple of tensor names"),
        (Architecture("mine", keep=(Keep("gate", "a gate"),)), r"expected Keep\(\(part, ...\), reason\)"),
    ],
)
def test_a_wrong_architecture_is_refused_and_adds_nothing(register, new, message):
    plugin = register(Architecture("innocent"), new)
    assert "flux" in architectures
    assert "innocent" not in architectures
    assert re.search(message, plugin.error)


def test_plugins_shows_the_plugin_of_the_image_models_and_one_that_fails(register, capsys):
    register("nonsense")
    assert cli.main(["plugins"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^images +quantreg .*register_architectures", out, re.M)
    assert "register_architectures: register() got 'nonsense'" in err


def test_a_plugin_that_exits_while_it_registers_is_reported_and_does_not_end_the_program():
    def leave(*_):
        raise SystemExit(3)

    reported = []
    hooks = [SimpleNamespace(function=leave)]
    assert len(Architectures(lambda: hooks, lambda hook, error: reported.append((hook, type(error))))) == 0
    assert reported == [(hooks[0], SystemExit)]


def test_a_condition_that_exits_is_told_with_the_name_of_the_tensor(register):
    def leave(candidate):
        raise SystemExit(3)

    register(third_party(keep=(Keep(("gate",), "a gate", when=leave),)))
    with pytest.raises(quantreg.PlanError, match=r"layer\.0\.gate\.weight: keep of .* failed: SystemExit: 3"):
        types_of("mine", "Q4_K_M", {"layer.0.gate.weight": (256, 256)})


def test_a_role_is_given_by_a_part_of_the_name_or_with_an_equals_sign_by_the_whole_name():
    mine = Architecture("mine", roles=(("=out.weight", "output"), ("down", "ffn_down")))
    found = [mine.role_of(name) for name in ("out.weight", "layer.0.out.weight", "layer.0.down.weight")]
    assert found == ["output", "other", "ffn_down"]


def test_an_architecture_is_replaced_only_on_purpose(register):
    mine = Architecture("flux", "mine")
    register(mine, replace=True)
    assert architectures["flux"] is mine


def test_of_two_that_fit_the_longer_signature_wins_and_then_the_later():
    first, longer, later = (
        Architecture(name, signatures=(signature,))
        for name, signature in (("first", ("a",)), ("longer", ("a", "b")), ("later", ("c",)))
    )

    def hook(register):
        for new in (longer, first, later):
            register(new)

    hooks = [SimpleNamespace(function=hook)]
    found = Architectures(lambda: hooks, lambda *_: None)
    assert found.recognise(["a", "b", "c"]).architecture is longer
    assert found.recognise(["a", "c"]).architecture is later
    assert found.recognise(["d"]) is None


def test_the_example_in_the_documentation_works(register):
    names = {}
    exec(file_in("hooks.md", "my_image_model.py"), names)
    register(names["MINE"])
    blocks = {f"layers.{i}.attention.qkv.weight": (256, 256) for i in range(3)}
    shapes = {"patches.weight": (256, 64), "final.bias": (256,), "final.weight": (64, 256), **blocks}
    assert architectures.recognise([f"model.diffusion_model.{name}" for name in shapes]).architecture is names["MINE"]
    found = types_of("my-image-model", "Q4_K_M", shapes)
    assert list(found.values()) == ["BF16", "F32", "BF16", "Q8_0", "Q4_K", "Q8_0"]
