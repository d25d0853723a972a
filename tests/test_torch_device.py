"""A device of torch computes what NumPy computes, as torch's device for processors shows without a graphics card.

QUANTREG_TEST_DEVICE=cuda shows it on one.
"""

import importlib.util
import os
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import small_models
from tuning_inputs import correlated, inputs

import quantreg
from quantreg import OutputError, PlanError, types
from quantreg.devices import CPU, open_device
from quantreg.events import TensorTuned
from quantreg.parameters import TensorContext
from quantreg.products import matmul
from quantreg.tensor import QuantizedTensor
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.encoding import encode_matrix
from quantreg.tuning.feedback import factor
from quantreg.tuning.statistics import layers

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed: pip install torch", allow_module_level=True)

import torch

from quantreg.devices.torch_device import EXACT, TorchDevice

WHERE = os.environ.get("QUANTREG_TEST_DEVICE", "cpu")  # for torch
NAME = "torch:cpu" if WHERE == "cpu" else WHERE  # for quantreg
N_CTX = 32
# Dense, with experts, hybrids of attention and states, and weights that a scale or several fitted parameters go with.
MODELS = [
    "llama",
    "gemma3",
    "llama-experts",
    "qwen3next",
    "granitehybrid-experts",
    "gpt-oss",
    "deepseek2",
    "llama-scales",
]


@pytest.fixture
def device():
    return TorchDevice(WHERE, NAME)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        small_models.write(small_models.build(name), folder / f"{name}.gguf")
    return folder


def ids(n, seed=0):
    """Tokens that follow each other by a rule, with some noise."""
    rng = np.random.default_rng(seed)
    found = [1]
    for _ in range(n - 1):
        found.append((7 * found[-1] + 3) % 90 if rng.random() < 0.7 else int(rng.integers(0, 90)))
    return np.array(found, np.int32)


TEXT = {"calibration": ids(40 * N_CTX), "n_ctx": N_CTX, "chunks": 40}
OTHER = ids(20 * N_CTX, seed=1)


def close(found, expected, within=1e-4):
    """Whether two arrays agree within a share of the deviation of what is expected."""
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max()) <= within * float(expected.std())


# ---- products ----


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_numpy(models, device, name):
    path, tokens = models / f"{name}.gguf", ids(4 * N_CTX).reshape(4, N_CTX)
    with quantreg.load(path) as one, quantreg.load(path, device=device) as other:
        assert close(other.logits(tokens), one.logits(tokens))
        assert close(other.logits(tokens[0]), one.logits(tokens[0]))


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0", "Q4_K", "IQ2_XS", "MXFP4", "NVFP4"])
@pytest.mark.parametrize("rows", [1, 7, 8, 40])
def test_a_product_with_weights_of_any_type_is_that_of_numpy(device, type_name, rows):
    x = correlated(rows, rows, 256)
    importance = np.ones(256, np.float32) if types[type_name].requires_importance else None
    w = QuantizedTensor.from_array("w", correlated(9, 48, 256), type_name, importance)
    assert close(device.multiply(x, w), matmul(x, w), 1e-5)


@pytest.mark.parametrize("shape", [(30,), (30, 2)])
def test_each_row_is_multiplied_by_the_matrices_of_its_experts(device, shape):
    w = QuantizedTensor.from_array("w", correlated(9, 5 * 48, 256).reshape(5, 48, 256), "Q4_K")
    chosen = np.random.default_rng(0).choice(5, shape, p=[0.5, 0.3, 0.15, 0.05, 0])
    x = correlated(1, 30, 256)
    assert close(device.multiply(x, w, chosen), matmul(x, w, expert=chosen), 1e-5)
    each = correlated(2, 60, 256).reshape(30, 2, 256)
    if len(shape) == 2:
        assert close(device.multiply(each, w, chosen), matmul(each, w, expert=chosen), 1e-5)


def test_large_products_go_in_tiles(device, monkeypatch):
    monkeypatch.setattr("quantreg.devices.torch_device.TILE", 256 * 10)
    x, w = correlated(1, 20, 256), QuantizedTensor.from_array("w", correlated(9, 48, 256), "F16")
    assert close(device.multiply(x, w), matmul(x, w), 1e-5)


def test_an_input_that_changed_in_place_is_sent_again(device):
    w = QuantizedTensor.from_array("w", correlated(9, 48, 256), "F32")
    x = correlated(1, 40, 256)
    device.multiply(x, w)
    x *= 2
    assert close(device.multiply(x, w), matmul(x, w), 1e-5)


def test_weights_in_the_place_of_others_count(models, device):
    tokens = ids(N_CTX)
    with quantreg.load(models / "llama.gguf", device=device) as model:
        before = model.logits(tokens)
        for seed in range(3):
            tensor = model.tensors["blk.0.ffn_up.weight"]
            new = QuantizedTensor.from_array(tensor.name, tensor.dequantize() + np.float32(seed + 1), "F32")
            found = model.replaced({tensor.name: new}).logits(tokens)
            with quantreg.load(models / "llama.gguf") as other:
                assert close(found, other.replaced({tensor.name: new}).logits(tokens))
        assert np.array_equal(model.logits(tokens), before)


def test_weights_are_sent_once_while_they_fit_and_never_take_more_than_the_budget(models):
    tokens = ids(N_CTX)
    with quantreg.load(models / "llama.gguf") as model:
        expected = model.logits(tokens)
    roomy = TorchDevice(WHERE, memory=1 << 30)
    with quantreg.load(models / "llama.gguf", device=roomy) as model:
        model.logits(tokens)
        once = roomy.resident.sent
        model.logits(tokens)
        assert roomy.resident.sent == once == roomy.resident.used
    assert roomy.resident.used == 0  # the model is closed
    tight = TorchDevice(WHERE, memory=once * 2 // 3)
    with quantreg.load(models / "llama.gguf", device=tight) as model:
        for _ in range(2):
            assert close(model.logits(tokens), expected)
            assert 0 < tight.resident.used <= once * 2 // 3
        assert once < tight.resident.sent < 2 * once  # some stayed


def set_precision(value):
    """What a program says to get TF32: in the words of torch before 2.9, or in those since."""
    if value in ("medium", "high", "highest"):
        torch.set_float32_matmul_precision(value)
    else:
        torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = value


def precision():
    """What the program has said."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
    return torch.get_float32_matmul_precision()


SETTINGS = ["high", "medium", *(["tf32"] if hasattr(torch.backends.cuda.matmul, "fp32_precision") else [])]


@pytest.fixture(params=SETTINGS)
def allows_tf32(request):
    set_precision(request.param)
    yield
    set_precision("highest")
    if request.param == "tf32":
        set_precision("none")


def test_arithmetic_is_exact_float32_whatever_the_program_allows(device, allows_tf32):
    x, h = correlated(1, 64, 256), correlated(2, 256, 256)
    w = QuantizedTensor.from_array("w", correlated(9, 48, 256), "F32")
    exact = x.astype(np.float64) @ w.dequantize().T.astype(np.float64)
    before = precision()
    found = device.multiply(x, w)
    sums = device.sums(1, 256)
    sums.add(0, x)
    errors = device.errors(np.array(x.T))
    errors.changed(0, 256)
    there = device.keep(h)
    assert precision() == before
    # TF32 keeps 10 bits of each factor, so that its products are off by about 3e-4; those of float32 by 1e-7.
    assert close(found, exact.astype(np.float32), 1e-5)
    assert close(sums.result()[0], (x.astype(np.float64).T @ x).astype(np.float32), 1e-5)
    product = (h[:64].astype(np.float64) @ x.T).astype(np.float32)
    assert close(errors.product(there, 0, 64), product, 1e-5)
    far = (h[:128, 128:192].T.astype(np.float64) @ x.T[:128]).astype(np.float32)
    assert close(errors.before(there, 128, 192), far, 1e-5)
    assert device.energy(x, h) == pytest.approx(float(np.square(x.astype(np.float64) @ h.T).sum()), rel=1e-6)


def test_threads_share_the_exact_arithmetic(allows_tf32):
    before, seen = precision(), []

    def work(_):
        for _ in range(200):
            with EXACT, EXACT:
                seen.append(precision())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert set(seen) in ({("ieee", "ieee")}, {"highest"})
    assert precision() == before


# ---- H and its factor ----


def statistics(path, device):
    with quantreg.load(path, device=device) as model:
        return list(layers(model, Calibration.cut(model, TEXT["calibration"], N_CTX)))


@pytest.mark.parametrize("memory", [1 << 30, 1 << 12])  # where it does not fit, NumPy adds it up
@pytest.mark.parametrize("name", MODELS)
def test_h_is_that_of_numpy(models, name, memory):
    device = TorchDevice(WHERE, memory=memory)
    path = models / f"{name}.gguf"
    for (layer, found, same), (expected_layer, expected, expected_same) in zip(
        statistics(path, device), statistics(path, CPU), strict=True
    ):
        assert (layer, same, set(found)) == (expected_layer, expected_same, set(expected))
        for leader, mine in found.items():
            theirs = expected[leader]
            assert np.array_equal(mine.count, theirs.count)
            assert np.array_equal(mine.h, mine.h.transpose(0, 2, 1))
            assert close(mine.h, theirs.h)
            for one, other in zip(mine.held_out, theirs.held_out, strict=True):
                assert close(one, other) if one.size else one.shape == other.shape
    assert device.resident.used == 0


def test_the_factor_of_h_is_that_of_numpy(device):
    h, *_ = inputs(320)
    found, expected = factor(h, device=device), factor(h)
    assert (found.ridge, found.reason) == (expected.ridge, None)
    assert close(found.upper, expected.upper, 1e-6)
    assert device.resident.held() == 0
    assert found.there() is found.there()
    assert device.resident.held() == 2 * h.nbytes
    del found
    assert device.resident.held() == 0


def test_h_that_cannot_be_factored_is_damped_or_refused_as_by_numpy(device):
    tokens = correlated(0, 3, 64)
    flat = tokens.T @ tokens - 0.05 * np.eye(64, dtype=np.float32)  # the smallest eigenvalues are below zero
    found, expected = factor(flat, device=device), factor(flat)
    assert found.ridge == expected.ridge > factor(tokens.T @ tokens).ridge
    assert close(found.upper, expected.upper, 1e-3)
    none = -np.eye(64, dtype=np.float32) + 3 * np.eye(64, k=1, dtype=np.float32)
    assert factor(none + none.T, device=device).reason == factor(none + none.T).reason
    infinite = np.full((64, 64), np.inf, np.float32)
    assert "overflow" in factor(infinite, device=device).reason


def test_a_factor_for_which_there_is_no_room_is_computed_by_numpy():
    h, *_ = inputs(320)
    device = TorchDevice(WHERE, memory=2 * h.nbytes)
    assert np.array_equal(factor(h, device=device).upper, factor(h).upper)


# ---- feedback ----


@pytest.mark.parametrize("type_name", ["Q4_K", "Q4_0", "IQ2_XS", "TQ1_0"])
def test_feedback_leaves_the_error_that_it_leaves_with_numpy(device, type_name):
    h, importance, held_out = inputs(512)
    w, qtype = 0.1 * correlated(3, 64, 512), types[type_name]
    context = TensorContext("w", w.shape)
    found, expected = (
        encode_matrix(w, qtype, "w", factor(h, device=where), importance, held_out, None, context)
        for where in (device, CPU)
    )
    assert found.kept == expected.kept
    assert found.plain == pytest.approx(expected.plain, rel=1e-4)
    assert found.tuned == pytest.approx(expected.tuned, rel=0.02)
    assert device.resident.held() == 0


@pytest.mark.parametrize("name", ["llama", "llama-experts", "qwen3next"])
@pytest.mark.parametrize("file_type", ["Q4_0", "IQ4_NL"])
def test_a_tuned_file_is_as_close_to_the_model_as_that_of_numpy(models, tmp_path, name, file_type):
    source, found = models / f"{name}.gguf", {}
    for where in ("cpu", NAME):
        out = tmp_path / f"{where.replace(':', '-')}.gguf"
        made = quantreg.quantize_file(source, out, file_type, device=where, **TEXT)
        divergence = quantreg.kl_divergence(out, source, OTHER, n_ctx=N_CTX).kl_mean
        found[where] = [(t.name, t.to_type) for t in made.tensors], made.size, divergence
        assert quantreg.validate(out).ok
    (types_, size, expected), (types_there, size_there, there) = found.values()
    assert (types_, size) == (types_there, size_there)
    assert there == pytest.approx(expected, rel=0.02)


def test_the_workers_of_an_executor_need_no_device(models, tmp_path):
    source, found = models / "llama.gguf", []
    with ThreadPoolExecutor(2) as pool:
        for where in ("cpu", NAME):
            out = tmp_path / f"{where.replace(':', '-')}.gguf"
            quantreg.quantize_file(source, out, "IQ4_NL", device=where, executor=pool, **TEXT)
            found.append(quantreg.kl_divergence(out, source, OTHER, n_ctx=N_CTX).kl_mean)
    assert found[1] == pytest.approx(found[0], rel=0.02)


@pytest.mark.parametrize("name", ["llama", "llama-experts"])
def test_a_target_gets_the_plan_that_it_gets_with_numpy(models, name):
    given = {"target_bpw": 5.0, "types": "Q4_0,Q5_0,Q8_0", **TEXT}
    found, expected = (quantreg.plan(models / f"{name}.gguf", device=where, **given).tensors for where in (NAME, "cpu"))
    assert [(t.name, t.to_type) for t in found] == [(t.name, t.to_type) for t in expected]


def test_perplexity_divergence_and_importance_are_those_of_numpy(models):
    path, tokens = models / "llama-experts.gguf", OTHER
    there = {"n_ctx": N_CTX, "device": NAME}
    found, expected = (quantreg.perplexity(path, tokens, n_ctx=N_CTX, device=d) for d in (NAME, None))
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-5)
    assert quantreg.kl_divergence(path, path, tokens, **there).kl_mean == pytest.approx(0, abs=1e-6)
    mine, theirs = quantreg.collect_imatrix(path, tokens, **there), quantreg.collect_imatrix(path, tokens, n_ctx=N_CTX)
    assert set(mine) == set(theirs)
    assert all(np.allclose(mine[name], theirs[name], rtol=1e-3) for name in mine)


# ---- no mixtures ----


class Stop(Exception):  # noqa: N818
    pass


def test_a_run_that_was_begun_on_another_device_does_not_go_on(models, tmp_path):
    source, out = models / "llama.gguf", tmp_path / "out.gguf"

    def stop(event):
        if isinstance(event, TensorTuned):
            raise Stop

    with pytest.raises(Stop):
        quantreg.quantize_file(source, out, "Q4_0", resumable=True, progress=stop, device=NAME, **TEXT)
    identity = re.escape(f"another device ('{open_device(NAME).identity}"[:40])
    with pytest.raises(OutputError, match=identity):
        quantreg.quantize_file(source, out, "Q4_0", resume=True, **TEXT)
    quantreg.quantize_file(source, out, "Q4_0", resume=True, device=NAME, **TEXT)
    quantreg.quantize_file(source, tmp_path / "whole.gguf", "Q4_0", device=NAME, **TEXT)
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_a_tuning_cache_of_another_device_is_refused_and_kept(models, tmp_path):
    cache = tmp_path / "tuning.npz"
    given = {"target_bpw": 5.0, "types": "Q4_0,Q5_0,Q8_0", "tuning_cache": cache, **TEXT}
    quantreg.plan(models / "llama.gguf", **given)
    before = cache.read_bytes()
    with pytest.raises(PlanError, match="another device"):
        quantreg.plan(models / "llama.gguf", device=NAME, **given)
    assert cache.read_bytes() == before


def test_the_same_name_is_the_same_device():
    assert open_device(NAME) is open_device(NAME)
    assert open_device("torch:cpu").name == "torch:cpu"
