"""Models as people really bring them: damaged, half downloaded, or not a model at all."""

import json
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from plan_models import header, llama, make

import quantreg
from quantreg import cli
from quantreg.recipes.kinds import kind_of_file

RNG = np.random.default_rng(5)
F16 = RNG.standard_normal((64, 256)).astype(np.float16)
KEYS = {
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.embedding_length": 256,
    "tokenizer.ggml.tokens": [f"<{i}>" for i in range(64)],
}


def tensors(n_layers=3):
    layers = {f"blk.{i}.{role}.weight": F16 for i in range(n_layers) for role in ("attn_q", "ffn_down")}
    return {"token_embd.weight": F16, **layers, "output.weight": F16}


def written(tmp_path, keys=KEYS, found=None):
    quantreg.write(tmp_path / "in.gguf", keys, found or tensors(), force=True)
    return tmp_path / "in.gguf"


def both(path, tmp_path, **options):
    """The problems that validate finds in a model, and the warnings of quantizing it."""
    result = quantreg.quantize_file(path, tmp_path / "out.gguf", "Q8_0", force=True, **options)
    return quantreg.validate(path).problems, result.warnings


# ---- metadata that the tensors contradict ----


def test_a_vocabulary_of_another_size_than_the_embeddings_is_told(tmp_path):
    path = written(tmp_path, KEYS | {"tokenizer.ggml.tokens": ["a", "b", "c"]})
    problems, warnings = both(path, tmp_path)
    assert problems == warnings
    assert problems[0].startswith("token_embd.weight has 64 rows, but tokenizer.ggml.tokens has 3 tokens: ")
    assert quantreg.plan(path, "Q8_0").warnings == warnings


def test_an_embedding_length_that_is_not_that_of_the_embeddings_is_told(tmp_path):
    path = written(tmp_path, KEYS | {"llama.embedding_length": 512})
    problems, warnings = both(path, tmp_path)
    assert problems == warnings
    assert problems[0].startswith("token_embd.weight has rows of 256 weights, but llama.embedding_length is 512")
    assert both(path, tmp_path, override_kv={"llama.embedding_length": 256})[1] == ()


@pytest.mark.parametrize("key", ["attention.head_count", "attention.head_count_kv", "feed_forward_length"])
def test_an_array_without_one_value_per_layer_is_told(tmp_path, key):
    path = written(tmp_path, KEYS | {f"llama.{key}": [8, 8, 8, 8]})
    problems, warnings = both(path, tmp_path)
    assert problems == warnings
    assert problems[0].startswith(f"llama.{key} has 4 values, but llama.block_count is 3")
    assert both(written(tmp_path, KEYS | {f"llama.{key}": [8, 8, 8]}), tmp_path) == ((), ())


def test_models_without_a_vocabulary_or_with_embeddings_of_another_kind_are_not_concerned(tmp_path):
    assert both(written(tmp_path, {key: KEYS[key] for key in list(KEYS)[:3]}), tmp_path) == ((), ())
    other = {"general.architecture": "wavtokenizer-dec", "wavtokenizer-dec.embedding_length": 512}
    assert quantreg.validate(written(tmp_path, other, {"token_embd.weight": F16})).ok


# ---- layers that are pruned ----


def test_pruning_takes_the_values_of_the_layers_out_of_arrays_with_one_value_per_layer(tmp_path):
    keys = KEYS | {
        "llama.attention.head_count_kv": quantreg.gguf.Value("array[u32]", [1, 2, 3]),
        "llama.attention.sliding_window_pattern": [True, False, True],
        "llama.rope.dimension_sections": [16, 24, 24],
        "llama.rope.freqs": [0.5, 0.25],
        "other.head_count": [1, 2, 3],
    }
    path = written(tmp_path, keys)
    result = quantreg.quantize_file(path, tmp_path / "out.gguf", "Q8_0", prune_layers=[1])
    with quantreg.open(result) as model:
        kept = model.metadata
        assert kept["llama.block_count"] == 2
        assert kept["llama.attention.head_count_kv"] == [1, 3]
        assert kept.value_type("llama.attention.head_count_kv") == "array[u32]"
        assert kept["llama.attention.sliding_window_pattern"] == [True, True]
        for key in ("llama.rope.dimension_sections", "llama.rope.freqs", "other.head_count"):
            assert kept[key] == keys[key]
    assert quantreg.validate(result.paths[0]).ok


def test_a_plan_file_prunes_arrays_as_the_run_does(tmp_path):
    path = written(tmp_path, KEYS | {"llama.attention.head_count_kv": [1, 2, 3]})
    quantreg.write_plan(quantreg.plan(path, "Q8_0", prune_layers=[0]), tmp_path / "p.json")
    result = quantreg.quantize_file(path, tmp_path / "out.gguf", quantreg.read_plan(tmp_path / "p.json", path))
    with quantreg.open(result) as model:
        assert model.metadata["llama.attention.head_count_kv"] == [2, 3]


def test_an_array_that_the_user_gives_is_not_pruned():
    given = quantreg.gguf.Value("array[i32]", [7, 8, 9])
    model = header(llama().tensors, {**llama().metadata, "llama.attention.head_count_kv": [1, 2, 3, 4]})
    edits = make(model, "Q8_0", prune_layers=[1], override_kv={"llama.attention.head_count_kv": given}).metadata
    assert [edit.value for edit in edits if edit.key == "llama.attention.head_count_kv"] == [[7, 8, 9]]


# ---- downloads that are not finished ----


def with_hole(path, tmp_path, first, last=None):
    """A copy of a model in which the bytes of the tensors from first to last are zeros."""
    head = quantreg.gguf.read_header(path)
    found = {info.name: info for info in head.tensors}
    raw = bytearray(path.read_bytes())
    start = head.data_offset + found[first].offset
    stop = len(raw) if last is None else head.data_offset + found[last].offset + found[last].nbytes
    raw[start:stop] = bytes(stop - start)
    (tmp_path / "hole.gguf").write_bytes(raw)
    return tmp_path / "hole.gguf"


@pytest.mark.parametrize("file_type", ["Q8_0", "COPY", "F32"])
def test_a_model_whose_end_was_never_downloaded_is_told(tmp_path, file_type):
    path = with_hole(written(tmp_path), tmp_path, "blk.2.attn_q.weight")
    (problem,) = quantreg.validate(path).problems
    assert problem == (
        "the last 3 tensors of the file (from blk.2.attn_q.weight on) hold nothing but zeros: the download or copy is "
        "unfinished: make it again"
    )
    for threads in (1, 2):
        result = quantreg.quantize_file(path, tmp_path / "out.gguf", file_type, threads=threads, force=True)
        (warning,) = (text for text in result.warnings if "nothing but zeros" in text)
        assert warning.startswith("3 matrices (the first is output.weight) hold nothing but zeros: if that is not on")


def test_a_shard_whose_end_was_never_downloaded_is_named(tmp_path):
    quantreg.split(written(tmp_path), tmp_path / "s", split_max_tensors=4)
    shard = tmp_path / "s-00001-of-00002.gguf"
    raw = bytearray(shard.read_bytes())
    raw[-F16.nbytes :] = bytes(F16.nbytes)
    shard.write_bytes(raw)
    (problem,) = quantreg.validate(tmp_path / "s-00002-of-00002.gguf").problems
    assert problem.startswith(f"{shard}: the last tensor of the file (")


def test_zeros_in_the_middle_are_only_a_warning(tmp_path):
    path = with_hole(written(tmp_path), tmp_path, "blk.1.attn_q.weight", "blk.1.ffn_down.weight")
    found = quantreg.validate(path)
    assert found.ok
    assert found.warnings[0].startswith("2 matrices (the first is blk.1.attn_q.weight) hold nothing but zeros")


def test_biases_of_zeros_and_empty_tensors_are_nothing_to_tell(tmp_path):
    more = {"z.bias": np.zeros(64, np.float32), "z.weight": np.zeros((0, 256), np.float32)}
    assert both(written(tmp_path, found=tensors() | more), tmp_path) == ((), ())
    assert quantreg.validate(tmp_path / "in.gguf").warnings == ()


def test_the_command_tells_an_unfinished_download(tmp_path, capsys):
    path = with_hole(written(tmp_path), tmp_path, "blk.2.attn_q.weight")
    assert cli.main(["validate", str(path)]) == 1
    assert "the download or copy is unfinished" in capsys.readouterr().out


def test_processes_see_zeros_too(tmp_path):
    path = with_hole(written(tmp_path), tmp_path, "blk.2.attn_q.weight")
    with ProcessPoolExecutor(1) as executor:
        result = quantreg.quantize_file(path, tmp_path / "out.gguf", "Q8_0", executor=executor)
    assert any("hold nothing but zeros" in text for text in result.warnings)


# ---- safetensors that are adapters, or whose names a wrapper has changed ----


def safetensors(path, found):
    head, body = {}, b""
    for name, x in found.items():
        data = x.tobytes()
        head[name] = {"dtype": "F16", "shape": list(x.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


@pytest.mark.parametrize(
    "parts",
    [
        ("base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight", "lora_B.weight"),
        ("lora_unet_double_blocks_{}_img_attn_proj.lora_down.weight", "lora_up.weight", "alpha"),
        ("diffusion_model.double_blocks.{}.img_attn.proj.lora_A.weight", "lora_B.weight"),
        ("transformer.transformer_blocks.{}.attn.to_k.lora_A.default.weight", "lora_B.default.weight"),
        ("lycoris_blocks_{}_attn.lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"),
    ],
)
def test_an_adapter_in_safetensors_is_told(tmp_path, parts):
    first, *others = parts
    stem = first[: first.rindex(".lo")]
    names = [name.format(i) for i in range(2) for name in (first, *(f"{stem}.{other}" for other in others))]
    path = safetensors(tmp_path / "lora.safetensors", dict.fromkeys(names, F16[:16]))
    result = quantreg.quantize_file(path, tmp_path / "out.gguf", "Q8_0")
    (warning,) = (text for text in result.warnings if "adapter" in text)
    assert warning.startswith("the input is a LoRA adapter, which is used beside its model: merge it into the model")
    assert not any("Hugging Face" in text for text in result.warnings)


def test_a_model_with_a_few_tensors_of_an_adapter_is_a_model():
    names = [f"blk.{i}.attn_q.weight" for i in range(4)] + ["blk.0.attn_q.lora_A.weight"]
    assert kind_of_file({}, names) is None


# ---- stacks of very small matrices ----


def test_a_convolution_is_cut_into_slabs_by_size_not_by_matrix(tmp_path):
    x = RNG.standard_normal((256, 256, 1, 1)).astype(np.float32)
    quantreg.write(tmp_path / "c.gguf", {}, {"c.weight": x})
    steps = []
    result = quantreg.quantize_file(tmp_path / "c.gguf", tmp_path / "o.gguf", "F16", progress=steps.append)
    assert sum(type(event).__name__ == "Advanced" for event in steps) == 1
    with quantreg.open(result) as model:
        np.testing.assert_array_equal(model["c.weight"].dequantize().ravel(), x.astype(np.float16).ravel())
