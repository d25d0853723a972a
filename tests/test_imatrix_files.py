"""Importance matrices add up, convert and are described as llama-imatrix does it."""

import hashlib
import json
from pathlib import Path

import imatrix_models
import numpy as np
import pytest

from quantreg import ImportanceError, ImportanceMatrix, OutputError
from quantreg.importance import Sums

GOLDEN = Path(__file__).parent / "golden" / "imatrix"


@pytest.mark.parametrize("name", imatrix_models.COMBINED)
def test_files_add_up_and_convert_to_the_bytes_of_the_reference(name, tmp_path):
    parts, options = imatrix_models.COMBINED[name]
    chunk = options[1] if options else None
    matrix = ImportanceMatrix.combined([GOLDEN / part for part in parts], chunk_size=chunk)
    matrix.write(tmp_path / name, format="dat" if "dat" in options else "gguf")
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert digest == json.loads((GOLDEN / "digests.json").read_text())[name]


def test_a_single_file_keeps_its_chunk_size_and_bytes(tmp_path):
    for name in ("plain.gguf", "experts.gguf"):
        for matrix in (ImportanceMatrix.combined([GOLDEN / name]), ImportanceMatrix.read(GOLDEN / name)):
            matrix.write(tmp_path / name, force=True)
            assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()
    once = ImportanceMatrix.read(GOLDEN / "minilm-imatrix.dat")
    once.write(tmp_path / "once.dat", format="dat")
    twice = ImportanceMatrix.read(tmp_path / "once.dat")
    assert {name: list(twice.sums(name)) for name in twice} == {name: list(once.sums(name)) for name in once}
    assert (twice.chunk_count, twice.datasets) == (once.chunk_count, once.datasets)


def test_statistics_of_ones_own_survive_a_file(tmp_path):
    matrix = ImportanceMatrix({"b": [1, 2, 0.25], "a": [[3, 4], [5, 6]]}, dataset="mine")
    for form in ("gguf", "dat"):
        assert matrix.write(tmp_path / form, format=form) == []
        found = ImportanceMatrix.read(tmp_path / form)
        assert {name: list(found[name]) for name in found} == {"a": [3, 4, 5, 6], "b": [1, 2, 0.25]}
        assert found.dataset == "mine"
    with pytest.raises(OutputError, match="exists"):
        matrix.write(tmp_path / "dat")


def test_experts_without_data_are_told(tmp_path):
    sums = Sums()
    sums.add("some", np.ones((3, 2)), np.array([1, 0, 4]))
    sums.add("none", np.zeros((2, 2)), np.array([0, 0]))
    matrix = ImportanceMatrix(sums)
    assert [note[:42] for note in matrix.write(tmp_path / "i.gguf")] == [
        "entry none has data for 0 of 2 experts: us", "entry some has data for 2 of 3 experts: us",
    ]  # fmt: skip
    assert "left out" in matrix.write(tmp_path / "i.dat", format="dat")[0]
    assert list(ImportanceMatrix.read(tmp_path / "i.dat")) == ["some"]
    assert list(ImportanceMatrix.read(tmp_path / "i.gguf")) == ["none", "some"]


def test_one_count_for_all_experts_holds_for_each(tmp_path):
    sums = Sums()
    sums.add("a", np.ones(6), np.array([10]))
    sums.add("a", np.ones((3, 2)), np.array([1, 2, 0]))
    assert sums.counts("a") == (11, 12, 10)
    with pytest.raises(ImportanceError, match="4 counts, but 6 values and 3 counts"):
        sums.add("a", np.ones(6), np.array([1, 2, 3, 4]))


def test_statistics_have_the_figures_of_a_small_example():
    matrix = ImportanceMatrix({"blk.1.attn_q.weight": [1, 1, 1, 1], "blk.2.attn_q.weight": [4, 0, 0, 0]})
    first, second = matrix.statistics()
    assert (first.layer, first.role, first.total, first.entropy, first.cosine) == (1, "attn_q", 4, 2, 0)
    assert (second.layer, second.most, second.active, second.entropy) == (2, 4, 0.25, 0)
    assert (second.outliers, second.cosine, second.deviation) == (0.25, 0.5, np.sqrt(np.float32(3)))
    assert (first.relative_entropy, second.relative_entropy) == (1, 0)
