"""Metadata that no model can have are one clear error when the model is loaded."""

import numpy as np
import pytest
import small_models

import quantreg

WRONG = {
    "text instead of a number": ("gpt-oss", "attention.layer_norm_rms_epsilon", "small"),
    "a list instead of a number": ("deepseek2", "attention.key_length_mla", [40]),
    "a half": ("gemma4", "attention.key_length_swa", 16.5),
    "a number that is none": ("qwen35", "ssm.state_size", float("nan")),
    "infinity": ("qwen35", "ssm.state_size", float("inf")),
    "no groups": ("mamba2", "ssm.group_count", 0),
    "fewer values than keys": ("qwen3next", "ssm.time_step_rank", 1),
    "no kernel": ("lfm2", "shortconv.l_cache", 0),
    "too many layers": ("llama", "block_count", 1_000_000_000),
    "more rotated values than a head has": ("glm4", "rope.dimension_count", 1_000_000_000),
    "no layer with keys": ("gemma4", "attention.shared_kv_layers", 5),
    "an unknown router": ("glm4moe", "expert_gating_func", 4),
    "no chunks": ("llama4", "attention.sliding_window", 0),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_metadata_are_an_error_that_names_what_is_wrong(case, tmp_path):
    name, key, value = WRONG[case]
    small = small_models.build(name)
    small_models.write(small, tmp_path / "small.gguf")
    with quantreg.load(tmp_path / "small.gguf") as model:
        metadata = {**model.metadata, f"{small.architecture}.{key}": value}
        with pytest.raises(quantreg.ModelError) as error:
            quantreg.Model(metadata, model.tensors)
        message = str(error.value)
        assert key in message or "do not fit together" in message or "expected" in message
        assert "\n" not in message


@pytest.mark.filterwarnings("ignore:the graph of .* does not use")
@pytest.mark.parametrize("name", ["gpt-oss", "deepseek2", "qwen35moe", "gemma4", "bert", "jamba", "falcon-h1", "lfm2"])
def test_a_model_without_one_of_its_tensors_does_not_load_or_does_not_need_it(name, tmp_path):
    small = small_models.build(name)
    small_models.write(small, tmp_path / "small.gguf")
    ids = small_models.token_ids(name, small.vocab)[:4]
    with quantreg.load(tmp_path / "small.gguf") as model:
        for tensor in model.tensors:
            rest = {each: value for each, value in model.tensors.items() if each != tensor}
            try:
                other = quantreg.Model(model.metadata, rest)
            except quantreg.ModelError:
                continue
            assert np.isfinite(other.states(ids)).all(), tensor
