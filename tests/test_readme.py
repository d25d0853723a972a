"""The README shows what is true: its table of types, its Python, its commands."""

import os
import re
from pathlib import Path

import quantreg
from quantreg import cli, types

README = (Path(__file__).parent.parent / "README.md").read_text()


def types_table():
    """The table of types as the README shows it."""
    rows = ["| type | id | block | bytes | bits per weight | smaller than F32 | falls back to | needs imatrix |"]
    rows.append("|---|---:|---:|---:|---:|---:|---|---|")
    for t in map(types.get, types):
        bits = f"{t.bits_per_weight:.4f}".rstrip("0").rstrip(".")
        cells = [t.name, t.type_id, t.block_size, t.type_size, bits, f"{t.compression_ratio:.2f}x", t.fallback or ""]
        rows.append("| " + " | ".join(map(str, [*cells, "yes" if t.requires_importance else ""])) + " |")
    return "\n".join(rows)


def test_the_table_of_types_is_the_registrys():
    shown = re.search(r"<!-- types: begin -->\n(.*?)\n?<!-- types: end -->", README, re.DOTALL)[1]
    assert shown == types_table(), f"put this into README.md:\n{types_table()}"


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    exec(compile(example, "README.md", "exec"), {})
    assert "4.5 " in capsys.readouterr().out
    assert sorted(os.listdir()) == ["tiny-q4.gguf", "tiny.gguf"]


def test_every_subcommand_is_listed_and_every_listed_one_exists():
    rows = re.findall(r"^\| (`quantreg .*?) \|", README, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`quantreg ([a-z-]+)", row)}
    assert listed == set(cli.COMMANDS)


def test_the_public_names_exist():
    for name in quantreg.__all__:
        assert getattr(quantreg, name) is not None
