"""What is wrong with a published folder is said by name, with what to do, before any tensor is read."""

import json
import re
import struct
from contextlib import suppress

import numpy as np
import pytest
from published import WIDTH, change_config, write_llama

import quantreg

Q = "model.layers.1.self_attn.q_proj.weight"


def refused(folder, message, error=quantreg.CheckpointError):
    with pytest.raises(error, match=message) as found:
        quantreg.plan(folder, "Q4_K_M")
    assert len(str(found.value)) < 4000  # the longest lists all classes that are known
    return str(found.value)


def test_a_missing_shard_is_named(tmp_path):
    folder = write_llama(tmp_path / "m")
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, r"model-00002-of-00002\.safetensors is missing", quantreg.SafetensorsError)
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, r"model-00002-of-00002\.safetensors is missing", quantreg.SafetensorsError)


def test_an_index_that_names_another_file_is_refused(tmp_path):
    folder = write_llama(tmp_path / "m")
    path = folder / "model.safetensors.index.json"
    told = json.loads(path.read_text())
    told["weight_map"][Q] = next(name for name in set(told["weight_map"].values()) if name != told["weight_map"][Q])
    path.write_text(json.dumps(told))
    refused(folder, "but it is not", quantreg.SafetensorsError)


def test_missing_tensors_are_named_with_their_number(tmp_path):
    folder = write_llama(tmp_path / "m", tensors={Q: None, "model.norm.weight": None})
    refused(folder, r"lacks 2 tensors that a LlamaForCausalLM has \(the first is model\.norm\.weight\)")


def test_tensors_that_no_row_takes_are_named(tmp_path):
    folder = write_llama(tmp_path / "m", tensors={"model.layers.0.self_attn.extra.weight": ("F32", (4, 4))})
    refused(folder, r"model\.layers\.0\.self_attn\.extra\.weight.*`ignored`.*docs/checkpoints\.md")


def test_tensors_that_hold_no_weights_are_left_out(tmp_path):
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (16,)),
        "model.layers.0.attention.masked_bias": ("F32", ()),
    }
    folder = write_llama(tmp_path / "m", tensors=extra)
    assert len(quantreg.plan(folder, "Q4_K_M").tensors) == 21


def test_more_layers_than_config_json_says_are_left_over_and_fewer_are_missing(tmp_path):
    folder = write_llama(tmp_path / "m")
    change_config(folder, num_hidden_layers=1)
    refused(folder, r"does not have.*model\.layers\.1\.")
    change_config(folder, num_hidden_layers=3)
    refused(folder, "says that the model has 3 layers, but .* has tensors of 2")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", (96, 255)),
        ("lm_head.weight", (95, WIDTH)),
        ("model.layers.1.self_attn.k_proj.weight", (160, WIDTH)),
        ("model.layers.1.self_attn.v_proj.weight", (64, WIDTH)),
        ("model.layers.1.mlp.down_proj.weight", (WIDTH, 500)),
        ("model.layers.0.input_layernorm.weight", (WIDTH, 1)),
        ("model.norm.weight", (12,)),
    ],
)
def test_a_tensor_of_a_wrong_shape_is_named_with_the_shape_that_config_json_asks_for(tmp_path, name, shape):
    folder = write_llama(tmp_path / "m", tensors={name: ("BF16", shape)})
    refused(folder, rf"has the shape {re.escape(str(list(shape)))}, but config\.json asks for \[")


def test_rows_that_are_not_heads_are_refused(tmp_path):
    folder = write_llama(tmp_path / "m", tensors={Q: ("BF16", (250, WIDTH))})
    refused(folder, rf"{re.escape(Q)} \(for blk\.1\.attn_q\.weight\): the 250 rows .* are not 8 heads")


def test_a_type_that_holds_no_weights_is_refused(tmp_path):
    folder = write_llama(tmp_path / "m", tensors={Q: ("U8", (WIDTH, WIDTH))})
    refused(folder, "is stored as U8, but expected one of F32, F16, BF16 and FP8")


def test_an_output_matrix_may_be_missing_only_if_it_can_be_tied(tmp_path):
    tied = write_llama(tmp_path / "tied", tensors={"lm_head.weight": None}, tie_word_embeddings=True)
    assert "output.weight" not in {tensor.name for tensor in quantreg.plan(tied, "Q4_K_M").tensors}
    with quantreg.load(tied) as model:
        assert np.isfinite(model.logits([3, 4])).all()
    change_config(tied, tie_word_embeddings=False)
    refused(tied, r"lacks 1 tensor .*\(lm_head\.weight\)")
    both = write_llama(tmp_path / "both", tie_word_embeddings=True)  # some files hold it all the same
    assert "output.weight" in {tensor.name for tensor in quantreg.plan(both, "Q4_K_M").tensors}


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "compressed-rubbish"])
def test_packed_weights_are_refused_with_the_reason(tmp_path, method):
    folder = write_llama(tmp_path / "m", quantization_config={"quant_method": method, "bits": 4})
    refused(folder, rf"quantized already, with quant_method '{method}'.*start from the BF16 or F16 model")


def test_packed_tensors_are_refused_although_config_json_says_nothing(tmp_path):
    folder = write_llama(tmp_path / "m", tensors={Q: None, Q.replace("weight", "qweight"): ("I32", (4, 4))})
    refused(folder, "as GPTQ and AWQ store them", quantreg.SafetensorsError)


def test_an_unknown_class_is_refused_with_those_that_are_known_and_the_hook(tmp_path):
    folder = write_llama(tmp_path / "m", architectures=["WonderForCausalLM"])
    message = refused(folder, "no plugin knows how the class 'WonderForCausalLM' becomes GGUF")
    assert "LlamaForCausalLM" in message
    assert "register_architectures" in message
    with pytest.raises(quantreg.CheckpointError, match="WonderForCausalLM"):
        quantreg.convert(folder, tmp_path / "x.gguf")


def test_a_class_that_is_not_named_is_told_by_the_model_type(tmp_path):
    folder = write_llama(tmp_path / "m", architectures=...)
    assert quantreg.plan(folder, "Q4_K_M").tensors


NUMBERS = {
    "num_attention_heads": [0, -1, "8", 8.0, True, 10**30, None, [], {}, 7, 3],
    "num_key_value_heads": [0, -4, "x", 10**30, 5, {}],
    "num_hidden_layers": [0, -1, 2**31 - 1, 10**30, "2", 1.5, None],
    "hidden_size": [0, -256, 10**30, 255, "w", {}],
    "vocab_size": [0, -1, 10**30, 1, "v"],
    "intermediate_size": [0, 10**30, 1, "f"],
    "rms_norm_eps": ["e", {}, [1], float("nan"), float("inf"), 10**400],
    "rope_theta": ["t", {}, float("nan"), 10**400],
    "rope_scaling": [7, "x", {"rope_type": "llama3", "factor": "y"}, {"rope_type": "llama3", "factor": 0},
                     {"rope_type": "linear", "factor": {}}, {"rope_type": "yarn", "factor": 2.0},
                     {"rope_type": ["llama3"]}, {"full_attention": 7}, {"type": "llama3", "high_freq_factor": 1}],
    "head_dim": [0, -1, 10**30, "h", 31, 64],
    "max_position_embeddings": [-1, 10**30, "c"],
    "architectures": [7, [7], ["LlamaForCausalLM"] * 3, {}, [None]],
    "model_type": [7, {}],
    "text_config": [7, {}, {"num_hidden_layers": -1}],
    "quantization_config": [7, [], {"quant_method": 7}],
    "tie_word_embeddings": ["yes", 7],
    "torch_dtype": [7],
    "bos_token_id": ["x", -1, 10**30, {}, [1, 2]],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NUMBERS.items() for value in values])
def test_absurd_values_are_errors_of_ours_or_do_no_harm(tmp_path, name, value):
    folder = write_llama(tmp_path / "m", shards=1)
    change_config(folder, **{name: value})
    with suppress(quantreg.QuantregError):  # anything else, or a run without end, fails the test
        assert len(quantreg.plan(folder, "Q4_K_M").tensors) >= 21


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[]", "expected a JSON object"),
        ('{"architectures": ["Llama', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"a": 1, "a": 2}', "twice|two|duplicate"),
        ("\x00\x01", "is not JSON"),
    ],
)
def test_a_damaged_config_json_is_named(tmp_path, text, message):
    folder = write_llama(tmp_path / "m", shards=1)
    (folder / "config.json").write_text(text)
    refused(folder, message, quantreg.QuantregError)


def test_a_huge_config_json_is_not_read(tmp_path):
    folder = write_llama(tmp_path / "m", shards=1)
    with (folder / "config.json").open("r+b") as file:
        file.truncate(1 << 40)
    refused(folder, "no configuration has more")


def test_a_folder_without_weights_says_what_is_missing(tmp_path):
    folder = write_llama(tmp_path / "m", shards=1)
    (folder / "model.safetensors").unlink()
    refused(folder, "without weights", quantreg.GGUFFormatError)
    with pytest.raises(quantreg.CheckpointError, match="safetensors"):
        quantreg.convert(folder, tmp_path / "x.gguf")


@pytest.mark.parametrize("number", ["99999999999999999999", "999999999"])
def test_a_name_with_an_absurd_number_of_a_layer_is_left_over(tmp_path, number):
    name = f"model.layers.{number}.mlp.up_proj.weight"
    refused(write_llama(tmp_path / "m", tensors={name: ("F32", (4,))}), re.escape(name))


def test_a_tokenizer_that_is_missing_is_an_error(tmp_path):
    folder = write_llama(tmp_path / "m", shards=1)
    (folder / "tokenizer.model").unlink()
    refused(folder, "tokenizer", quantreg.TokenizerError)


def mixtral(tmp_path, change):
    """A folder of a model with experts, whose tensors `change` has changed."""
    from checkpoints import load, patterns, stated, write_folder

    golden, _ = load("mixtral")
    tensors = stated(golden["checkpoint"])
    change(tensors)
    write_folder("mixtral", golden | {"checkpoint": patterns(tensors)}, tmp_path / "m")
    return tmp_path / "m"


def test_a_missing_expert_is_named(tmp_path):
    name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    folder = mixtral(tmp_path, lambda tensors: tensors.pop(name))
    refused(folder, re.escape(f"lacks 1 tensor that a MixtralForCausalLM has ({name})"))


def test_fewer_experts_than_config_json_says_are_refused(tmp_path):
    folder = mixtral(tmp_path, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".experts.3." in name])
    refused(folder, r"lacks 6 tensors .*model\.layers\.0\.block_sparse_moe\.experts\.3\.w1\.weight")


def test_experts_of_different_shapes_are_refused(tmp_path):
    name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"

    def change(tensors):
        dtype, (rows, cols) = tensors[name]
        tensors[name] = (dtype, (rows + 1, cols))

    refused(
        mixtral(tmp_path, change), r"experts\.0\.w1\.weight and 3 more \(for blk\.1\.ffn_gate_exps\.weight\): the shape"
    )


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    folder = write_llama(tmp_path / "m", shards=1)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, "cut off", quantreg.SafetensorsError)


def test_nan_in_a_tensor_that_is_reordered_is_found(tmp_path):
    folder = write_llama(tmp_path / "m", shards=1)
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", raw)
    start, _ = json.loads(raw[8 : 8 + length])[Q]["data_offsets"]
    raw[8 + length + start : 8 + length + start + 2] = b"\xc0\x7f"
    path.write_bytes(raw)
    for type_ in ("Q4_K_M", "COPY"):
        with pytest.raises(quantreg.NonFiniteError, match=r"blk\.1\.attn_q\.weight"):
            quantreg.quantize_file(folder, tmp_path / "x.gguf", type_)
