"""docs/pytorch.md: its examples run and print what the page shows."""

import contextlib
import io

import pytest
from documents import blocks, file_in
from published import write_llama

import quantreg

pytest.importorskip("torch", reason="torch is not installed: pip install torch")

EXAMPLES = [block.title for block in blocks("pytorch.md") if block.language == "python"]
TRANSFORMERS = "load.py"  # needs a folder, and prints nothing


def test_each_example_has_a_title():
    assert len(EXAMPLES) == 4
    assert all(EXAMPLES)


@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_the_example_with_transformers_loads_every_tensor(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(tmp_path)
    quantreg.quantize_file(write_llama(tmp_path / "Small-Llama"), "model-Q4_K_M.gguf", "Q4_K_M")
    names = {}
    exec(compile(file_in("pytorch.md", TRANSFORMERS), TRANSFORMERS, "exec"), names)
    linear = [module for module in names["model"].modules() if isinstance(module, quantreg.torch.QuantLinear)]
    assert len(linear) == 2 * 7 + 1


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != TRANSFORMERS])
def test_an_example_prints_what_the_page_shows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(file_in("pytorch.md", name), name, "exec"), {})
    assert printed.getvalue() == file_in("pytorch.md", f"{name} prints")
