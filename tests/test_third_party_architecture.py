"""An architecture that somebody else's distribution brings runs like those that quantreg brings."""

import os
import subprocess
import sys

import numpy as np
import pytest
import small_models
from averages import averages, expected
from documents import file_in
from entries import installed

import quantreg
from quantreg.inference.graph import Router

MODULE = file_in("hooks.md", "my_language_model.py")

PROGRAM = """
import sys
import numpy as np
import quantreg

with quantreg.load("model.gguf") as model:
    np.save("logits.npy", model.logits(np.load("ids.npy")))
"""


def test_a_model_of_an_installed_distribution_runs(tmp_path):
    site, small = tmp_path / "site", averages()
    info = site / "averages_dist-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "averages_plugin.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: averages-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantreg]\naverages = averages_plugin\n")
    small_models.write(small, tmp_path / "model.gguf")
    ids = small_models.token_ids("averages", small.vocab)
    np.save(tmp_path / "ids.npy", ids)
    found = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, "")
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(logits, expected(small, ids), rtol=0, atol=1e-4 * logits.std())


def test_an_unknown_architecture_is_an_error_that_names_the_known_ones_and_the_hook(tmp_path):
    small_models.write(averages(), tmp_path / "model.gguf")
    with pytest.raises(quantreg.ModelError, match=r"'averages'.* llama, .*qwen2.* register_architectures"):
        quantreg.load(tmp_path / "model.gguf")


def test_an_architecture_without_a_graph_is_not_among_those_that_run(tmp_path):
    """Architectures of image models say how to quantize, not how to compute."""
    small_models.write(averages(), tmp_path / "model.gguf")
    known = quantreg.Architecture("averages")
    with (
        installed(register_architectures=lambda register: register(known)),
        pytest.raises(quantreg.ModelError, match="cannot compute models of architecture 'averages'"),
    ):
        quantreg.load(tmp_path / "model.gguf")


def test_a_graph_that_is_no_graph_is_an_error_that_names_the_architecture(tmp_path):
    small_models.write(averages(), tmp_path / "model.gguf")
    wrong = quantreg.Architecture("averages", graph={"norm": "rms"})
    with (
        installed(register_architectures=lambda register: register(wrong)),
        pytest.raises(quantreg.PluginError, match=r"architecture 'averages': graph is .*quantreg\.Graph"),
    ):
        quantreg.load(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("field", "value", "known"),
    [
        ("norm", "l2", "'rms', 'layer'"),
        ("rope", "pairs", "'adjacent', 'halves', None"),
        ("activation", "swish", "'silu', 'gelu'"),
        ("router", Router(score="max"), "'softmax', 'sigmoid'"),
    ],
)
def test_a_word_that_a_graph_does_not_know_is_an_error_that_names_the_known_ones(field, value, known):
    with pytest.raises(quantreg.PluginError, match=f"a graph's {field}.*: expected one of {known}"):
        quantreg.Graph(**{field: value})
