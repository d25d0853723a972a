"""Files with calibration and a target, in other programs: they load, and say what they are."""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import quality_models
from small_models import decoder, random, write

import quantreg
from quantreg.recipes import file_types

N_CTX = 32
PERPLEXITY = os.environ.get("QUANTREG_LLAMA_PERPLEXITY")


def model(path):
    """A model with a vocabulary of characters, and with rows that K-quants and i-quants take."""
    small = decoder("elsewhere", "llama", width=256, ff=512, layers=2, vocab=len(quality_models.TOKENS))
    small.metadata |= {
        key: value for key, value in quality_models.base().metadata.items() if key.startswith("tokenizer.")
    }
    write(small, path)
    return path


def ids(n):
    return np.minimum(abs(random("elsewhere text", (n,))) * 30, len(quality_models.TOKENS) - 1).astype(np.int32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return model(tmp_path_factory.mktemp("elsewhere") / "model.gguf")


@pytest.fixture(scope="module")
def tuned(source):
    """The path of a file for each target in bits per weight."""
    made = {}
    for bpw in (2.6, 4.5):
        out = source.with_name(f"{bpw}.gguf")
        result = quantreg.quantize_file(
            source, out, target_bpw=bpw, calibration=ids(30 * N_CTX), n_ctx=N_CTX, tuning_cache=source.with_suffix(".c")
        )
        assert result.tuned
        made[bpw] = out
    return made


def mostly(path):
    """The type of most weights of a file."""
    weights = Counter()
    with quantreg.open(path) as file:
        for tensor in file.values():
            weights[tensor.type_name] += tensor.size
    return weights.most_common(1)[0][0]


def test_a_file_for_a_target_is_labelled_with_the_type_of_most_of_its_weights(source, tuned, tmp_path):
    labels = {}
    for bpw, path in tuned.items():
        with quantreg.open(path) as file:
            labels[bpw] = file.metadata["general.file_type"]
        assert labels[bpw] == file_types[mostly(path)].number
        assert quantreg.validate(path).ok
    assert labels[2.6] != labels[4.5]
    result = quantreg.quantize_file(
        source, tmp_path / "o.gguf", target_bpw=6.6, types="Q6_K", override_kv={"general.file_type": 7}
    )
    assert result.plan.file_type.name == "Q6_K"
    assert quantreg.open(tmp_path / "o.gguf").metadata["general.file_type"] == 7


_LOADS = """
import sys
import xllamacpp
given = xllamacpp.CommonParams()
given.model.path, given.n_predict, given.n_ctx, given.warmup = sys.argv[1], 4, 64, False
server = xllamacpp.Server(given)
answer = server.handle_completions({"prompt": "eta oin", "max_tokens": 4, "temperature": 0})
print("said", len(answer["choices"][0]["text"]) >= 0)
"""


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
def test_xllamacpp_loads_and_runs_the_files(tuned):
    for path in tuned.values():
        ended = subprocess.run(
            [sys.executable, "-c", _LOADS, str(path)], check=False, timeout=120, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert "said True" in ended.stdout


@pytest.mark.skipif(not PERPLEXITY, reason="QUANTREG_LLAMA_PERPLEXITY names no llama-perplexity")
def test_llama_perplexity_measures_the_divergence_that_we_measure(source, tuned, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(quality_models.text() * 3, encoding="utf-8")
    base = tmp_path / "base.kld"

    def theirs(path, *more):
        ended = subprocess.run(
            [PERPLEXITY, "-m", path, "-f", text, "-c", str(N_CTX), "--kl-divergence-base", base, "-v", *more],
            check=False, timeout=120, capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-2000:]
        return ended.stdout + ended.stderr

    theirs(source)
    for path in tuned.values():
        told = theirs(path, "--kl-divergence")
        label = file_types[mostly(path)].name
        assert re.search(rf"file type += +{label[:2]}", told), told
        ours = quantreg.kl_divergence(path, source, text.read_text(encoding="utf-8"), n_ctx=N_CTX).kl_mean
        # It rounds activations to 8 bits.
        assert float(re.search(r"Mean +KLD: +([-\d.]+)", told)[1]) == pytest.approx(ours, rel=0.15, abs=0.002)
