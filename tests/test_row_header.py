"""Types whose rows begin with bytes of their own, which none of ggml's has, work in every part of quantreg."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import toy
from entries import registered
from weights import make_rows

import quantreg
from quantreg import ImportanceMatrix, cli
from quantreg.jobs import slabs

ROWS, COLS = 40, 96
ROW_BYTES = 4 + COLS // toy.BLOCK * toy.BYTES
NAME, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"
X = {
    NAME: make_rows("heavy", ROWS, COLS, 0.1, 3),
    EXPERTS: make_rows("heavy", 3 * 8, COLS, 0.1, 4).reshape(3, 8, COLS),
    "output_norm.weight": np.ones(COLS, np.float32),
}
COLUMNS = {
    NAME: np.random.default_rng(5).random((1, COLS), np.float32) + np.float32(0.01),
    EXPERTS: np.random.default_rng(6).random((3, COLS), np.float32) + np.float32(0.01),
}


@pytest.fixture(autouse=True)
def qtype():
    qtype = toy.make_with_header()
    with registered(toy.Plugin(qtype)):
        yield qtype


@pytest.fixture
def source(tmp_path):
    quantreg.write(tmp_path / "in.gguf", {"general.architecture": "llama", "llama.block_count": 1}, X)
    return tmp_path / "in.gguf"


@pytest.fixture
def quantized(source, tmp_path):
    quantreg.quantize_file(source, tmp_path / "out.gguf", "TOY3R", ImportanceMatrix(COLUMNS))
    return tmp_path / "out.gguf"


@pytest.fixture
def small_slabs(monkeypatch):
    """A few rows a work item, in every module that cuts tensors into pieces."""
    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 5 * COLS)
    monkeypatch.setattr(slabs, "CHUNK_WEIGHTS", 2 * COLS)
    monkeypatch.setattr(slabs, "SLAB_BYTES", 3 * ROW_BYTES + 1)
    monkeypatch.setattr("quantreg.jobs.verify.SLAB_BYTES", 3 * ROW_BYTES + 1)


def expected():
    return {
        NAME: quantreg.quantize(X[NAME], "TOY3R", COLUMNS[NAME][0]),
        EXPERTS: quantreg.quantize(X[EXPERTS], "TOY3R", COLUMNS[EXPERTS]),
    }


@pytest.mark.parametrize("how", [{"threads": 1}, {"threads": 3}, {"executor": ThreadPoolExecutor(2)}])
def test_a_model_is_quantized_in_slabs_of_whole_rows(how, source, tmp_path, small_slabs):
    quantreg.quantize_file(source, tmp_path / "out.gguf", "TOY3R", ImportanceMatrix(COLUMNS), **how)
    with quantreg.open(tmp_path / "out.gguf") as model:
        for name, data in expected().items():
            assert model[name].data.shape == (*X[name].shape[:-1], ROW_BYTES)
            np.testing.assert_array_equal(model[name].data, data)
            np.testing.assert_array_equal(model[name].dequantize(), quantreg.dequantize(data, "TOY3R"))


def test_it_is_decoded_again_when_it_is_the_source(quantized, tmp_path, small_slabs):
    quantreg.quantize_file(quantized, tmp_path / "again.gguf", "Q8_0", allow_requantize=True)
    with quantreg.open(tmp_path / "again.gguf") as model:
        for name, data in expected().items():
            np.testing.assert_array_equal(
                model[name].data, quantreg.quantize(quantreg.dequantize(data, "TOY3R"), "Q8_0")
            )


def test_the_plan_counts_the_headers(source, quantized):
    plan = quantreg.plan(source, "TOY3R")
    rows = ROWS + 3 * 8
    assert [t.bytes for t in plan.tensors if t.to_type == "TOY3R"] == [ROWS * ROW_BYTES, 3 * 8 * ROW_BYTES]
    assert plan.bits_per_weight == pytest.approx(8 * (rows * ROW_BYTES + 4 * COLS) / (rows * COLS + COLS))
    with quantreg.open(quantized) as model:
        assert sum(model[name].nbytes for name in model) == plan.bytes


def test_copies_are_looked_through_for_nan_row_by_row(quantized, tmp_path, small_slabs):
    quantreg.quantize_file(quantized, tmp_path / "copy.gguf", "COPY")
    assert quantreg.hash_tensors(tmp_path / "copy.gguf") == quantreg.hash_tensors(quantized)
    assert quantreg.validate(quantized).ok
    with quantreg.open(quantized) as model:
        data = {name: model[name] for name in model}
        bad = np.array(data[NAME].data)
        bad[23, :4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
        data[NAME] = quantreg.QuantizedTensor(NAME, X[NAME].shape, "TOY3R", bad)
        quantreg.write(tmp_path / "bad.gguf", {"general.architecture": "llama"}, data)
    message = f"{NAME}: holds NaN or infinity at index {23 * COLS}"
    assert quantreg.validate(tmp_path / "bad.gguf").problems == (message,)
    with pytest.raises(quantreg.NonFiniteError, match=message):
        quantreg.quantize_file(tmp_path / "bad.gguf", tmp_path / "no.gguf", "COPY")


def test_two_models_are_compared_by_their_weights(source, quantized, small_slabs):
    found = {t.name: t for t in quantreg.compare(source, quantized).tensors}
    assert set(found) == {NAME, EXPERTS}
    for name, data in expected().items():
        lost = np.float64(quantreg.dequantize(data, "TOY3R")) - X[name]
        assert found[name].rmse == pytest.approx(np.sqrt(np.square(lost).sum() / np.square(X[name], dtype=float).sum()))
        assert found[name].largest == pytest.approx(np.abs(lost).max())
    assert quantreg.compare(quantized, quantized).same


def test_it_is_split_merged_and_exported(quantized, tmp_path):
    quantreg.split(quantized, tmp_path / "shard", split_max_tensors=1)
    quantreg.merge(tmp_path / "shard-00001-of-00003.gguf", tmp_path / "merged.gguf")
    assert (tmp_path / "merged.gguf").read_bytes() == quantized.read_bytes()
    quantreg.export(quantized, tmp_path / "out.safetensors", dtype="f32")
    quantreg.quantize_file(tmp_path / "out.safetensors", tmp_path / "f32.gguf", "F32")
    with quantreg.open(tmp_path / "f32.gguf") as model:
        np.testing.assert_array_equal(model[NAME].dequantize(), quantreg.dequantize(expected()[NAME], "TOY3R"))


def test_a_killed_run_is_resumed_to_the_same_bytes(source, quantized, tmp_path, small_slabs):
    def stop(event):
        if type(event).__name__ == "TensorDone":
            raise KeyboardInterrupt

    keywords = {"imatrix": ImportanceMatrix(COLUMNS), "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        quantreg.quantize_file(source, tmp_path / "r.gguf", "TOY3R", resumable=True, progress=stop, **keywords)
    quantreg.quantize_file(source, tmp_path / "r.gguf", "TOY3R", resumable=True, resume=True, **keywords)
    assert (tmp_path / "r.gguf").read_bytes() == quantized.read_bytes()


def test_inspect_and_types_show_it(quantized, capsys):
    assert cli.main(["inspect", "--json", str(quantized)]) == 0
    shown = json.loads(capsys.readouterr().out)
    sizes = {t["name"]: (t["type"], t["bytes"]) for t in shown["tensors"]}
    assert sizes[NAME] == ("TOY3R", ROWS * ROW_BYTES)
    assert cli.main(["types", "--json"]) == 0
    (ours,) = (t for t in json.loads(capsys.readouterr().out) if t["name"] == "TOY3R")
    assert (ours["row_header_size"], ours["bits_per_weight"]) == (4, 3.5)
    assert cli.main(["types"]) == 0
    assert re.search(r"^TOY3R +4204 +32 +4/row \+ 14 +3.5 ", capsys.readouterr().out, re.M)


def test_rows_without_weights_are_headers_only(tmp_path):
    data = quantreg.quantize(np.empty((5, 0), np.float32), "TOY3R")
    assert data.shape == (5, 4)
    tensor = quantreg.QuantizedTensor(NAME, (5, 0), "TOY3R", data)
    quantreg.write(tmp_path / "empty.gguf", {"general.architecture": "llama"}, {NAME: tensor})
    assert quantreg.validate(tmp_path / "empty.gguf").ok
    for file_type in ("COPY", "TOY3R"):
        quantreg.quantize_file(tmp_path / "empty.gguf", tmp_path / f"{file_type}.gguf", file_type)
        with quantreg.open(tmp_path / f"{file_type}.gguf") as model:
            assert not model[NAME].data.any()
            assert model[NAME].data.shape == (5, 4)
