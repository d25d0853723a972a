"""A scale beside a matrix is applied once: by the type of the matrix if it reads it, such as NVFP4, or by the graph."""

import numpy as np
import pytest
import small_models

import quantreg


@pytest.fixture
def nvfp4(tmp_path):
    """A model in NVFP4 with its scales, and the ids that go into it."""
    small = small_models.decoder("scaled", "llama", ff=128)
    small_models.write(small, tmp_path / "plain.gguf")
    quantreg.quantize_file(tmp_path / "plain.gguf", tmp_path / "nvfp4.gguf", "NVFP4")
    return tmp_path / "nvfp4.gguf", small_models.token_ids("scaled", small.vocab)


def dense(model):
    """The same model with every matrix decoded, without scales."""
    arrays = {name: each.dequantize() for name, each in model.tensors.items() if not name.endswith(".scale")}
    decoded = {name: quantreg.QuantizedTensor.from_array(name, array, "F32") for name, array in arrays.items()}
    return quantreg.Model(model.metadata, decoded)


def test_a_scale_that_the_type_reads_is_applied_once(nvfp4):
    path, ids = nvfp4
    with quantreg.load(path) as model:
        assert any(name.endswith(".scale") for name in model.tensors)
        expected = dense(model).logits(ids)
        np.testing.assert_allclose(model.logits(ids), expected, rtol=0, atol=1e-5 * expected.std())


def test_a_tensor_that_replaces_one_with_a_scale_does_not_inherit_it(nvfp4):
    path, ids = nvfp4
    with quantreg.load(path) as model:
        expected, plain = model.logits(ids), dense(model).tensors
        names = [name for name in model.tensors if name.endswith("attn_q.weight")]
        found = model.replaced({name: plain[name] for name in names}).logits(ids)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.std())


def test_a_scale_that_the_type_does_not_read_is_applied_by_the_graph(tmp_path):
    small = small_models.decoder("scaled", "llama")
    small_models.write(small, tmp_path / "plain.gguf")
    name = "blk.0.ffn_down"
    small.tensors[f"{name}.weight"] /= np.float32(4)
    small.tensors[f"{name}.scale"] = np.array([4], np.float32)
    small_models.write(small, tmp_path / "scaled.gguf")
    with quantreg.load(tmp_path / "plain.gguf") as plain, quantreg.load(tmp_path / "scaled.gguf") as scaled:
        ids = small_models.token_ids("scaled", small.vocab)
        np.testing.assert_array_equal(scaled.logits(ids), plain.logits(ids))
