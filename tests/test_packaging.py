"""What people install: the version, the wheels, the workflows and the lint before a commit agree with each other."""

import ast
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import quantreg

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, WHEELS = SETTINGS["project"], SETTINGS["tool"]["cibuildwheel"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_version_stands_in_one_place():
    assert quantreg.__version__ == metadata.version("quantreg") == PROJECT["version"]
    assert "version:" not in (ROOT / "meson.build").read_text().split(")")[0].replace("meson_version:", "")
    assigned = [
        target.id
        for node in ast.walk(ast.parse((ROOT / "quantreg" / "__init__.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert "__version__" not in assigned


def test_wheels_are_built_for_the_versions_of_python_that_are_named():
    named = set(re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])))
    built = {f"3.{minor}" for minor in re.findall(r"cp3(\d+)-", " ".join(WHEELS["build"]))}
    assert named == built
    assert PROJECT["requires-python"] == ">=" + min(named, key=lambda version: int(version.split(".")[1]))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_a_commit(path):
    """A tag can be moved to other code."""
    used = re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8"))
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_files_that_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?:tests/\w+\.py|\.ci/\w+|docs/\w+\.md)", text):
        assert (ROOT / name).exists(), name


def test_the_lint_before_a_commit_is_that_of_the_gate():
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    for tool in ("ruff", "cython-lint"):
        version = re.search(rf"\b{tool}==([\d.]+)", gate)[1]
        assert set(re.findall(rf"\b{tool}==([\d.]+)", hooks)) == {version}
