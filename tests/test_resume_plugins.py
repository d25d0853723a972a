"""Resumed runs and plugins: no output is a mixture of what two versions of a codec wrote."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_model


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PLUGIN = """
import numpy as np
import quantreg

def encode(rows):
    return np.clip(np.rint(rows * {scale}), -127, 127).astype(np.int8).view(np.uint8)

def decode(blocks):
    return blocks.view(np.int8).astype(np.float32) / {scale}

T = quantreg.QuantType("{name}", type_id={type_id}, block_size=32, type_size=32,
                       codec=lambda: quantreg.PythonCodec(T, encode, decode))

@quantreg.hookimpl
def register_types(register):
    register(T)
"""

HOOK = """
import numpy as np
import quantreg

@quantreg.hookimpl
def score_importance(qtype, tensor, weights, columns):
    return np.full(weights.shape, {scale}, np.float32) if {scale} else None
"""


def install(package, source, version="1.0", extra=None):
    """Install a plugin in ./site, as an editable installation would: the code may change, the version does not."""
    home, info = Path("site", package), Path("site", f"{package}-1.0.dist-info")
    home.mkdir(parents=True, exist_ok=True)
    info.mkdir(exist_ok=True)
    (home / "__init__.py").write_text("")
    (home / "plugin.py").write_text(source)
    for name, data in (extra or {}).items():
        (home / name).write_bytes(data)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[quantreg]\n{package} = {package}.plugin\n")


def in_a_process(body):
    """Run Python code with these plugins; the run of `stop` ends after 10 tensors. Returns what it prints."""
    code = (
        "import quantreg\n"
        "from quantreg.events import TensorDone\n"
        "def stop(event):\n"
        "    if isinstance(event, TensorDone) and event.index == 10: raise KeyboardInterrupt\n"
        "def resume(): quantreg.quantize_file('small.gguf', 'out.gguf', TYPE, resume=True)\n"
        "def begin():\n"
        "    try: quantreg.quantize_file('small.gguf', 'out.gguf', TYPE, resumable=True, progress=stop, threads=2)\n"
        "    except KeyboardInterrupt: pass\n"
        f"TYPE = 'MINE'\n{body}\n"
    )
    environment = os.environ | {"PYTHONPATH": "site", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment)
    return done.stdout + done.stderr


def mine(scale=10):
    return PLUGIN.format(name="MINE", type_id=1201, scale=scale)


def other(scale=10):
    return PLUGIN.format(name="OTHER", type_id=1202, scale=scale)


def test_an_unchanged_plugin_goes_on_although_another_that_does_not_encode_has_changed(at):
    install("mine", mine())
    install("other", other())
    assert in_a_process("begin()") == ""
    install("other", other(scale=20), version="2.0")
    install("third", other().replace("OTHER", "THIRD").replace("1202", "1203"))
    assert in_a_process("resume()") == ""
    assert not Path("out.gguf.partial").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"source": mine(scale=20)}, {"source": mine(), "version": "1.1"},
        {"source": mine(), "extra": {"_fast.so": b"\x7fELF 2"}}, {"source": mine(), "extra": {"codebook.bin": b"2"}},
    ],
    ids=["code", "version", "compiled code", "data"],
)  # fmt: skip
def test_a_run_is_not_continued_with_another_version_of_a_plugin_that_encodes(at, change):
    install("mine", mine(), extra={"_fast.so": b"\x7fELF 1", "codebook.bin": b"1"})
    assert in_a_process("begin()") == ""
    install("mine", **change)
    said = in_a_process("resume()")
    assert "OutputError: " in said
    assert "was begun with another version of plugin mine ('1.0, files " in said
    assert "install it as it was then, or remove it" in said
    install("mine", mine(), extra={"_fast.so": b"\x7fELF 1", "codebook.bin": b"1"})
    assert in_a_process("resume()") == ""


def test_a_plugin_that_only_scores_takes_part_too(at):
    install("scorer", HOOK.format(scale=1))
    assert in_a_process("TYPE = 'Q4_K'; begin()") == ""
    install("scorer", HOOK.format(scale=2))
    assert "another version of plugin scorer" in in_a_process("TYPE = 'Q4_K'; resume()")
    install("scorer", HOOK.format(scale=1))
    assert in_a_process("TYPE = 'Q4_K'; resume()") == ""


def test_a_plugin_without_a_file_is_known_by_its_code(at):
    """As in a notebook, where a plugin is an object whose functions have no file."""
    Path("site").mkdir()
    made = "class P: register_types = staticmethod(lambda register: register(T))\n"
    made += "quantreg.registry.registry.register_plugin(P())\n"
    code = mine().replace("@quantreg.hookimpl\n", "") + made
    assert in_a_process(code + "begin()") == ""
    assert "another version of plugin P" in in_a_process(code.replace("rows * 10", "rows * 20") + "resume()")
    assert in_a_process("\n\n" + code + "resume()") == ""
