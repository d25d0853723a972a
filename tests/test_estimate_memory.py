"""quantreg estimate MODEL: the files of all file types, the cache of a context, and which of them fit in a memory."""

import json

import pytest
import small_model
import small_models

import quantreg
from quantreg.errors import ModelError, PlanError
from quantreg.inference.memory import run_memory
from quantreg.sizes import parse_bytes

MIB = 1 << 20

# What the reference reports for small models of many kinds with a context of 2048 tokens, a batch of 512 and one
# sequence: MiB of keys and values, layers with keys and values, MiB of recurrent states. To two decimals.
CACHES = {
    "llama": (0.5, 2, 0), "llama-embed": (0.5, 2, 0), "llama4": (2.0, 4, 0), "deepseek2": (0.75, 3, 0),
    "deepseek2-old": (3.38, 3, 0), "minicpm3": (3.38, 3, 0), "bert": (0, 0, 0), "baichuan": (8.0, 32, 0),
    "cohere2": (0.63, 5, 0), "command-r": (0.75, 3, 0), "deci": (0.62, 5, 0), "falcon-h1": (0.5, 2, 0.02),
    "gemma2": (1.03, 4, 0), "gemma3": (1.22, 7, 0), "gemma3-pattern": (2.06, 4, 0), "gemma3-whole": (1.12, 3, 0),
    "gemma3n": (3.75, 20, 0), "gemma4": (0.69, 3, 0), "glm4moe": (1.5, 3, 0), "gpt-oss": (1.38, 4, 0),
    "granitehybrid": (0.25, 1, 0.02), "jamba": (0.25, 1, 0.02), "kimi-linear": (0.25, 1, 0.01), "lfm2": (0.25, 1, 0.0),
    "lfm2-window": (0.09, 1, 0.0), "mamba": (0, 0, 0.02), "mamba2": (0, 0, 0.02), "mellum": (0.53, 4, 0),
    "mimo2": (0.52, 3, 0), "nemotron_h": (0.25, 1, 0.02), "olmo3": (0.53, 4, 0), "phi3": (0.75, 3, 0),
    "plm": (3.38, 3, 0), "qwen35": (0.5, 1, 0.01), "qwen3next": (0.5, 1, 0.01), "smallthinker": (0.75, 3, 0),
    "smallthinker-whole": (0.75, 3, 0), "afmoe": (1.06, 4, 0), "exaone4-windows": (4.25, 64, 0),
    "gemma-embedding": (0, 0, 0),
}  # fmt: skip
EMPTY = {"deci": 2}  # layers that the reference counts although they keep nothing


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("estimate") / "small.gguf"
    small_model.write_model(path)
    return path


def metadata(architecture="llama", **keys):
    usual = {
        "block_count": 32, "context_length": 131072, "embedding_length": 4096, "attention.head_count": 32,
        "attention.head_count_kv": 8,
    }  # fmt: skip
    found = {f"{architecture}.{key}": value for key, value in (usual | keys).items()}
    return {"general.architecture": architecture, **found}


@pytest.mark.parametrize("name", sorted(CACHES))
def test_the_cache_is_as_large_as_that_of_the_reference(name, tmp_path):
    small = small_models.build(name)
    small_models.write(small, tmp_path / "small.gguf")
    with quantreg.open(tmp_path / "small.gguf") as file:
        found = run_memory(file.metadata, small.vocab, 2048)
    keys_values, layers, states = CACHES[name]
    assert found.keys_values / MIB == pytest.approx(keys_values, abs=0.011)
    assert found.states / MIB == pytest.approx(states, abs=0.011)
    assert found.layers == layers - EMPTY.get(name, 0)


def test_the_cache_of_llama_3_1_8b_takes_a_gib_for_8192_tokens():
    found = run_memory(metadata(), 128256, 8192)
    assert found.keys_values == 32 * 8 * 128 * 2 * 2 * 8192 == 1 << 30
    assert run_memory(metadata(), 128256) == found  # 8192 tokens are the default
    assert run_memory(metadata(), 128256, 16384).keys_values == 2 << 30
    assert (found.layers, found.windowed, found.states) == (32, 0, 0)


def test_a_context_is_rounded_up_as_the_reference_does():
    assert run_memory(metadata(), 1000, 1).keys_values == run_memory(metadata(), 1000, 256).keys_values
    assert run_memory(metadata(), 1000, 257).keys_values == run_memory(metadata(), 1000, 512).keys_values


def test_layers_with_a_window_do_not_grow_with_the_context():
    gemma = metadata("gemma3", **{"attention.sliding_window": 1024})
    short, long = (run_memory(gemma, 1000, n) for n in (8192, 65536))
    assert short.windowed == 32 - 32 // 6
    per_token = 2 * 2 * 8 * 128
    assert short.keys_values == per_token * (5 * 8192 + 27 * 1536)
    assert long.keys_values - short.keys_values == per_token * 5 * (65536 - 8192)


def test_latent_attention_keeps_one_vector_per_token():
    keys = {
        "attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512,
        "attention.key_length_mla": 192, "attention.value_length_mla": 128,
    }  # fmt: skip
    assert run_memory(metadata("deepseek2", **keys), 1000, 1024).keys_values == 32 * 576 * 2 * 1024


def test_recurrent_layers_keep_a_state_whatever_the_context():
    keys = {"ssm.conv_kernel": 4, "ssm.inner_size": 8192, "ssm.state_size": 16, "attention.head_count_kv": 0}
    short, long = (run_memory(metadata("mamba", **keys), 1000, n) for n in (256, 4096))
    assert short.keys_values == long.keys_values == 0
    assert short.states == long.states == 32 * 4 * (3 * (8192) + 16 * 8192)
    both = [0 if i % 8 else 8 for i in range(32)]
    found = run_memory(metadata("jamba", **(keys | {"attention.head_count_kv": both})), 1000, 256)
    assert found.layers == 4
    assert found.states == short.states // 32 * 28


def test_a_model_without_a_known_architecture_counts_all_its_layers():
    assert run_memory(metadata("nobody"), 1000, 8192).keys_values == 1 << 30


@pytest.mark.parametrize("context", [0, -5, 1.5, True, "8192", 1 << 40])
def test_a_context_that_is_no_number_of_tokens_is_refused(context):
    with pytest.raises(ModelError, match="expected a number of tokens, 1 or more"):
        run_memory(metadata(), 1000, context)


def test_sizes_in_bytes_are_numbers_with_a_unit():
    assert parse_bytes("8GB") == parse_bytes("8 gb") == parse_bytes("8G") == parse_bytes(8 * 10**9) == 8 * 10**9
    assert parse_bytes("4.2GB") == 4_200_000_000
    assert parse_bytes("7.5GiB") == 15 << 29
    assert parse_bytes("123456") == parse_bytes("123456B") == 123456
    for bad in ("", "GB", "-1GB", "0", "0.0GB", "1e9", "nan", "8 giga", "8GBB", "9" * 18 + "TB", True, 0, None):
        with pytest.raises(PlanError, match=r"memory .*expected"):
            parse_bytes(bad, "memory")


def test_a_file_is_as_large_as_what_quantize_writes(model, tmp_path):
    for name in ("Q4_K_M", "Q8_0", "IQ4_NL"):
        (found,) = quantreg.estimate_model(model, name).types
        out = tmp_path / f"{name}.gguf"
        quantreg.quantize_file(model, out, name)
        assert found.file_bytes == out.stat().st_size
        assert found.plan.file_type.name == found.type == name


def test_what_fits_is_within_the_memory_together_with_its_cache(model):
    every = quantreg.estimate_model(model, context=4096)
    sizes = [e.file_bytes for e in every.types]
    assert sizes == sorted(sizes)
    assert every.run.keys_values == 4 * 2 * 64 * 2 * 2 * 4096
    assert all(e.fits is None for e in every.types)
    assert every.best is every.target is None
    memory = every.types[len(sizes) // 2].total
    some = quantreg.estimate_model(model, context=4096, memory=memory)
    assert some.target == memory - some.run.bytes
    for e in some.types:
        assert e.total == e.file_bytes + some.run.bytes
        assert e.fits == (e.file_bytes <= some.target)
    assert {e.fits for e in some.types} == {True, False}
    assert some.best.fits
    better = [e for e in some.types if e.fits and "_K" in e.type]
    assert some.best.file_bytes >= max(e.file_bytes for e in better)


def test_no_file_type_that_is_larger_than_the_model_is_recommended(model):
    assert quantreg.estimate_model(model, memory="1TB").best.type == "F16"


def test_nothing_fits_in_too_little_memory(model, run):
    found = quantreg.estimate_model(model, memory=1000)
    assert (found.best, found.target) == (None, 0)
    code, out, _ = run("estimate", model, "--memory", "1000")
    assert code == 0
    assert "Nothing fits in 1.00 kB: the smallest takes" in out


def test_the_command_says_which_file_types_fit_and_which_is_best(run, model):
    memory = quantreg.estimate_model(model, "Q5_K_M", context=512).types[0].total
    code, out, err = run("estimate", model, "--memory", memory, "--context", 512)
    assert code == 0
    assert "Q1_0 does not fit rows of 288 values" in err
    heading, *lines = out.splitlines()
    assert heading.split() == ["FILE", "TYPE", "FILE", "TOTAL", "BITS", "PER", "WEIGHT", "FITS", "REMARK"]
    rows = {line.split()[0]: line for line in lines}
    assert " yes " in rows["Q5_K_M"] + " "
    assert " no " in rows["Q8_0"] + " "
    assert "The best file type that fits in" in out
    assert "for 512 tokens of context" in out
    assert "The model was trained on 64 tokens: it may not follow a text of 512." in out
    data = json.loads(run("estimate", model, "--memory", memory, "--context", 512, "--json")[1])
    assert data["memory"] == memory
    assert data["target_bytes"] == memory - sum(data["run"][key] for key in ("keys_values", "states", "working"))
    assert {row["type"]: row["fits"] for row in data["types"]}["Q8_0"] is False
    assert data["best"] in {row["type"] for row in data["types"] if row["fits"]}


def test_a_count_of_weights_has_no_cache(run, tmp_path, monkeypatch, model):
    for option in (("--memory", "8GB"), ("--context", "4096")):
        code, _, err = run("estimate", "7B", *option)
        assert code == 2
        assert "need the file of a model" in err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7B").write_bytes(model.read_bytes())
    assert "TOTAL" in run("estimate", "7B")[1]  # an existing file is a model


def test_sizes_that_mean_nothing_are_refused(run, model):
    code, _, err = run("estimate", model, "--memory", "lots")
    assert code == 1
    assert "memory 'lots': expected bytes, or a size such as 8GB" in err
    assert run("estimate", model, "--context", "0")[0] == 2


def test_a_model_that_does_not_run_has_files_but_no_total(run, tmp_path):
    path = tmp_path / "image.gguf"
    tensors = {name: array for name, array in small_model.tensors().items() if "embd" not in name}
    quantreg.write(path, small_model.metadata(), tensors)
    found = quantreg.estimate_model(path)
    assert found.run is None
    assert "no language model" in found.unknown
    assert all(e.total is None for e in found.types)
    code, out, err = run("estimate", path)
    assert code == 0
    assert "TOTAL" not in out
    assert "not known" in err
    with pytest.raises(ModelError, match="not known"):
        quantreg.estimate_model(path, memory="8GB")


def test_a_type_that_the_caller_names_must_fit(model):
    with pytest.raises(quantreg.UnknownFileTypeError):
        quantreg.estimate_model(model, ["Q4_K_N"])
    everything = quantreg.estimate_model(model)
    assert not set(everything.refused) & {e.type for e in everything.types}
