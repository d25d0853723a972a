"""A model whose file holds more than its graph uses: a variant that quantreg does not know, or what is not needed."""

import warnings

import numpy as np
import pytest
import small_models

import quantreg


def load_with(small, extra, folder):
    shapes = {"rope_factors_long.weight": (small.head // 2,)}
    small.tensors |= {name: np.ones(shapes.get(name, (8, 8)), np.float32) for name in extra}
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


def test_the_command_prints_the_warning_as_one_line(tmp_path, run):
    small = small_models.build("llama")
    small.tensors["blk.0.attn_gate.weight"] = np.ones((8, 8), np.float32)
    small_models.write(small, tmp_path / "model.gguf")
    (tmp_path / "ids.txt").write_text(" ".join(map(str, small_models.token_ids("ids", small.vocab, 32))))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, err = run("perplexity", tmp_path / "model.gguf", "--ids", tmp_path / "ids.txt", "-c", "16")
    assert code == 0
    assert "warning: the graph of llama does not use 'blk.0.attn_gate.weight': if the model" in err.splitlines()[0]
