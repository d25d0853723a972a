"""The README and docs/types.md show what is true: the table of types, the sizes of a 7 B model, Python, commands."""

import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import quantreg
from quantreg import cli, types
from quantreg.gguf import TensorInfo
from quantreg.recipes import plan_header
from quantreg.recipes.catalog import architectures

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TYPES = (ROOT / "docs" / "types.md").read_text()
COMMANDS = (ROOT / "docs" / "commands.md").read_text()


def types_table():
    """The table of types as docs/types.md shows it."""
    rows = ["| type | id | block | bytes | bits per weight | smaller than F32 | falls back to | needs imatrix |"]
    rows.append("|---|---:|---:|---:|---:|---:|---|---|")
    for t in map(types.get, types):
        bits = f"{t.bits_per_weight:.4f}".rstrip("0").rstrip(".")
        cells = [t.name, t.type_id, t.block_size, t.type_size, bits, f"{t.compression_ratio:.2f}x", t.fallback or ""]
        rows.append("| " + " | ".join(map(str, [*cells, "yes" if t.requires_importance else ""])) + " |")
    return "\n".join(rows)


def test_the_table_of_types_is_the_registrys():
    shown = re.search(r"<!-- types: begin -->\n(.*?)\n?<!-- types: end -->", TYPES, re.DOTALL)[1]
    assert shown == types_table(), f"put this into docs/types.md:\n{types_table()}"


def architectures_table():
    """The architectures that run, as docs/architectures.md shows them."""
    rows = ["| `general.architecture` | models | |", "|---|---|---|"]
    for found in sorted(architectures.values(), key=lambda found: found.name):
        if found.graph is not None:
            kind = "" if found.graph.generates else "embeddings"
            rows.append(f"| `{found.name}` | {found.description} | {kind} |")
    return "\n".join(rows)


def test_the_table_of_architectures_is_the_registrys():
    page = (ROOT / "docs" / "architectures.md").read_text()
    shown = re.search(r"<!-- architectures: begin -->\n(.*?)\n?<!-- architectures: end -->", page, re.DOTALL)[1]
    assert shown == architectures_table(), f"put this into docs/architectures.md:\n{architectures_table()}"
    count = len(architectures_table().splitlines()) - 2
    assert f"models of [{count} architectures](docs/architectures.md)" in README


def llama_7b():
    """The header of Llama 2 7B in F16: what the sizes of a "7 B model" are of."""
    width, hidden = 4096, 11008
    dims = {"token_embd": (width, 32000), "output": (width, 32000), "output_norm": (width,)}
    for i in range(32):
        dims |= {f"blk.{i}.attn_{part}": (width, width) for part in ("q", "k", "v", "output")}
        dims |= {f"blk.{i}.{part}_norm": (width,) for part in ("attn", "ffn")}
        dims |= {f"blk.{i}.ffn_gate": (width, hidden), f"blk.{i}.ffn_up": (width, hidden)}
        dims |= {f"blk.{i}.ffn_down": (hidden, width)}
    tensors = [
        TensorInfo(f"{name}.weight", d, 1, "F16", 0, 2 * math.prod(d), 2 * d[0], True) for name, d in dims.items()
    ]
    heads = {"llama.attention.head_count": 32, "llama.attention.head_count_kv": 32}
    metadata = {"general.architecture": "llama", "llama.block_count": 32, **heads}
    return SimpleNamespace(metadata=metadata, tensors=tensors)


def test_the_sizes_of_a_7b_model_are_the_recipes():
    section = README.partition("## Which type to pick")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) GB \|", section, re.MULTILINE)
    assert len(rows) >= 6
    for file_type, size in rows:
        assert f"{plan_header(llama_7b(), file_type, check=False).bytes / 1e9:.2f}" == size, file_type


def test_the_readme_is_short():
    assert len(README.split()) <= 1200


def test_every_link_of_the_readme_and_the_pages_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]*)", page.read_text()):
            assert not target or (page.parent / target).exists(), f"{page}: {target}"


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    exec(compile(example, "README.md", "exec"), {})
    assert "4.5 " in capsys.readouterr().out
    assert sorted(os.listdir()) == ["tiny-q4.gguf", "tiny.gguf"]


def test_every_subcommand_is_listed_and_every_listed_one_exists():
    rows = re.findall(r"^\| (`quantreg .*?) \|", COMMANDS, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`quantreg ([a-z-]+)", row)}
    assert listed == set(cli.COMMANDS)
    told = README.partition("## The command line")[2].partition("\n## ")[0]
    shown = set(re.findall(r"^    \$? ?quantreg ([a-z-]+)", README, re.MULTILINE))
    assert set(re.findall(r"`([a-z-]+)`", told)) | shown == set(cli.COMMANDS)


def test_the_public_names_exist():
    for name in quantreg.__all__:
        assert getattr(quantreg, name) is not None
