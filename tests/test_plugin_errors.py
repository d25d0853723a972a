"""What a plugin author does wrong, and the one line that says what to do next."""

from types import ModuleType

import click
import numpy as np
import pytest
import small_model
import toy
from entries import Entry, fail, installed, registered, registry_of

import quantreg
from quantreg import CodecError, FileType, NonFiniteError, PlanError, PluginError, UnknownFileTypeError, cli, hookimpl
from quantreg.recipes import file_types
from quantreg.registry import Types
from quantreg.testing import check_codec

X = small_model.noise(1, (8, 256))
COLUMNS = np.ones(256, np.float32)


@pytest.fixture
def run(capsys):
    def call(*args):
        code = cli.main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def model(tmp_path):
    small_model.write_model(tmp_path / "in.gguf")
    return tmp_path / "in.gguf"


# ---- types ----


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"name": "my q3"}, "type name 'my q3': use letters, digits and underscores, starting with a letter: MY_Q3"),
        ({"name": "3BIT"}, "starting with a letter"),
        ({"name": "Q3\n"}, "use letters"),
        ({"name": "Ü3"}, "use letters"),
        ({"name": None}, "use letters"),
        ({"block_size": 0}, r"block_size is 0; use an integer from 1 to 65536"),
        ({"block_size": 2**40}, r"block_size is 1099511627776"),
        ({"type_size": 13.5}, r"type_size is 13.5"),
        ({"row_header_size": -1}, "row_header_size is -1; use a number of bytes, 0 for none"),
        ({"type_id": 2**32}, r"type_id is 4294967296; use an integer from 0 to 2147483647"),
        ({"type_id": "1000"}, "type_id is '1000'"),
    ],
)
def test_a_type_that_cannot_be_is_refused_when_it_is_declared(layout, message):
    with pytest.raises(PluginError, match=message):
        toy.make(**layout)


@pytest.mark.parametrize(
    ("codec", "error", "message"),
    [
        ("my_codec", PluginError, "codec must be a function that loads the codec: codec=lambda: ..."),
        (lambda: None, CodecError, r"the codec of X is None: return what load_codec\(\) or quantreg.PythonCodec\(\)"),
        (
            lambda: quantreg.PythonCodek,
            CodecError,
            "cannot be loaded: AttributeError: .* has no attribute 'PythonCodek'",
        ),
        (lambda: 1 / 0, CodecError, "cannot be loaded: ZeroDivisionError"),
        (lambda: quantreg.PythonCodec("X", None, None), CodecError, "cannot be loaded: AttributeError"),
    ],
)
def test_a_codec_that_is_none_is_told(codec, error, message):
    with pytest.raises(error, match=message):
        quantreg.quantize(X, quantreg.QuantType("X", type_id=4300, block_size=32, type_size=14, codec=codec))


def test_a_codec_that_cannot_be_loaded_is_one_error_and_not_one_a_check():
    with pytest.raises(CodecError, match="cannot be loaded"):
        check_codec(quantreg.QuantType("X", type_id=4300, block_size=32, type_size=14, codec=fail(ImportError("no"))))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"encode": lambda rows, importance: None}, r"encode of TOY3 returned None, expected uint8 \(8, 112\)"),
        ({"decode": lambda blocks: toy.decode(blocks).tolist()}, r"decode of TOY3 returned float64 \(8, 256\)"),
        (
            {"decode": lambda blocks: [[1], [2, 3]]},
            r"decode of TOY3 returned a list that is not an array of float32 \(8, 256\): ValueError",
        ),
        ({"score": lambda rows, columns: columns[:3]}, r"score of TOY3 returned float32 \(3,\), expected float32 \(8"),
        ({"score": lambda rows, columns: 1 / 0}, "score of TOY3 failed at row 0: ZeroDivisionError"),
    ],
)
def test_functions_that_return_something_else_are_told(parts, message):
    with pytest.raises(CodecError, match=message):
        quantreg.quantize(X, toy.make(**parts), COLUMNS, threads=1)


@pytest.mark.parametrize(
    "layout", [np.asfortranarray, lambda x: x[::-1].copy()[::-1], lambda x: np.repeat(x, 2, 1)[:, ::2]]
)
def test_functions_may_return_arrays_of_any_layout(layout):
    odd = toy.make(
        encode=lambda rows, importance: layout(toy.encode(rows, importance)),
        decode=lambda blocks: layout(toy.decode(blocks)),
    )
    np.testing.assert_array_equal(quantreg.quantize(X, odd), quantreg.quantize(X, toy.make()))
    assert check_codec(odd).ok


def test_a_codec_with_state_fails_the_kit_and_names_what_depends_on_it():
    class Stateful:
        calls = 0

        def __call__(self, rows, importance):
            self.calls += 1
            return toy.encode(rows * np.float32(1 + self.calls % 2), importance)

    failed = {o.check for o in check_codec(toy.make(encode=Stateful()), raises=False).failures}
    assert {"determinism", "slabs"} <= failed


# ---- plugins ----


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("No module named 'frob'"),
            "cannot be imported: ModuleNotFoundError: No module named 'frob'",
        ),
        (SyntaxError("invalid syntax\nsecond line"), "SyntaxError: invalid syntax second line"),
        (SystemExit("bye"), "SystemExit: bye"),
    ],
)
def test_a_module_that_cannot_be_imported_says_how_to_get_rid_of_it(error, message):
    broken = registry_of(Entry("bad", "bad-dist", fail(error)), Entry("ok", "ok-dist", lambda: toy.Plugin(toy.make())))
    assert [t.name for t in broken.all_types()] == ["TOY3"]
    (bad,) = (p for p in broken.plugins if p.error)
    assert bad.problem.startswith("plugin bad of bad-dist: ")
    assert message in bad.problem
    assert bad.problem.endswith("(repair or reinstall it, or run: pip uninstall bad-dist)")
    assert "\n" not in bad.problem


def test_a_hook_with_other_arguments_is_told():
    class Careless(toy.Plugin):
        @hookimpl
        def score_importance(self, qtype, name, weights):
            return None

    broken = registry_of(Entry("bad", "bad-dist", lambda: Careless(toy.make())))
    assert broken.all_types() == ()
    problem = "score_importance has the argument name: write score_importance(qtype, tensor, weights, columns)"
    assert problem in broken.plugins[0].problem


def test_names_in_quantreg_plugins_that_fit_nothing_are_told(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a folder without projects of plugins
    entries = [Entry("A3", "my-dist", lambda: toy.Plugin(toy.make()))]
    for value, unknown in (("My_Dist", []), ("A3,other", ["other"]), ("mydist", ["mydist"])):
        monkeypatch.setenv("QUANTREG_PLUGINS", value)
        assert registry_of(*entries).unknown_limits == unknown
    limited = registry_of(*entries)
    with pytest.raises(quantreg.UnknownTypeError, match=r"TOY3.*\(QUANTREG_PLUGINS=mydist limits the plugins\)"):
        limited.get("TOY3")
    with pytest.raises(quantreg.UnknownTypeError, match=r"Q4_K.*\(QUANTREG_PLUGINS=mydist limits the plugins\)"):
        Types(limited)["Q4_K"]


# ---- hooks ----


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda w: w / None, PluginError, "careless of careless-dist: score_importance failed: TypeError"),
        (lambda w: "many", PluginError, "t, score_importance failed: ValueError"),
        (
            lambda w: np.full_like(w, np.nan),
            NonFiniteError,
            "t: score_importance of plugin careless of careless-dist returned NaN, inf",
        ),
        (
            lambda w: -np.abs(w),
            NonFiniteError,
            "t: score_importance of plugin careless of careless-dist returned NaN, inf",
        ),
    ],
)
def test_a_scorer_that_fails_is_named_with_its_tensor(answer, error, message):
    def score_importance(weights):
        return answer(weights)

    with installed(score_importance=score_importance), pytest.raises(error, match=message):
        quantreg.quantize(X, "Q4_K", COLUMNS, tensor="t")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            lambda candidate, chosen: 1 / 0,
            "rule <lambda> of file type MINE failed: ZeroDivisionError: division by zero",
        ),
        (lambda candidate, chosen: "Q4_K", "returned 'Q4_K', expected a quantreg.recipes.Choice or None"),
    ],
)
def test_a_rule_that_fails_is_named_with_its_tensor(rule, message, model):
    mine = FileType("MINE", None, "Q4_K", "mine", rules=(rule,))
    with installed(register_recipes=lambda register: register(mine)), pytest.raises(PlanError, match=message) as raised:
        quantreg.plan(model, "MINE")
    assert str(raised.value).startswith("output.weight: rule ")


def test_a_failing_register_recipes_disables_only_itself_and_is_told(run, model):
    with installed(register_recipes=lambda register: 1 / 0):
        code, _, err = run("quantize", model, "MINE_M")
        assert code == 1
        assert "plugin careless of careless-dist: register_recipes: ZeroDivisionError: division by zero" in err
        assert "Q4_K_M" in file_types
        assert "register_recipes: ZeroDivisionError" in run("plugins")[2]
        with pytest.raises(UnknownFileTypeError, match="careless-dist"):
            file_types["MINE_M"]


def test_a_recipe_with_the_name_of_another_type_is_refused_and_told(run):
    new = FileType("Q8_K", None, "Q4_K", "")
    with installed(register_recipes=lambda register: register(new)):
        assert "Q8_K" not in file_types
        assert "file type Q8_K: 'Q8_K' is the name of a type, but the file type uses Q4_K" in run("plugins")[2]


def test_a_failing_register_commands_disables_only_itself_and_is_told(run):
    with installed(register_commands=lambda cli: 1 / 0):
        assert run("--help")[0] == 0
        code, _, err = run("greet")
        assert code == 2
        assert "No such command 'greet'" in err
        assert "plugin careless of careless-dist: register_commands: ZeroDivisionError" in " ".join(err.split())
        assert "register_commands: ZeroDivisionError" in run("plugins")[2]


@pytest.mark.parametrize("name", ["inspect", "greet"])
def test_a_subcommand_that_is_taken_is_told_and_the_first_stays(name, run):
    def adds(text):
        return lambda cli: cli.add_command(click.Command(name, callback=lambda: click.echo(text)))

    with installed(register_commands=adds("second")):
        if name == "inspect":
            assert "the command 'inspect' already exists: choose another name" in run("plugins")[2]
            assert "FILE" in run("inspect", "--help")[1]
            return
        module = ModuleType("first")
        module.register_commands = hookimpl(adds("first"))
        with registered(module):
            assert "the command 'greet' already exists: choose another name" in run("plugins")[2]
            assert run("greet")[1] == "second\n"  # it was there first
        assert run("greet")[1] == "second\n"
