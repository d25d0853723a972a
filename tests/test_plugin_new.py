"""`quantreg plugins new` and `check`: what is written, and what is said about names that cannot be used."""

import json
import re
from pathlib import Path

import pytest
import toy

from quantreg import OutputError, PluginError, cli, types
from quantreg.registry import registry
from quantreg.scaffold import free_type_id, new_plugin
from quantreg.testing import CHECKS

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"


@pytest.fixture
def run(capsys):
    def call(*args):
        code = cli.main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


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
    for family in PLUGINS.glob("*/meson.build"):
        text = re.sub(r" *if not import.*\n *continue.*\n *endif\n", "", family.read_text())
        assert ours.splitlines()[2:] == text.splitlines()[2:], family


def test_a_free_id_is_1000_and_up_and_nobodys(monkeypatch):
    first = free_type_id("MY_Q3")
    assert 1000 <= first < 2**16
    assert free_type_id("MY_Q3") == first
    plugin = toy.Plugin(toy.make(type_id=first))
    registry.register_plugin(plugin)
    try:
        assert free_type_id("MY_Q3") == first + 1
    finally:
        registry.unregister_plugin(plugin)


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
        ("link", OutputError, "exists already"),
    ],
)
def test_a_name_that_cannot_be_used_is_told(name, error, message, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(error, match=message):
        new_plugin(name, tmp_path)


def test_an_id_that_is_taken_is_told(run, tmp_path):
    plugin = toy.Plugin(toy.make())
    registry.register_plugin(plugin)
    try:
        code, _, err = run("plugins", "new", "my-q3", "--id", "4203", "--in", tmp_path)
    finally:
        registry.unregister_plugin(plugin)
    assert code == 1
    assert "id 4203 is taken by TOY3: choose another, or leave it out to get a free one" in err
    assert run("plugins", "new", "my-q3", "--id", "12", "--in", tmp_path)[0] == 2


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
    plugin = toy.Plugin(toy.make(decode=lambda blocks: toy.decode(blocks) + 1))
    registry.register_plugin(plugin)
    try:
        code, out, _ = run("plugins", "check", "TOY3", "--quick")
    finally:
        registry.unregister_plugin(plugin)
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
