"""Error feedback for embeddings: its metric is that of the products that read them, and it serves the predictions."""

import numpy as np
import pytest
import small_models

import quantreg
from quantreg.products import one_blas_thread
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.embeddings import embedding_metric, encode_embeddings

NAME = "token_embd.weight"
N_CTX = 32


def text(n, seed=0):
    """Tokens that follow each other by a rule, with some noise."""
    rng = np.random.default_rng(seed)
    found = [1]
    for _ in range(n - 1):
        found.append((7 * found[-1] + 3) % 90 if rng.random() < 0.7 else int(rng.integers(0, 90)))
    return np.array(found, np.int32)


def loaded(folder, name="llama", threads=1):
    path = folder / f"{name}.gguf"
    if not path.exists():
        small_models.write(small_models.build(name), path)
    return quantreg.load(path, threads=threads)


def calibrated(model):
    return Calibration.cut(model, text(40 * N_CTX), N_CTX)


@pytest.mark.parametrize("type_name", ["Q4_0", "IQ4_NL", "Q5_1"])
def test_predictions_on_other_tokens_are_closer(tmp_path, type_name):
    with loaded(tmp_path) as model:
        found = encode_embeddings(model, calibrated(model), NAME, quantreg.types[type_name])
        assert found.kept
        assert found.reason is None
        assert found.tuned < found.plain
        ordinary = quantreg.QuantizedTensor.from_array(NAME, model.tensors[NAME].dequantize(), type_name)
        assert found.tensor.nbytes == ordinary.nbytes
        after, before = (
            quantreg.kl_divergence(model.replaced({NAME: tensor}), model, text(40 * N_CTX, 1), n_ctx=N_CTX).kl_mean
            for tensor in (found.tensor, ordinary)
        )
        assert after < before


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama-experts"])
def test_the_metric_is_the_energy_of_the_products_behind_norms(tmp_path, name):
    with loaded(tmp_path, name) as model:
        calibration = calibrated(model)
        metric = embedding_metric(model, calibration)
        assert metric.shape == (model.width, model.width)
        np.testing.assert_allclose(metric, metric.T, rtol=1e-5, atol=1e-5 * metric.max())
        assert np.linalg.eigvalsh(metric)[0] >= -1e-5 * np.trace(metric)
        assert metric.any()


def test_the_metric_of_one_layer_is_what_the_formula_says(tmp_path):
    with loaded(tmp_path) as model:
        calibration = calibrated(model)
        read = []

        def normed(x, weight, out):
            read.append((np.square(x, dtype=np.float64).mean(axis=-1), weight.astype(np.float64)))

        x, run = model.begin(calibration.part("fit"))
        run.normed = normed
        for layer in range(model.n_layers):
            x = model.through(layer, x, run)
        model.finish(x, run)
        parts = [f"blk.{i}.{half}" for i in range(model.n_layers) for half in ("attn", "ffn")]
        readers = {"attn": ("attn_q", "attn_k", "attn_v"), "ffn": ("ffn_gate", "ffn_up")}
        expected = 0
        for (squares, weight), part in zip(read, [*parts, "output"], strict=True):
            prefix, _, half = part.rpartition(".")
            names = [f"{prefix}.{stem}.weight" for stem in readers[half]] if prefix else ["output.weight"]
            for name in names:
                w = model.tensors[name].dequantize() * weight
                expected += w.T @ w * (1 / squares).mean()
        np.testing.assert_allclose(
            embedding_metric(model, calibration), expected, rtol=1e-4, atol=1e-4 * expected.max()
        )


def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path):
    data = []
    for threads in (1, 3):
        with loaded(tmp_path, threads=threads) as model:
            found = encode_embeddings(model, calibrated(model), NAME, quantreg.types["Q4_0"])
            data.append(np.asarray(found.tensor.data).tobytes())
    assert data[0] == data[1]


def test_feedback_that_does_not_help_leaves_the_ordinary_bytes(tmp_path, monkeypatch):
    with loaded(tmp_path) as model:
        bad = np.outer(*2 * [np.eye(model.width)[0]]) + 1e-6 * np.eye(model.width)  # all but one column is no matter
        monkeypatch.setattr("quantreg.tuning.embeddings.embedding_metric", lambda *_: bad)
        monkeypatch.setattr("quantreg.tuning.embeddings.EXPONENTS", (1.0,))
        found = encode_embeddings(model, calibrated(model), NAME, quantreg.types["Q4_0"])
        assert not found.kept
        assert found.reason == "feedback did not help on other tokens"
        ordinary = quantreg.QuantizedTensor.from_array(NAME, model.tensors[NAME].dequantize(), "Q4_0")
        assert np.array_equal(found.tensor.data, ordinary.data)


@pytest.mark.parametrize(
    ("name", "type_name", "reason"),
    [("llama", "F16", "rounds each weight alone"), ("bert", "Q4_0", "no predictions")],
)
def test_it_says_why_there_is_no_feedback(tmp_path, name, type_name, reason):
    with loaded(tmp_path, name) as model, one_blas_thread():
        calibration = Calibration(text(3 * N_CTX).reshape(3, -1), 1, 2)
        found = encode_embeddings(model, calibration, NAME, quantreg.types[type_name])
    assert not found.kept
    assert found.tuned is None
    assert reason in found.reason
