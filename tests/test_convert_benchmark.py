"""The part `convert` of the benchmarks measures a folder that quantreg and the reference can read."""

import sys
from pathlib import Path

import pytest

import quantreg

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from bench import published


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks measure on Linux")
def test_the_folder_is_quantized_and_measured(monkeypatch, tmp_path):
    for name in (published.PYTHON, published.CONVERTER, published.QUANTIZER):
        monkeypatch.delenv(name, raising=False)
    result = published.measure(6_000_000, tmp_path, threads=1, tell=lambda text: None)
    assert result["failures"] == []
    assert result["notes"] == [published.MISSING]
    (row,) = result["rows"]
    assert row["peak MiB"] < 400
    assert 0 < row["GB written"] < result["source_bytes"] / 1e9


def test_the_folder_is_a_model_that_quantreg_knows(tmp_path):
    count = published.write_folder(tmp_path / "m", 6_000_000)
    plan = quantreg.plan(tmp_path / "m", "Q4_K_M")
    assert sum(tensor.n_elements for tensor in plan.tensors) == count
    assert plan["blk.0.attn_q.weight"].from_type == "F16"
