"""The checkpoint of an architecture that somebody else's distribution brings becomes GGUF, and the model runs."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import small_models
from averages import averages, expected
from checkpoints.tokenizers import write_tokenizer
from documents import file_in
from entries import installed
from safetensors_files import save

import quantreg
from quantreg.checkpoints import Checkpoint, Row

PROGRAM = """
import numpy as np
import quantreg

quantreg.convert("folder", "model.gguf", "f32")
quantreg.quantize_file("folder", "q.gguf", "Q8_0")
quantreg.export("model.gguf", "back/")
quantreg.convert("back", "again.gguf", "f32")
with quantreg.open("model.gguf") as model, quantreg.open("again.gguf") as again:
    assert list(model) == list(again)
    for name in model:
        np.testing.assert_allclose(model[name].dequantize(), again[name].dequantize(), rtol=0, atol=2e-7)
with quantreg.load("folder") as folder, quantreg.load("model.gguf") as model:
    ids = np.load("ids.npy")
    np.testing.assert_array_equal(folder.logits(ids), model.logits(ids))
    np.save("logits.npy", model.logits(ids))
"""


def write_folder(folder, small):
    """The folder of the page: norms less 1, attn_output transposed below attn_v, and a tensor without weights."""
    folder.mkdir()
    tensors = {"emb.weight": small.tensors["token_embd.weight"], "norm.weight": small.tensors["output_norm.weight"] - 1}
    for i, block in enumerate(small.blocks):
        tensors |= {
            f"layers.{i}.norm1.weight": small.tensors[f"{block}attn_norm.weight"] - 1,
            f"layers.{i}.norm2.weight": small.tensors[f"{block}ffn_norm.weight"] - 1,
            f"layers.{i}.mean.vo": np.concatenate(
                [small.tensors[f"{block}attn_v.weight"], small.tensors[f"{block}attn_output.weight"].T]
            ),
            f"layers.{i}.up.weight": small.tensors[f"{block}ffn_up.weight"],
            f"layers.{i}.down.weight": small.tensors[f"{block}ffn_down.weight"],
            f"layers.{i}.statistics": np.zeros(3),
        }
    save(folder / "model.safetensors", {name: x.astype(np.float32) for name, x in tensors.items()})
    config = {"architectures": ["AveragesForCausalLM"], "num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 96}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer("spm", folder)


def test_a_checkpoint_of_an_installed_distribution_becomes_gguf(tmp_path):
    site, small = tmp_path / "site", averages()
    info = site / "averages_dist-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "my_language_model.py").write_text(file_in("hooks.md", "my_language_model.py"))
    (site / "my_checkpoint.py").write_text(file_in("checkpoints.md", "my_checkpoint.py"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: averages-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantreg]\naverages = my_checkpoint\n")
    write_folder(tmp_path / "folder", small)
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
    with quantreg.open(tmp_path / "model.gguf") as model:
        assert model.keys() == small.tensors.keys()
        for name in ("attn_v", "attn_output", "ffn_up", "ffn_down"):
            for block in small.blocks:
                array = model[f"{block}{name}.weight"].dequantize()
                np.testing.assert_array_equal(array, small.tensors[f"{block}{name}.weight"])
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(logits, expected(small, ids), rtol=0, atol=1e-4 * logits.std())


def broken(how=None, keys=(), defaults=()):
    rows = (Row("token_embd.weight", "emb.weight", how),)
    checkpoint = Checkpoint(
        ("AveragesForCausalLM",), rows, keys, ignored=("layers.*", "norm.weight"), defaults=defaults
    )
    known = quantreg.Architecture("averages", checkpoints=(checkpoint,))
    return installed(register_architectures=lambda register: register(known))


@pytest.mark.parametrize(
    "mistake",
    [
        {"how": lambda config: config["no_such_name"]},
        {"how": lambda config: 1 // 0},
        {"keys": (quantreg.checkpoints.Key("x", lambda config: 1 // 0),)},
        {"keys": (quantreg.checkpoints.Key("x", "hidden_size", "no such type"),)},
        {"defaults": (("x", lambda config: 1 // 0),)},
        {"how": lambda config: "not a transform"},
    ],
)
def test_a_mistake_in_a_table_is_an_error_of_ours(tmp_path, mistake):
    write_folder(tmp_path / "folder", averages())
    with broken(**mistake), pytest.raises(quantreg.QuantregError, match=r"config\.json|token_embd"):
        quantreg.plan(tmp_path / "folder", "F16")
