"""Observers see the input of every matrix, as importance matrices need it."""

import numpy as np
import pytest
import small_models

import quantreg

UNUSED = {"deci", "gemma3n"}  # they have matrices that are not used


def observed(name, folder):
    small, path, seen = small_models.build(name), folder / "small.gguf", {}
    small_models.write(small, path)

    def observe(tensor, x, experts):
        assert tensor not in seen or "altup_router" in tensor  # Gemma 3n asks this router twice
        seen[tensor] = x.shape, None if experts is None else experts.shape

    with quantreg.load(path) as model:
        states = model.states(small_models.token_ids(name, small.vocab), observe=observe)
        if model.graph.generates:
            model.output(states, observe=observe)
        return seen, {name: tensor.shape for name, tensor in model.tensors.items()}, model.n_layers


def is_multiplied(name, shape, n_layers):
    """Whether a tensor is a matrix of a layer that runs, and no convolution nor a norm of each head."""
    if not name.startswith("blk.") or not name.endswith(".weight") or len(shape) < 2:
        return False
    part = name.split(".")[-2]
    return "conv" not in part and "norm" not in part and int(name.split(".")[1]) < n_layers


@pytest.mark.parametrize("name", sorted(set(small_models.names()) - UNUSED))
def test_every_matrix_of_a_layer_is_observed_with_its_input(name, tmp_path):
    seen, shapes, n_layers = observed(name, tmp_path)
    assert {each for each, shape in shapes.items() if is_multiplied(each, shape, n_layers)} <= seen.keys()
    for each, (x, experts) in seen.items():
        assert x[-1] == shapes[each][-1]
        assert (experts is not None) == ("_exps." in each)
        assert x[0] == 24


def test_a_stack_that_each_token_goes_through_is_one_matrix(tmp_path):
    seen, shapes, _ = observed("deepseek2", tmp_path)
    for part in ("attn_k_b", "attn_v_b"):
        heads, _, cols = shapes[f"blk.0.{part}.weight"]
        assert seen[f"blk.0.{part}.weight"] == ((24, heads, cols), None)


def test_their_importance_has_a_row_for_each_matrix_and_one_count(tmp_path):
    small = small_models.build("deepseek2")
    small_models.write(small, tmp_path / "small.gguf")
    ids = small_models.token_ids("deepseek2", small.vocab, 48)
    with quantreg.load(tmp_path / "small.gguf") as model:
        inputs = []
        for part in (ids[:24], ids[24:]):
            model.states(part, observe=lambda name, x, _: inputs.append(x) if name == "blk.1.attn_k_b.weight" else None)
        matrix = quantreg.collect_imatrix(model, ids, n_ctx=24)
    expected = sum((x.astype(np.float64) ** 2).sum(axis=0) for x in inputs)
    np.testing.assert_allclose(matrix.sums("blk.1.attn_k_b.weight").reshape(expected.shape), expected, rtol=1e-4)
    assert tuple(matrix.counts("blk.1.attn_k_b.weight")) == (48,)
