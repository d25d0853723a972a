"""`quantreg plugins new` and `check`: what is written, and what is said about names that cannot be used."""

import json
import re
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
import toy
from entries import registered
from links import needs_links

from quantreg import OutputError, PluginError, types
from quantreg.recipes import file_types
from quantreg.scaffold import free_type_id, new_plugin
from quantreg.testing import CHECKS, check_codec

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"


@pytest.mark.parametrize("kind", ["python", "cython"])
def test_a_new_plugin_carries_its_name_everywhere(kind, tmp_path):
    folder = new_plugin("acme-fp5", tmp_path, kind=kind)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"pyproject.toml", "README.md", "acme_fp5.py", "__init__.py", "test_acme_fp5.py"} <= {f.name for f in files}
    assert ("_acme_fp5.pyx" in {f.name for f in files}) == (kind == "cython")
    text = "\n".join(str(path.relative_to(folder)) + path.read_text() for path in files)
    assert not re.search(r"my.?q3|4242", text, re.IGNORECASE)
    assert f"{free_type_id('ACME_FP5')}" in text


def test_the_build_file_is_that_of_the_built_ins(tmp_path):
    ours = (new_plugin("acme-fp5", tmp_path, kind="cython") / "meson.build").read_text()
    assert ours.splitlines()[1] == "codecs = ['acme_fp5']"
    for family in {*PLUGINS.glob("*/meson.build")} - {
        PLUGINS / name / "meson.build" for name in ("images", "language")
    }:  # no codecs
        text = re.sub(r" *if not import.*\n *continue.*\n *endif\n", "", family.read_text())
        assert ours.splitlines()[2:] == text.splitlines()[2:], family


def test_a_free_id_is_1000_and_up_and_nobodys(monkeypatch):
    first = free_type_id("MY_Q3")
    assert 1000 <= first < 2**16
    assert free_type_id("MY_Q3") == first
    with registered(toy.Plugin(toy.make(type_id=first))):
        assert free_type_id("MY_Q3") == first + 1


def test_the_command_says_how_to_go_on(run, tmp_path, monkeypatch):
    code, out, _ = run("plugins", "new", "my-q3", "--in", tmp_path)
    assert code == 0
    assert f"pip install -e '{tmp_path / 'my-q3'}[test]'" in out
    assert "quantreg plugins check MY_Q3" in out
    assert (tmp_path / "my-q3" / "my_q3" / "my_q3.py").exists()
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("plugins", "new", "my-c3", "--cython", "--id", "5000")
    assert "pip install --no-build-isolation './my-c3[test]'" in out
    assert "type_id=5000" in (tmp_path / "my-c3" / "my_c3" / "my_c3.py").read_text()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("My Q3", PluginError, "use at most 40 lower-case letters, digits and dashes"),
        ("3bits", PluginError, "start with a letter"),
        ("a" * 41, PluginError, "at most 40"),
        ("../up", PluginError, "use at most 40 lower-case letters"),
        ("", PluginError, "use at most 40 lower-case letters"),
        ("q4-k", PluginError, "the type Q4_K with id 12 is already installed: choose another, such as my-q4-k"),
        ("q4-k-m", PluginError, "Q4_K_M is a file type of `quantreg quantize`"),
        ("class", PluginError, "class is a Python keyword"),
        ("json", PluginError, "there is already a Python module json"),
        ("quantreg", PluginError, "there is already a Python module quantreg"),
        ("quantreg-legacy", PluginError, "there is already a Python module quantreg_legacy"),
        ("here", OutputError, "here exists already: choose another name, or remove it"),
        pytest.param("link", OutputError, "exists already", marks=needs_links),
    ],
)
def test_a_name_that_cannot_be_used_is_told(name, error, message, tmp_path):
    (tmp_path / "here").mkdir()
    if name == "link":
        (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(error, match=message):
        new_plugin(name, tmp_path)


def test_an_id_that_is_taken_is_told(run, tmp_path):
    with registered(toy.Plugin(toy.make())):
        code, _, err = run("plugins", "new", "my-q3", "--id", "4203", "--in", tmp_path)
    assert code == 1
    assert "id 4203 is taken by TOY3: choose another, or leave it out to get a free one" in err
    code, _, err = run("plugins", "new", "my-q3", "--id", "12", "--in", tmp_path)
    assert code == 1
    assert "id 12 is taken by Q4_K" in err
    code, _, err = run("plugins", "new", "my-q3", "--id", "31", "--in", tmp_path)
    assert code == 1
    assert "id 31 was that of ggml's Q4_0_4_4, which old files hold" in err
    assert list(tmp_path.iterdir()) == []


def test_an_id_below_1000_is_for_formats_that_have_files_already(run, tmp_path):
    """A fork's formats have such ids, and a plugin for them has to use these."""
    code, _, err = run("plugins", "new", "fork-q3", "--id", "139", "--in", tmp_path)
    assert code == 0
    assert "type_id=139" in (tmp_path / "fork-q3" / "fork_q3" / "fork_q3.py").read_text()
    assert "id 139 is below 1000, where ggml adds types of its own: keep it only if files with this id exist" in err
    assert "warning" not in run("plugins", "new", "my-q3", "--id", "1000", "--in", tmp_path)[2]


@pytest.mark.parametrize("kind", ["python", "cython"])
def test_one_project_may_hold_several_types(kind, tmp_path):
    folder = new_plugin("acme", tmp_path, kind=kind, type_names=("acme-q3", "ACME_X"), type_id=7000)
    assert {p.name for p in (folder / "acme").glob("*.py")} == {"__init__.py", "acme_q3.py", "acme_x.py"}
    assert {p.name for p in (folder / "tests").glob("test_*")} == {"test_acme_q3.py", "test_acme_x.py"}
    entries = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]["quantreg"]
    assert entries == {"ACME_Q3": "acme.acme_q3", "ACME_X": "acme.acme_x"}
    for name, type_id in (("acme_q3", 7000), ("acme_x", 7001)):
        assert f"type_id={type_id}," in (folder / "acme" / f"{name}.py").read_text()
    if kind == "cython":
        assert "codecs = ['acme_q3', 'acme_x']" in (folder / "meson.build").read_text()
    for check in ("plugins check ACME_Q3 ", "plugins check ACME_X "):
        assert check in (folder / "README.md").read_text()


def namespace_of(path):
    found = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_text(), path, "exec"), found)
    return found


@pytest.mark.parametrize(
    ("layout", "bits", "fallback"),
    [
        ({}, 3.5, None),
        ({"block_size": 16}, 4, None),
        ({"block_size": 40}, 3.4, "Q4_0"),
        ({"block_size": 256}, 3.0625, "Q4_0"),
        ({"row_header_size": 4}, 3.25, None),
        ({"row_header_size": 30, "block_size": 64}, 3.125, "Q4_0"),
    ],
)
def test_the_codec_has_the_layout_that_was_asked_for(layout, bits, fallback, tmp_path):
    qtype = namespace_of(new_plugin("acme-fp5", tmp_path, **layout) / "acme_fp5" / "acme_fp5.py")["ACME_FP5"]
    assert qtype.block_size == layout.get("block_size", 32)
    assert qtype.row_header_size == layout.get("row_header_size", 0)
    assert qtype.bits_per_weight == bits
    assert qtype.fallback == fallback
    assert f"{bits:g} bits per weight" in (tmp_path / "acme-fp5" / "acme_fp5" / "acme_fp5.py").read_text()
    assert check_codec(qtype, raises=False).failures == ()


def test_the_compiled_codec_names_the_same_layout(tmp_path):
    folder = new_plugin("acme-fp5", tmp_path, kind="cython", block_size=64, row_header_size=6) / "acme_fp5"
    assert "block_size=64,\n    type_size=25,\n    row_header_size=6,\n" in (folder / "acme_fp5.py").read_text()
    assert "HEADER = 6\n    BLOCK = 64\n    BYTES = 25\n" in (folder / "_acme_fp5.pyx").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--block", "12"],
            "--block 12: the template packs 8 weights into 3 bytes, so use a multiple of 8 from 16 to 256",
        ),
        (["--block", "512"], "use a multiple of 8 from 16 to 256"),
        (["--row-header", "2"], "--row-header 2: the template keeps a float32 in the header, so use 4 to 4096 bytes"),
        (["--recipe", "--id", "5000"], "--id is for projects with types, and a recipe has none: leave it out"),
        (["--hook", "--block", "64"], "--block is for projects with types"),
        (["--type", "q4-k"], "the type Q4_K with id 12 is already installed"),
        (["--type", "my-a", "--type", "MY_A"], "the type MY_A is named twice"),
    ],
)
def test_options_that_do_not_go_together_are_told(options, message, run, tmp_path):
    code, _, err = run("plugins", "new", "acme-fp5", "--in", tmp_path, *options)
    assert code == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_the_golden_line_of_the_template_works_when_it_is_uncommented(tmp_path):
    folder = new_plugin("acme-fp5", tmp_path)
    path = folder / "tests" / "test_acme_fp5.py"
    path.write_text(path.read_text().replace("# golden = ", "golden = "))
    assert namespace_of(path)["TestAcmeFp5"].golden == folder / "tests" / "ACME_FP5.npz"


@pytest.fixture
def loaded():
    """Register a module as a plugin for the time of a test."""

    def register(path):
        module = ModuleType(path.stem)
        exec(compile(path.read_text(), path, "exec"), vars(module))
        done.enter_context(registered(module))
        return module

    with ExitStack() as done:
        yield register


def test_a_recipe_is_a_file_type_that_passes_its_tests(loaded, tmp_path):
    folder = new_plugin("my-mix", tmp_path, kind="recipe")
    loaded(folder / "my_mix" / "recipe.py")
    namespace_of(folder / "tests" / "test_recipe.py")["test_the_rules_decide"](tmp_path)
    assert "MY_MIX" in file_types


def test_a_hook_scores_importance_and_passes_its_tests(loaded, tmp_path, monkeypatch):
    folder = new_plugin("my-imp", tmp_path, kind="hook")
    module = loaded(folder / "my_imp" / "importance.py")
    monkeypatch.setitem(sys.modules, "my_imp", module)
    monkeypatch.setitem(sys.modules, "my_imp.importance", module)
    tests = [value for name, value in namespace_of(folder / "tests" / "test_importance.py").items() if "test_" in name]
    assert len(tests) == 2
    for test in tests:
        test()


def test_beside_an_installed_codec_in_numpy_cython_means_its_twin(loaded, run, tmp_path):
    folder = new_plugin("acme-fp5", tmp_path, block_size=64, row_header_size=6)
    code, _, err = run("plugins", "new", "acme-fp5", "--cython", "--in", tmp_path)
    assert code == 1
    assert f"To make its compiled twin, install it first (pip install -e {folder}) and repeat the command" in err
    installed = loaded(folder / "acme_fp5" / "acme_fp5.py").ACME_FP5
    code, out, err = run("plugins", "new", "acme-fp5", "--cython", "--in", tmp_path)
    assert (code, err) == (0, "")
    assert "the type ACME_FP5, the compiled twin of acme_fp5" in out
    package = tmp_path / "acme-fp5-cython" / "acme_fp5_cython"
    plugin, codec = (package / "acme_fp5.py").read_text(), (package / "_acme_fp5.pyx").read_text()
    assert f"type_id={installed.type_id},\n    block_size=64,\n    type_size=25,\n    row_header_size=6,\n" in plugin
    assert "register(ACME_FP5, replace=True)" in plugin
    assert f"TYPE_ID = {installed.type_id}\n    HEADER = 6\n    BLOCK = 64\n    BYTES = 25\n" in codec
    assert "NUMPY_PROJECT" not in plugin + codec + (package.parent / "README.md").read_text()
    code, _, err = run("plugins", "new", "acme-fp5", "--cython", "--id", "5000", "--in", tmp_path)
    assert code == 1
    assert "--id: ACME_FP5 of acme_fp5 is installed, and its compiled twin keeps its id and layout" in err


def test_the_twin_of_another_layout_has_its_loops_and_no_codec_yet(loaded, tmp_path):
    path = new_plugin("acme-fp5", tmp_path) / "acme_fp5" / "acme_fp5.py"
    path.write_text(path.read_text().replace("BLOCK, BYTES = 32, 14", "BLOCK, BYTES = 8, 3"))
    loaded(path)
    package = new_plugin("acme-fp5", tmp_path, kind="cython") / "acme_fp5_cython"
    codec = (package / "_acme_fp5.pyx").read_text()
    assert "    HEADER = 0  # bytes at the start of each row\n    BLOCK = 8  # weights in a block\n" in codec
    assert "cdef void encode_block(" in codec
    assert "lanes" not in codec.replace("docs/lanes.md", "")


def test_check_runs_the_kit(run, tmp_path):
    code, out, _ = run("plugins", "check", "q4_k", "--quick")
    assert code == 0
    assert "passed  guard_pages" in out
    golden = tmp_path / "q4.npz"
    code, out, _ = run("plugins", "check", "Q4_K", "--quick", "--json", "--golden", golden, "--update-golden")
    report = json.loads(out)
    assert (code, report["name"], report["level"], report["ok"]) == (0, "Q4_K", "quick", True)
    assert [check["check"] for check in report["checks"]] == list(CHECKS)
    assert golden.exists()


def test_check_of_a_broken_type_exits_with_1(run):
    with registered(toy.Plugin(toy.make(decode=lambda blocks: toy.decode(blocks) + 1))):
        code, out, _ = run("plugins", "check", "TOY3", "--quick")
    assert code == 1
    assert "failed  zero_rows: a row of zeros comes back as 1" in out


def test_check_says_what_is_wrong_with_its_arguments(run):
    assert run("plugins", "check", "Q4_KK")[0] == 1
    assert run("plugins", "check", "Q4_K", "--update-golden")[0] == 2


def test_the_list_shows_hooks_levels_and_abi(run):
    code, out, _ = run("plugins", "--json")
    assert code == 0
    q4 = next(p for p in json.loads(out) if "Q4_K" in p["types"])
    assert q4["hooks"] == ["register_types", "score_importance"]
    assert q4["cpu_levels"] == list(types["Q4_K"].codec.built)
    assert "base" in q4["cpu_levels"]
    assert q4["abi"] == 1
    line = next(line for line in run("plugins")[1].splitlines() if line.startswith("Q4_K "))
    assert "Q4_K (12)" in line
    assert "score_importance" in line
