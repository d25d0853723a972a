"""PyTorch is optional: nothing but quantreg.torch loads it, and that says what to install."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def python(code):
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)


def test_import_quantreg_and_its_names_load_no_torch():
    done = python(
        "import sys, quantreg\n"
        "assert 'torch' not in sys.modules\n"
        "for name in quantreg.__all__: getattr(quantreg, name)\n"
        "import quantreg.cli\n"
        "print('torch' in sys.modules, 'quantreg.torch' in sys.modules)"
    )
    assert done.stdout == "False False\n", done.stderr


def test_without_torch_quantreg_torch_says_what_to_install():
    done = python("import sys; sys.modules['torch'] = None; import quantreg.torch")
    assert "ModuleNotFoundError: quantreg.torch needs PyTorch, which is not installed: pip install torch" in (
        done.stderr
    )


def test_only_the_rooms_for_it_import_torch():
    for path in (ROOT / "quantreg").rglob("*.py"):
        if path.relative_to(ROOT / "quantreg").parts[0] in ("torch", "devices"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torch" for name in names), path
