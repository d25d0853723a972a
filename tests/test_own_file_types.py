"""File types of one's own: a plugin's type as a file type, and a file type derived from another."""

import pytest
import toy
from entries import registered
from plan_models import StubImatrix, llama, stub_type, types_with

import quantreg
from quantreg import cli
from quantreg.evaluation.demo import make_model
from quantreg.recipes import FileType, PlanOptions, Row, file_types, plan_header

MY_Q3 = stub_type("MY_Q3", 4242, 32, 14, "Q4_0")
MY_Q5 = stub_type("MY_Q5", 4243, 32, 20, "Q5_0")
MY_Q8 = stub_type("MY_Q8", 4244, 32, 36)
TYPES = types_with(MY_Q3, MY_Q5, MY_Q8)


def plan(source, file_type, **options):
    return plan_header(source, file_type, types=TYPES, options=PlanOptions(**options))


def differing(planned, type_name):
    """The quantized tensors that do not get this type."""
    return {t.name: t.to_type for t in planned.tensors if t.converted and t.to_type != type_name}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MY_Q3", {"output.weight": "Q6_K", "token_embd.weight": "Q4_K"}),
        ("MY_Q5", {"output.weight": "Q6_K"}),  # its embeddings take 5 bits already
        ("MY_Q8", {}),
    ],
)
def test_a_plugins_type_keeps_output_and_embeddings_as_high_as_file_types_do(name, expected):
    assert differing(plan(llama(), name), name) == expected
    assert differing(plan(llama(), name, pure=True), name) == {}


def test_embeddings_that_serve_as_the_output_get_its_type():
    planned = plan(llama(tied=True), "my_q3")
    assert differing(planned, "MY_Q3") == {"token_embd.weight": "Q6_K"}
    assert planned["token_embd.weight"].reason == "token_embd, tied to the output: Q6_K"


def test_options_decide_before_the_rules_for_a_plugins_type():
    planned = plan(llama(), "MY_Q3", output_tensor_type="MY_Q3", token_embedding_type="Q8_0")
    assert differing(planned, "MY_Q3") == {"token_embd.weight": "Q8_0"}
    assert plan(llama(), "MY_Q3", tensor_types={"token_embd": "MY_Q3"})["token_embd.weight"].to_type == "MY_Q3"


def test_rows_that_do_not_divide_fall_back_as_in_a_file_type():
    assert differing(plan(llama(width=96), "MY_Q3"), "MY_Q3") == {
        "output.weight": "Q8_0", "token_embd.weight": "Q5_0",
    }  # fmt: skip


def test_a_built_in_type_is_used_for_every_tensor():
    planned = plan_header(llama(), "Q8_K")
    assert differing(planned, "Q8_K") == {}
    assert planned.file_type == FileType("Q8_K", None, "Q8_K", "Q8_K for every quantized tensor")


def test_the_recipe_of_a_plugins_type_says_what_it_does():
    found = file_types.find("my_q3", TYPES)
    assert found.description == "MY_Q3 by the standard rules: Q6_K for the output, Q4_K for token embeddings"
    assert found.number is None


@pytest.fixture
def toy_type():
    plugin = toy.Plugin(toy.make())
    with registered(plugin):
        yield plugin.qtypes[0]


def test_the_command_says_which_tensors_it_kept_higher(toy_type, tmp_path, capsys):
    model, out = tmp_path / "m.gguf", tmp_path / "o.gguf"
    make_model(model, n_layer=1, n_vocab=64)
    told = (
        "; Q6_K for output.weight and Q4_K for token_embd.weight, by the rules that file types share "
        "(--pure: TOY3 for all)"
    )
    assert cli.main(["quantize", "--dry-run", str(model), "TOY3"]) == 0
    dry = capsys.readouterr().out
    assert cli.main(["quantize", str(model), str(out), "TOY3"]) == 0
    assert told in capsys.readouterr().out
    assert told in dry
    with quantreg.open(out) as written:
        assert {t.type_name for t in written.values() if len(t.shape) == 2} == {"TOY3", "Q4_K", "Q6_K"}
    assert cli.main(["quantize", "--pure", "--force", str(model), str(out), "TOY3"]) == 0
    assert "rules that file types share" not in capsys.readouterr().out
    assert cli.main(["quantize", "--dry-run", str(model), "Q4_K_M"]) == 0
    assert "rules that file types share" not in capsys.readouterr().out


def test_a_derived_file_type_differs_by_its_rule_alone():
    mine = file_types["Q4_K_M"].derive("MINE", Row("ffn_down", None, "MY_Q5"))
    source = llama(n_layers=8)
    planned, base = plan(source, mine), plan(source, "Q4_K_M")
    changed = {t.name for t in planned.tensors if t.to_type != base[t.name].to_type}
    assert changed == {f"blk.{i}.ffn_down.weight" for i in range(8)}
    assert planned["blk.0.ffn_down.weight"].to_type == "MY_Q5"
    assert (mine.name, mine.number, mine.aliases) == ("MINE", None, ())
    assert mine.description == "Q4_K_M with rules of its own"


def test_a_derived_file_type_may_have_another_main_type():
    mine = file_types["Q4_K_M"].derive("MINE", type="MY_Q5", description="Q4_K_M on MY_Q5")
    source = llama(n_layers=8)
    base = plan(source, "Q4_K_M")
    for t in plan(source, mine).tensors:
        expected = base[t.name].to_type
        assert t.to_type == ("MY_Q5" if expected == "Q4_K" else expected), t.name
    assert mine.description == "Q4_K_M on MY_Q5"


def test_a_derived_file_type_keeps_what_its_base_needs():
    mine = file_types["Q2_K_S"].derive("MINE")
    assert mine.needs_imatrix == ("Q2_K",)
    with pytest.raises(quantreg.PlanError, match="MINE requires an importance matrix"):
        plan(llama(), mine)
    source = llama()
    imatrix = StubImatrix({t.name: t.dims[0] for t in source.tensors})
    assert plan_header(source, mine, types=TYPES, imatrix=imatrix).problems == ()
