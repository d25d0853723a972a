"""An architecture that somebody else's distribution brings runs like those that quantreg brings."""

import os
import subprocess
import sys

import numpy as np
import pytest
import small_models
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


def averages():
    small = small_models.Small("averages", "averages", layers=2, width=32, heads=2, ff=64)
    small.keys(**{"attention.layer_norm_rms_epsilon": 1e-6})
    small.matrix("token_embd", small.vocab, small.width)
    for block in small.blocks:
        for part in ("attn_norm", "ffn_norm"):
            small.norm(f"{block}{part}", small.width)
        for part, rows, cols in (("attn_v", 48, 32), ("attn_output", 32, 48), ("ffn_up", 64, 32), ("ffn_down", 32, 64)):
            small.matrix(f"{block}{part}", rows, cols)
    small.norm("output_norm", small.width)
    return small


def expected(small, ids):
    """The same model in float64."""
    weights = {name: x.astype(np.float64) for name, x in small.tensors.items()}

    def norm(x, name):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * weights[f"{name}.weight"]

    x = weights["token_embd.weight"][ids]
    for block in small.blocks:
        values = norm(x, f"{block}attn_norm") @ weights[f"{block}attn_v.weight"].T
        means = np.cumsum(values, axis=0) / np.arange(1, len(ids) + 1)[:, None]
        up = np.tanh(norm(x, f"{block}ffn_norm") @ weights[f"{block}ffn_up.weight"].T)
        x = x + means @ weights[f"{block}attn_output.weight"].T + up @ weights[f"{block}ffn_down.weight"].T
    return norm(x, "output_norm") @ weights["token_embd.weight"].T


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
