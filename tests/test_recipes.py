"""File types: the registry, the built-in table, and recipes of plugins."""

import pickle
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from plan_models import TYPES, header, llama, tensor

import quantreg
from quantreg.errors import PluginError, UnknownFileTypeError
from quantreg.names import role_of
from quantreg.recipes import Choice, FileType, Row, condition, file_types, plan_header
from quantreg.recipes.builtin import BUILT_IN
from quantreg.recipes.filetype import FileTypes
from quantreg.recipes.keep import kept_because
from quantreg.recipes.order import arrange

NUMBERS = """
F32 0, F16 1, Q4_0 2, Q4_1 3, Q8_0 7, Q5_0 8, Q5_1 9, Q2_K 10, Q3_K_S 11, Q3_K_M 12, Q3_K_L 13, Q4_K_S 14, Q4_K_M 15,
Q5_K_S 16, Q5_K_M 17, Q6_K 18, IQ2_XXS 19, IQ2_XS 20, Q2_K_S 21, IQ3_XS 22, IQ3_XXS 23, IQ1_S 24, IQ4_NL 25, IQ3_S 26,
IQ3_M 27, IQ2_S 28, IQ2_M 29, IQ4_XS 30, IQ1_M 31, BF16 32, TQ1_0 36, TQ2_0 37, MXFP4_MOE 38, NVFP4 39, Q1_0 40, Q2_0 41
"""


def test_a_file_type_is_found_by_number_and_by_name_in_any_case():
    for name, number in re.findall(r"(\w+) (\d+)", NUMBERS):
        for key in (name, name.lower(), int(number), number, f" {name} "):
            assert file_types[key].name == name
        assert file_types[name].number == int(number)
    assert file_types["MXFP4"].number == 38
    assert file_types["COPY"].only_copy
    assert set(re.findall(r"(\w+) \d+", NUMBERS)) | {"MXFP4", "COPY"} <= set(file_types)


def test_an_alias_means_the_medium_mix():
    assert [file_types[name].name for name in ("q3_k", "Q4_K", "q5_K")] == ["Q3_K_M", "Q4_K_M", "Q5_K_M"]


@pytest.mark.parametrize("key", [4, 5, "6", 33, "34", 35, "Q4_0_4_4", "q4_2"])
def test_a_removed_file_type_names_the_one_to_use(key):
    with pytest.raises(UnknownFileTypeError, match=r"was removed from ggml; use Q4_"):
        file_types[key]
    assert key not in file_types


@pytest.mark.parametrize("key", ["Q4_K_N", "", "99", -1, "nonsense", "١٥"])
def test_an_unknown_file_type_is_refused(key):
    with pytest.raises(UnknownFileTypeError, match="unknown file type"):
        file_types.find(key, TYPES)


def test_the_name_of_a_type_means_the_uniform_recipe():
    found = file_types.find("iq2_s", {"IQ2_S": TYPES["IQ2_S"]})
    assert found.number == 28  # a file type takes precedence over a type
    types = {"Q9_X": TYPES["Q8_0"]}
    assert file_types.find("q9_x", types) == FileType("Q8_0", None, "Q8_0", "Q8_0 for every quantized tensor")


def test_every_type_that_a_row_names_exists():
    for file_type in BUILT_IN:
        assert file_type.type in TYPES
        for row in file_type.rules:
            if isinstance(row, Row):
                assert row.type in TYPES
                assert set(row.instead_of) <= set(TYPES)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("output.weight", "output"),
        ("x.output.weight", "other"),
        ("token_embd.weight", "token_embd"),
        ("per_layer_token_embd.weight", "token_embd"),
        ("token_embd_norm.weight", "other"),
        ("blk.0.attn_qkv.weight", "attn_qkv"),
        ("blk.0.attn_kv_b.weight", "attn_kv_b"),
        ("blk.0.attn_output.weight", "attn_output"),
        ("blk.0.ffn_gate_up_exps.weight", "ffn_gate"),
        ("blk.0.ffn_down_shexp.weight", "ffn_down"),
        ("blk.0.attn_q_a.weight", "other"),
    ],
)
def test_the_role_follows_from_the_name(name, role):
    assert role_of(name) == role


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_norm.weight",
        "blk.0.ffn_gate_inp.weight",
        "blk.0.time_mix_lerp_fused.weight",
        "blk.0.time_mix_decay_w2.weight",
        "position_embd.weight",
        "v.position_embd.weight",
        "token_types.weight",
        "blk.0.attn_q.bias",
        "weights",
        "a.rvq.codebook.weight",
        "blk.0.ssm_conv1d.weight",
    ],
)
def test_tensors_that_are_not_quantized_have_a_reason(name):
    assert kept_because(name, (256, 256), "llama")


@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "weight", "cls.weight"])
def test_other_matrices_are_quantized_but_vectors_are_not(name):
    assert kept_because(name, (256, 256), "llama") is None
    assert kept_because(name, (256,), "llama") == "fewer than two dimensions"


def test_tensors_are_sorted_by_layer_then_by_the_bytes_of_their_names():
    names = ["blk.10.a", "blk.2.b", "blk.2.B", "z", "blk.2x", "v.blk.1.a", "é", "blk.-3.a", "blk.x"]
    ordered, layers = arrange([SimpleNamespace(name=name) for name in names], ())
    assert [name for name, _ in ordered] == [
        "blk.-3.a", "blk.x", "v.blk.1.a", "z", "é", "blk.2.B", "blk.2.b", "blk.2x", "blk.10.a",
    ]  # fmt: skip
    assert layers is None


# --- recipes of plugins ---


@condition("an odd layer")
def odd(t):
    return t.layer is not None and t.layer % 2 == 1


def like_its_gate(t, chosen):
    """A rule that looks at the plan so far."""
    gate = t.planned.get(t.name.replace("ffn_up", "ffn_gate"))
    return Choice(gate, "like its gate") if t.role == "ffn_up" and gate else None


MINE = FileType(
    "MINE_M",
    1234,
    "Q4_0",
    "a recipe of a plugin",
    aliases=("MINE",),
    rules=(Row("ffn_gate", odd, "Q8_0"), like_its_gate, Row(None, lambda t: t.shape == (1000, 256), "Q5_0")),
)


def hook(*additions, replace=False, name="mine"):
    def register_recipes(register):
        for addition in additions:
            register(addition, replace=replace)

    return SimpleNamespace(function=register_recipes, plugin_name=name)


def test_a_plugin_adds_a_recipe_whose_rules_use_name_layer_shape_and_plan():
    hooks = [hook(MINE)]
    registry = FileTypes(BUILT_IN, lambda: hooks)
    assert registry["mine"] is registry[1234] is MINE
    planned = plan_header(llama(2), registry["mine_m"], types=TYPES)
    types = {t.name: t.to_type for t in planned.tensors}
    assert [types[f"blk.{i}.{part}.weight"] for i in (0, 1) for part in ("ffn_gate", "ffn_up", "ffn_down")] == [
        "Q4_0", "Q4_0", "Q4_0", "Q8_0", "Q8_0", "Q4_0",
    ]  # fmt: skip
    assert types["output.weight"] == types["token_embd.weight"] == "Q5_0"
    reasons = {t.name: t.reason for t in planned.tensors}
    assert reasons["blk.1.ffn_gate.weight"] == "ffn_gate, an odd layer: Q8_0"
    assert reasons["blk.1.ffn_up.weight"] == "like its gate"
    hooks.clear()
    assert "MINE" not in registry


def test_a_clash_is_refused_unless_it_is_a_replacement():
    other = FileType("Q4_K", 4321, "Q4_K", "takes an alias of Q4_K_M")
    failed = []
    registry = FileTypes(BUILT_IN, lambda: [hook(MINE, other), hook("nonsense")], lambda *report: failed.append(report))
    assert "MINE" not in registry  # either all of a plugin's recipes are added or none
    assert "'Q4_K' is taken by Q4_K_M" in str(failed[0][1])
    assert "expected a quantreg.FileType" in str(failed[1][1])
    registry = FileTypes(BUILT_IN, lambda: [hook(other, replace=True)])
    assert registry["q4_k"] is other
    assert registry["q4_k_m"].number == 15


def test_a_file_type_may_take_the_name_of_another_type_only_on_purpose():
    registry = FileTypes(BUILT_IN, find_type=quantreg.types.get)
    for new in (FileType("Q8_K", None, "Q4_K", ""), FileType("MINE", None, "Q4_K", "", aliases=("Q8_K",))):
        with pytest.raises(PluginError, match="'Q8_K' is the name of a type, but the file type uses Q4_K: choose"):
            registry.register(new)
    registry.register(FileType("Q8_1", None, "Q8_1", "the uniform recipe"))
    on_purpose = FileType("Q8_K", None, "Q4_K", "")
    registry.register(on_purpose, replace=True)
    assert registry["Q8_K"] is on_purpose


def test_a_file_type_may_be_registered_by_hand():
    registry = FileTypes(BUILT_IN)
    registry.register(MINE)
    with pytest.raises(PluginError, match="'MINE_M' is taken"):
        registry.register(MINE)
    assert list(registry)[-1] == "MINE_M"
    assert len(registry) == len(BUILT_IN) + 1


def test_a_recipe_can_require_an_imatrix_for_its_types():
    picky = FileType("PICKY", None, "Q4_0", "", needs_imatrix=("Q4_0",))
    planned = plan_header(header([tensor("a.weight", (32, 2))]), picky, types=TYPES, check=False)
    assert "PICKY requires an importance matrix" in planned.problems[0]


def test_importing_recipes_loads_neither_numpy_nor_pluggy_nor_click():
    script = "import sys; import quantreg.recipes; print([m for m in ('numpy', 'pluggy', 'click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_built_in_file_type_pickles_and_so_does_a_plan_made_with_it():
    for file_type in BUILT_IN:
        assert pickle.loads(pickle.dumps(file_type)) == file_type
    planned = plan_header(llama(), "Q4_K_M", types=TYPES)
    assert pickle.loads(pickle.dumps(planned)) == planned
