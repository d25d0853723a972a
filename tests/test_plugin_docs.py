"""The documentation of the hooks against the code, and the tutorial as a new user would follow it."""

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest
import scratch as scratch_environment
from documents import DOCS, blocks, file_in

import quantreg
from quantreg import hookspecs
from quantreg.evaluation.demo import make_model

HOOKS = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "quantreg_spec")}


def test_every_hook_is_documented_with_its_signature():
    found = {}
    for block in blocks("hooks.md"):
        if block.language == "python" and block.title is None:
            (function,) = ast.parse(block.text).body
            found[function.name] = [argument.arg for argument in function.args.args]
    assert found == {name: list(inspect.signature(spec).parameters) for name, spec in HOOKS.items()}
    headings = re.findall(r"^## (\w+)$", (DOCS / "hooks.md").read_text(), re.M)
    assert headings == list(HOOKS)


def test_the_importance_hook_is_documented_as_giving_the_first_result():
    first = {name for name, spec in HOOKS.items() if spec.quantreg_spec["firstresult"]}
    text = (DOCS / "hooks.md").read_text()
    told = {name for name in HOOKS if "the first result" in text.split(f"## {name}\n")[1].split("\n## ")[0]}
    assert first == told == {"score_importance"}


def test_a_file_type_of_ones_own_in_a_few_lines(tmp_path, monkeypatch):
    """`MY_Q4` in docs/hooks.md: it runs as it stands, and differs from Q4_K_M by its rule alone."""
    monkeypatch.chdir(tmp_path)
    make_model("model-f16.gguf", n_layer=2, n_vocab=64)
    text = file_in("hooks.md", "my_q4.py")
    assert len([line for line in text.splitlines() if line]) <= 5
    exec(text, {})
    base = quantreg.plan("model-f16.gguf", "Q4_K_M")
    with quantreg.open("model-my-q4.gguf") as mine:
        changed = {name: mine[name].type_name for name in mine if mine[name].type_name != base[name].to_type}
    assert changed == {f"blk.{i}.ffn_up.weight": "Q5_K" for i in range(2)}


def test_links_between_the_documents_lead_somewhere():
    root = DOCS.parent
    for path in (root / "plugins" / "README.md", DOCS / "tutorial.md", DOCS / "hooks.md", DOCS / "lanes.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert link.startswith("https://") or (path.parent / link).exists(), f"{path}: {link}"


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs(tmp_path_factory, tmp_path):
    scratch = scratch_environment.shared(tmp_path_factory)
    shown = {}
    for block in blocks("tutorial.md"):
        if block.title:
            assert (tmp_path / block.title).parent.is_dir(), f"{block.title} is no file of a folder made before"
            (tmp_path / block.title).write_text(block.text)
        elif block.language == "sh":
            for line in block.text.splitlines():
                command = line.partition("  #")[0].strip()
                if command:
                    output = shown[command] = run(scratch, command, tmp_path)
        elif block.language == "text":
            if " -f " in command:  # the second table; its figures are sums in the order of the machine's BLAS
                output = output.partition("\n\n")[2]
                assert close(figures(block.text), figures(output)), command
            else:
                assert figures(block.text) == figures(output), command
    first, second = (
        next(line.split() for line in text.splitlines() if line.startswith("ROW_Q3"))
        for command, text in shown.items()
        if command.startswith("quantreg evaluate") and "--html" not in command and " -f " not in command
    )
    assert first[1:7] == second[1:7]  # bits per weight and errors, in NumPy and compiled
    assert "passed  twin" in shown["quantreg plugins check --quick ROW_Q3"]
    codec = tmp_path / "row-q3-cython" / "row_q3_cython" / "_row_q3.pyx"  # installed with -e: compiled again at import
    codec.write_text(codec.read_text() + "\nCHANGED = 'yes'\n")
    shows = "python -c 'import row_q3_cython._row_q3_base as codec; print(codec.CHANGED)'"
    assert run(scratch, shows, tmp_path).splitlines()[-1] == "yes"
    with quantreg.open(tmp_path / "back.gguf") as back:  # decoded, so that any engine reads it
        assert {tensor.type_name for tensor in back.values()} == {"F16", "F32"}
    page = (tmp_path / "curve.html").read_text()
    assert set(re.findall(r'<circle class="new"[^>]*><title>(\w+):', page)) == {"ROW_Q3"}


def figures(table):
    """The columns of a table of `quantreg evaluate` that do not depend on the machine."""
    return [line.split()[:7] for line in table.splitlines()]


def close(shown, found):
    """Whether two tables are the same to 0.5 %, and the shares in them to half a point."""

    def same(a, b):
        if a == b or not all(re.fullmatch(r"[\d.]+%?", text) for text in (a, b)):
            return a == b
        one, other = (float(text.rstrip("%")) for text in (a, b))
        return one == pytest.approx(other, rel=5e-3, abs=0.5 if a.endswith("%") else 2e-5)

    return [len(row) for row in shown] == [len(row) for row in found] and all(
        same(a, b) for row, other in zip(shown, found, strict=True) for a, b in zip(row, other, strict=True)
    )


def test_the_tutorial_installs_what_it_calls():
    ready = {"quantreg", "pip", "python"}
    for block in blocks("tutorial.md"):
        for line in block.text.splitlines() if block.language == "sh" else ():
            program, *args = shlex.split(line, comments=True) or ["pip"]
            assert program in ready, f"{line}: install {program} first"
            if program == "pip" and any("[test]" in arg for arg in args):
                ready.add("pytest")  # the extra of a new plugin
    for kind in ("python", "cython", "recipe", "hook"):
        template = DOCS.parent / "quantreg" / "scaffold" / "_templates" / kind
        assert re.search(r'^test = \["pytest"\]$', (template / "pyproject.toml").read_text(), re.M)
        assert ".[test]" in (template / "README.md").read_text()


def run(scratch, command, folder):
    """A command of the tutorial, in the scratch environment: quantreg, pip, python and pytest are its own."""
    program, *args = shlex.split(command)
    module = {"quantreg": ["-m", "quantreg"], "pip": ["-m", "pip"], "pytest": ["-m", "pytest"], "python": []}[program]
    if program == "pip":
        args += ["-q", "--disable-pip-version-check"]
    return scratch.run(*module, *args, plugins="row-q3,row-q3-cython", cwd=folder, check=True).stdout


def test_the_tutorial_shows_only_what_the_test_can_run():
    for block in blocks("tutorial.md"):
        assert block.title or block.language in ("sh", "text"), block.text
    assert not re.search(r"^ {4}(quantreg|pip) ", (DOCS / "tutorial.md").read_text(), re.M)
    assert Path(DOCS / "tutorial.md").stat().st_size < 20000
