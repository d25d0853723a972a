"""A model whose file holds more than its graph uses: a variant that quantreg does not know, or what is not needed."""

import numpy as np
import pytest
import small_models

import quantreg


def load_with(small, extra, folder):
    small.tensors |= {name: np.ones((8, 8), np.float32) for name in extra}
    small_models.write(small, folder / "model.gguf")
    with quantreg.load(folder / "model.gguf") as model:
        return model.logits([1, 2, 3])


def test_tensors_that_the_graph_does_not_use_are_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="graph of llama does not use 'blk.0.attn_gate.weight' and 1 other tensors"):
        load_with(small_models.build("llama"), ("blk.0.attn_gate.weight", "blk.1.attn_gate.weight"), tmp_path)


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_q.input_scale", "blk.2.nextn.eh_proj.weight", "rope_factors_long.weight", "cls.output.weight"],
)
def test_a_model_may_have_tensors_that_its_logits_do_not_need(name, tmp_path):
    load_with(small_models.build("llama"), (name,), tmp_path)
