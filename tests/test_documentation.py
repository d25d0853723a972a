"""Each code block of the documentation runs: here, as it stands, or in the test that a table names.

A page here gets a folder with small models under the names that the pages use. Each block starts from a copy of it.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from documents import DOCS, ROOT, blocks, file_in, indented, pages
from published import write_llama
from safetensors_files import save

import quantreg
from quantreg.evaluation.demo import make_model

# (page, language, title) of blocks that another test runs, and the test. A title of None stands for all without one.
ELSEWHERE = {
    ("../CONTRIBUTING.md", "sh", None): ".ci/run",
    ("checkpoints.md", "python", "my_checkpoint.py"): "tests/test_third_party_checkpoint.py",
    ("fitted.md", "python", "cb3.py"): "tests/test_fitting.py",
    ("hooks.md", "python", None): "tests/test_plugin_docs.py",
    ("hooks.md", "python", "my_hooks.py"): "tests/support/toy_plugins.py",
    ("hooks.md", "python", "my_image_model.py"): "tests/test_image_models.py",
    ("hooks.md", "python", "my_language_model.py"): "tests/test_third_party_architecture.py",
    ("hooks.md", "python", "my_q4.py"): "tests/test_plugin_docs.py",
    ("hooks.md", "toml", None): "tests/test_documentation.py",  # test_the_entry_point_is_that_of_a_new_plugin
    ("lanes.md", "cython", None): "tests/test_lanes_doc.py",
    ("pytorch.md", "python", "layer.py"): "tests/test_torch_doc.py",
    ("pytorch.md", "python", "load.py"): "tests/test_torch_doc.py",
    ("pytorch.md", "python", "model.py"): "tests/test_torch_doc.py",
    ("pytorch.md", "python", "state.py"): "tests/test_torch_doc.py",
    ("tuning.md", "python", "feedback.py"): "tests/test_tuning_doc.py",
    ("tutorial.md", "cython", "row-q3-cython/row_q3_cython/_row_q3.pyx"): "tests/test_plugin_docs.py",
    ("tutorial.md", "python", "row-q3/row_q3/row_q3.py"): "tests/test_plugin_docs.py",
    ("tutorial.md", "sh", None): "tests/test_plugin_docs.py",
    ("tutorial.md", "text", None): "tests/test_plugin_docs.py",
}
# Commands that the gate carries out: it builds and installs the wheel, and .ci/torch installs the extra.
INSTALLS = ("pip install .", "pip install torch")
# Blocks that show something and run nothing: page -> how each of them begins.
SHOWN = {
    "architecture.md": ["                 recipes                     jobs"],
    "checkpoints.md": ["$ quantreg export SmolLM2-135M-Instruct"],  # a session with a real model
    "comparison.md": [  # other programs
        "llama-quantize model-f16.gguf",
        "llama-quantize --imatrix",
        "cat convert_hf_to_gguf.py",
        "llama-quantize model-f16.gguf out.gguf Q4_K_M & sleep",
    ],
    "first-model.md": ["pip install huggingface_hub"],  # from the network
    "lanes.md": ["    memory"],
    "performance.md": ["    seconds = start", "    peak = base", "    output = header"],
    # tests/test_selfcheck.py runs the first, and the gate builds a wheel; only the workflow runs cibuildwheel.
    "platforms.md": ["    python -P -m quantreg.testing", "    pip wheel"],
    "publishing.md": ["hf upload"],
    "tuning.md": ["    KL of the whole file", "    W + a W"],
    "../plugins/README.md": ["    kquants/\n      pyproject.toml"],
}
# What a block needs that the page leaves to the reader.
PRELUDE = {
    "fitted.md": 'import numpy as np, quantreg\nx = np.random.default_rng(0).standard_normal((64, 512), "f")\n',
    "tuning.md": 'import quantreg\ntext = open("text.txt").read()\n',
}
# Text of the pages -> what suits the small models and this machine.
SMALL = {
    "4.2GB": "0.3MB",
    'Client("scheduler:8786")': 'Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")',
    "chunks 60": "chunks 2",
}
OTHERS = ("gguf", "libgguf", "dask")  # a block that imports one of these is skipped where it is not installed


def here():
    """The blocks that run here, as (page, number of the block, block)."""
    for page in pages():
        for number, block in enumerate(blocks(page)):
            runs = block.language in ("sh", "python") and (page, block.language, block.title) not in ELSEWHERE
            if runs and (block.language, block.text.strip()) not in [("sh", line) for line in INSTALLS]:
                yield page, number, block


BLOCKS = list(here())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small models, texts and importance matrices under the names of the pages."""
    home = tmp_path_factory.mktemp("documentation")
    make_model(home / "model-f16.gguf", n_layer=1, n_embd=256, n_ff=512, n_vocab=320)
    (home / "model-folder").mkdir()
    for name in ("model-F16.gguf", "model.gguf", "model-folder/model.gguf"):
        shutil.copy(home / "model-f16.gguf", home / name)
    quantreg.quantize_file(home / "model-f16.gguf", home / "model-Q4_K_M.gguf", "Q4_K_M")
    words = (DOCS / "architecture.md").read_text("utf-8").encode("ascii", "ignore").decode()
    for name in ("text.txt", "held-out.txt"):
        (home / name).write_text(words[:6000])
    (home / "calibration.txt").write_text(words[: 512 * 42])
    with quantreg.load(home / "model-f16.gguf") as model:
        quantreg.collect_imatrix(model, words[:1500], out=home / "imatrix.gguf", chunks=2)
    for name in ("code.gguf", "prose.gguf"):
        shutil.copy(home / "imatrix.gguf", home / name)
    matrix = quantreg.ImportanceMatrix.combined([home / "imatrix.gguf"])
    matrix.write(home / "imatrix.dat")
    quantreg.quantize_files(home / "model-f16.gguf", home / "other-{type}.gguf", ["Q8_0"], card=home / "README.md")
    write_llama(home / "Qwen3-0.6B")
    names = ("double_blocks.0.img_attn.proj.weight", "double_blocks.0.img_mlp.0.weight")
    save(home / "flux1-dev.safetensors", {name: np.ones((8, 256), np.float32) for name in names})
    return home


def environment(site=None):
    """The environment of a block: the programs of this Python, and plugins of a folder."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("QUANTREG_")}
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    environ["PYTHONSAFEPATH"] = "1"
    return environ | ({"PYTHONPATH": str(site)} if site else {})


def outputs(text):
    """The names of files that a block writes: they must not be there before."""
    found = {name for name in re.findall(r"(?:-o |out=\")([\w.-]+)", text) if f"--in-file {name}" not in text}
    found.update(re.findall(r"--card (\S+)", text), re.findall(r'card="([^"]+)"', text))
    several = re.findall(r"[\w.-]*\{type\}[\w.-]*", text)
    found.update(name.replace("{type}", "Q4_K_M") for name in several)
    for line in re.split(r"[;\n]", text):
        if re.search(r"quantize|convert", line):
            line = re.sub(r"--imatrix \S+", "", line)
            models = re.findall(r"[\w.$/-]+(?:\.gguf|\.safetensors|/(?= ))", line)
            found.update(re.sub(r"\$\w+", "Q4_K_M", name) for name in models[1:2])
    return found


def program(page, number, block):
    """The text of a block that this machine can run, with the blocks of the page on which it builds."""
    text = block.text
    if block.language == "python":
        titled = [one.text for one in blocks(page)[:number] if one.language == "python" and one.title == "arrays.py"]
        text = PRELUDE.get(page, "") + "".join(titled) + text
    for shown, small in SMALL.items():
        text = text.replace(shown, small)
    return text


@pytest.mark.skipif(os.name == "nt", reason="the blocks are for a POSIX shell")
@pytest.mark.parametrize(("page", "number", "block"), BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS])
def test_a_block_runs(page, number, block, folder, tmp_path):
    text = program(page, number, block)
    for name in OTHERS:
        if re.search(rf"^(?:import|from) {name}\b", text, re.M):
            pytest.importorskip(name)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in outputs(text):
        (tmp_path / name).unlink(missing_ok=True)
    site = tmp_path / "site"
    if page == "fitted.md":
        install(site, "cb3", file_in(page, "cb3.py"))
    if block.language == "python":
        command = [sys.executable, "-P", "-c", text]
    else:
        command = ["bash", "-euo", "pipefail", "-c", text]
        if page == "../plugins/README.md":  # each line is one of several things to do
            command[-1] = "\n".join(
                f"(mkdir {i}; cd {i}; {command_of(line)})" for i, line in enumerate(text.splitlines())
            )
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(site if site.is_dir() else None), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{page}:\n{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    for name in outputs(text):
        assert (tmp_path / name).exists(), f"{page} shows a command that writes {name}"


def command_of(line):
    return line.partition("  #")[0]


def readme_commands():
    """The commands that README.md shows, except those of the new plugin, which the tutorial's test runs."""
    lines = re.findall(r"^    (?:\$ )?(quantreg .*)$", (ROOT / "README.md").read_text("utf-8"), re.M)
    return [command_of(line).strip() for line in lines if "plugins" not in line and "MY_Q3" not in line]


@pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")
@pytest.mark.parametrize("command", readme_commands())
def test_a_command_of_the_readme_runs(command, folder, tmp_path):
    for shown, small in SMALL.items():
        command = command.replace(shown, small)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in outputs(command):
        (tmp_path / name).unlink(missing_ok=True)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr[-4000:]}"
    for name in outputs(command):
        assert (tmp_path / name).exists(), name


def install(site, name, text):
    """A distribution with one plugin module, for a Python whose path has the folder."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[quantreg]\n{name} = {name}\n")


def test_each_block_that_does_not_run_here_is_listed_with_what_runs_it():
    running = {(page, number) for page, number, _ in BLOCKS}
    used = set()
    for page in pages():
        begins = SHOWN.get(page, [])
        for number, block in enumerate(blocks(page)):
            key = (page, block.language, block.title)
            if (page, number) in running or block.text.strip() in INSTALLS:
                continue
            if block.title and block.title.endswith(" prints"):  # the test that runs the block compares
                assert any(one.title == block.title.removesuffix(" prints") for one in blocks(page)), block
            elif key in ELSEWHERE:
                used.add(key)
            else:
                assert block.language in ("", "text", "console"), f"{page}: nothing runs this block:\n{block.text}"
                assert block.text.startswith(tuple(begins)), f"{page}: an unknown block:\n{block.text}"
    assert used | {("../CONTRIBUTING.md", "sh", None)} >= set(ELSEWHERE), set(ELSEWHERE) - used


def test_the_tests_that_the_table_names_read_the_page():
    for (page, _, title), test in ELSEWHERE.items():
        text = (ROOT / test).read_text("utf-8")
        if test != ".ci/run":
            assert f'"{page}"' in text, f"{test} does not read {page}"
        if title and "block.title" not in text:  # not one that runs all titled blocks
            assert f'"{title}"' in text, f"{test} does not run {title}"


def test_an_indented_block_is_a_drawing_or_a_formula_that_is_listed():
    """What runs stands between fences with its language, so that the test above finds it."""
    for page in pages():
        if page != "../CONTRIBUTING.md":
            unknown = [block for block in indented(page) if not block.startswith(tuple(SHOWN.get(page, ())))]
            assert not unknown, f"{page}: {unknown}"


def test_the_entry_point_is_that_of_a_new_plugin(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("plugins", "new", "my-q3")[0] == 0
    (shown,) = (block.text for block in blocks("hooks.md") if block.language == "toml")
    assert shown in Path("my-q3/pyproject.toml").read_text("utf-8")


def test_every_public_name_has_its_place_on_the_page_of_the_python_interface():
    listed = re.findall(r"^- `quantreg\.(\w+)`$", (DOCS / "api.md").read_text("utf-8"), re.M)
    assert sorted(set(listed)) == sorted(listed), "a name is listed twice"
    assert set(listed) >= {*quantreg.__all__} - {"__version__"}
    assert all(hasattr(quantreg, name) for name in listed)


def test_the_page_that_compares_counts_the_types_of_each_package():
    pytest.importorskip("gguf")
    pytest.importorskip("libgguf")
    page = (DOCS / "comparison.md").read_text("utf-8")
    programs = {one.title: one.text for one in blocks("comparison.md") if (one.title or "").startswith("types_")}
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in page.splitlines() if line[:1] == "|"}
    cells = [
        [cell.split()[0].rstrip(":") for cell in lines[f"types that it {does}"]] for does in ("encodes", "decodes")
    ]
    for column, name in ((2, "gguf"), (3, "libgguf")):
        told = re.search(rf"\b{name} ([\d.]+\d)", page)[1]
        if version(name) != told:
            pytest.skip(f"the page is about {name} {told}, and this is {version(name)}")
        words = [sys.executable, "-P", "-c", programs[f"types_{name}.py"]]
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        assert [found[0], found[2]] == [row[column] for row in cells], name
    assert cells[0][0] == str(len(quantreg.types))
    assert cells[1][0] == "the"  # same


def test_the_first_page_leads_to_every_page_and_so_does_the_navigation():
    index = (DOCS / "index.md").read_text("utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for path in DOCS.glob("*.md"):
        assert f"({path.name})" in index or path.name == "index.md", path.name
        assert f": {path.name}\n" in navigation, path.name
    assert "(docs/index.md)" in (ROOT / "README.md").read_text("utf-8")
