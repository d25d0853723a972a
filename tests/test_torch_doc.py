"""docs/pytorch.md: its examples run and print what the page shows."""

import contextlib
import io

import pytest
from documents import blocks, file_in

pytest.importorskip("torch", reason="torch is not installed: pip install 'quantreg[torch]'")

EXAMPLES = [block.title for block in blocks("pytorch.md") if block.language == "python"]


def test_each_example_has_a_title():
    assert len(EXAMPLES) == 3
    assert all(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_the_page_shows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(file_in("pytorch.md", name), name, "exec"), {})
    assert printed.getvalue() == file_in("pytorch.md", f"{name} prints")
