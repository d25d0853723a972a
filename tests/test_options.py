"""llama-quantize's command lines give the reference's bytes, or a clear error where it refuses or crashes."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import option_models
import pytest

from quantreg import cli

# Command line -> digests of the files it writes, or "refused", or "crashed". Made by golden/make_options.py.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "options.json").read_text())


# Lines that the reference refuses and quantreg takes on purpose: GGUF's own names of value types.
EXTENSIONS = {"--override-kv a.bad=u8:1 small.gguf OUT Q4_0"}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    option_models.write_models(folder)
    return folder


@pytest.fixture
def quantize(models, monkeypatch, tmp_path, capsys):
    """A function that runs the command in the folder of the models: (exit code, stderr, digests of its output)."""
    monkeypatch.chdir(models)

    def call(*words):
        code = cli.main(["quantize", *words])
        written = {
            name.removeprefix("out"): hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
            for name in os.listdir(tmp_path)
        }
        return code, capsys.readouterr().err, written

    return call


@pytest.mark.parametrize("line", GOLDEN)
def test_the_command_does_what_the_reference_does_or_says_why_not(line, quantize, tmp_path):
    words = [str(tmp_path / "out.gguf") if word == "OUT" else word for word in shlex.split(line)]
    code, stderr, written = quantize(*words, "2")
    if isinstance(GOLDEN[line], dict):
        assert code == 0, stderr
        assert written == GOLDEN[line]
    elif line in EXTENSIONS:
        assert (code, list(written)) == (0, [".gguf"])
    else:
        assert code in (1, 2)
        assert "rror: " in stderr
        assert len(stderr.splitlines()) == (1 if code == 1 else 4)  # a usage error also prints the usage
        assert written == {}


@pytest.mark.parametrize(
    ("type_name", "written"),
    [("15", "Q4_K"), ("q4_k", "Q4_K"), ("Q4_K_M", "Q4_K_M"), ("12", "Q3_K"), ("q3_k_m", "Q3_K_M"), ("17", "Q5_K"),
     ("18", "Q6_K"), ("copy", "COPY"), ("f16", "F16")],
)  # fmt: skip
def test_the_default_name_contains_llama_quantizes_name_of_the_type(type_name, written, monkeypatch, tmp_path):
    option_models.small_model.write_model(tmp_path / "small.gguf")
    monkeypatch.chdir(tmp_path.parent)
    assert cli.main(["quantize", f"{tmp_path.name}/small.gguf", type_name]) == 0
    assert sorted(os.listdir(tmp_path)) == [f"ggml-model-{written}.gguf", "small.gguf"]


def test_a_kept_split_has_numbered_default_names(models, monkeypatch, tmp_path):
    for shard in models.glob("in-*"):
        (tmp_path / shard.name).hardlink_to(shard)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["quantize", "--keep-split", "in-00001-of-00003.gguf", "15", "1"]) == 0
    assert {path.name for path in tmp_path.glob("ggml*")} == {
        f"ggml-model-Q4_K-0000{n}-of-00003.gguf" for n in (1, 2, 3)
    }


def test_zero_threads_means_all_processors(quantize, tmp_path):
    line = "moe.gguf OUT Q3_K_M"
    code, _, written = quantize("moe.gguf", str(tmp_path / "out.gguf"), "Q3_K_M", "0")
    assert (code, written) == (0, GOLDEN[line])


def test_a_file_of_tensor_types_counts_at_its_place_in_the_command(quantize, models):
    before = ["--tensor-type", "attn_v=q4_0", "--tensor-type-file=types.txt"]
    code, stderr, _ = quantize("--dry-run", *before, "--tensor-type-file")
    assert (code, "requires an argument" in stderr) == (2, True)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "quantreg", "quantize", "--dry-run", *before, "small.gguf", "Q3_K_M"],
        cwd=models, capture_output=True, text=True,
    )  # fmt: skip
    assert "tensor type attn_v: Q4_0" in done.stdout
    assert "tensor type attn_k: Q6_K" in done.stdout
