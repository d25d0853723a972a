"""What quantreg does with a GGUF model it does with the folder that it was published in, with the same bytes."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from checkpoints import load, write_folder
from click.testing import CliRunner
from published import llama, tensors_of, write_llama
from safetensors_files import save_as

import quantreg
from quantreg import cli
from quantreg.checkpoints import vocabulary_once
from quantreg.events import TensorDone
from quantreg.safetensors.stored import fp8_values

RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("published") / "Small-Llama")


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "m.gguf"
    quantreg.convert(folder, out)
    return out


@pytest.fixture(scope="module")
def text():
    return " ".join(["abcdef ghij klm"] * 300)


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q8_0", "F16", "Q2_K", "IQ4_XS", "COPY"])
def test_a_folder_is_quantized_to_the_bytes_of_its_converted_file(folder, converted, tmp_path, file_type):
    quantreg.quantize_file(folder, tmp_path / "a.gguf", file_type)
    quantreg.quantize_file(converted, tmp_path / "b.gguf", file_type)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_folder_becomes_several_files_with_a_card(folder, converted, tmp_path, text):
    (tmp_path / "text.txt").write_text(text)
    names = ["Q4_K_M", "Q8_0", "F16"]
    out, card = tmp_path / "{type}.gguf", tmp_path / "README.md"
    quantreg.quantize_files(folder, out, names, card=card, card_text=tmp_path / "text.txt")
    for name in names:
        quantreg.quantize_file(converted, tmp_path / "b.gguf", name, force=True)
        assert (tmp_path / f"{name}.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert "Small-Llama, whose perplexity there is" in card.read_text()


def test_a_card_does_not_replace_the_card_of_the_source(tmp_path):
    folder = write_llama(tmp_path / "Small-Llama")
    (folder / "README.md").write_text("precious")
    with pytest.raises(quantreg.OutputError, match="part of the input"):
        quantreg.quantize_files(folder, tmp_path / "{type}.gguf", ["Q8_0"], card=folder / "README.md", force=True)
    assert (folder / "README.md").read_text() == "precious"


def test_a_converted_file_is_bf16_if_the_model_is_stored_so(converted):
    header = quantreg.gguf.read_header(converted)
    assert {t.type_name for t in header.tensors if len(t.dims) > 1} == {"BF16"}
    assert {t.type_name for t in header.tensors if len(t.dims) == 1} == {"F32"}
    assert header.metadata["general.file_type"] == 32
    assert header.metadata["general.name"] == "Small Llama"


def test_an_importance_matrix_collected_on_a_folder_is_that_of_the_file(folder, converted, tmp_path, text):
    a = quantreg.collect_imatrix(folder, text, n_ctx=32, chunks=3)
    b = quantreg.collect_imatrix(converted, text, n_ctx=32, chunks=3)
    assert a.entries.keys() == b.entries.keys()
    for name in a.entries:
        np.testing.assert_array_equal(a.entries[name], b.entries[name])
    a.write(tmp_path / "i.gguf")
    for source, out in ((folder, "a.gguf"), (converted, "b.gguf")):
        quantreg.quantize_file(source, tmp_path / out, "IQ2_XS", tmp_path / "i.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("target", [False, True])
def test_calibration_and_a_target_size_give_the_bytes_of_the_file(folder, converted, tmp_path, text, target):
    size = int(converted.stat().st_size * 0.32)
    options = {"target_size": size, "types": ("Q3_K", "Q4_K")} if target else {"calibration": text, "n_ctx": 16}
    for source, out in ((folder, "a.gguf"), (converted, "b.gguf")):
        quantreg.quantize_file(
            source, tmp_path / out, None if target else "Q4_0", chunks=None if target else 3, threads=1, **options
        )
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert not target or (tmp_path / "a.gguf").stat().st_size <= size


def test_a_plan_for_a_folder_is_written_read_and_carried_out(folder, converted, tmp_path):
    plan = quantreg.plan(folder, "Q4_K_M")
    quantreg.write_plan(plan, tmp_path / "plan.json")
    assert quantreg.plan(converted, "Q4_K_M").to_dict() == plan.to_dict()
    again = quantreg.read_plan(tmp_path / "plan.json", folder)
    quantreg.quantize_file(folder, tmp_path / "a.gguf", again)
    quantreg.quantize_file(converted, tmp_path / "b.gguf", "Q4_K_M")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_folder_becomes_shards(folder, converted, tmp_path):
    a = quantreg.quantize_file(folder, tmp_path / "a", "Q4_K_M", split_max_tensors=7)
    b = quantreg.quantize_file(converted, tmp_path / "b", "Q4_K_M", split_max_tensors=7)
    assert len(a.paths) == len(b.paths) > 2
    for one, other in zip(a.paths, b.paths, strict=True):
        with open(one, "rb") as left, open(other, "rb") as right:
            assert left.read() == right.read()


class StoppedError(Exception):
    pass


def stop_after(count):
    seen = []

    def told(event):
        seen.append(event)
        if sum(isinstance(event, TensorDone) for event in seen) == count:
            raise StoppedError

    return told


def test_a_run_that_was_stopped_goes_on_and_a_changed_folder_is_refused(folder, converted, tmp_path):
    out = tmp_path / "a.gguf"
    with pytest.raises(StoppedError):
        quantreg.quantize_file(folder, out, "Q4_K_M", resumable=True, progress=stop_after(5), threads=1)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    with pytest.raises(quantreg.OutputError, match="was begun with another"):
        quantreg.quantize_file(copy, out, "Q4_K_M", resume=True)
    quantreg.quantize_file(folder, out, "Q4_K_M", resume=True)
    quantreg.quantize_file(converted, tmp_path / "b.gguf", "Q4_K_M")
    assert out.read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_other_metadata_than_when_a_run_began_is_refused(tmp_path):
    copy = write_llama(tmp_path / "Llama")
    out = tmp_path / "a.gguf"
    with pytest.raises(StoppedError):
        quantreg.quantize_file(copy, out, "Q4_K_M", resumable=True, progress=stop_after(3), threads=1)
    told = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(told | {"rope_theta": 5e5}))
    with pytest.raises(quantreg.OutputError, match="was begun with another output"):
        quantreg.quantize_file(copy, out, "Q4_K_M", resume=True)


def test_processes_write_the_same_bytes(folder, converted, tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        quantreg.quantize_file(folder, tmp_path / "a.gguf", "Q4_K_M", executor=pool)
    quantreg.quantize_file(converted, tmp_path / "b.gguf", "Q4_K_M")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_folder_opens_runs_and_is_measured_as_its_file(folder, converted, text):
    ids = list(range(3, 30))
    with quantreg.load(folder) as a, quantreg.load(converted) as b:
        np.testing.assert_array_equal(a.logits(ids), b.logits(ids))
    with quantreg.open(folder) as a, quantreg.open(converted) as b:
        assert dict(a.metadata) == dict(b.metadata)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name].data, b[name].data)
        kept = a["blk.0.attn_q.weight"]
    assert kept.dequantize().any()  # a tensor outlives its model
    a, b = (quantreg.perplexity(path, text, n_ctx=32, chunks=2) for path in (folder, converted))
    assert a.perplexity == b.perplexity


def test_a_tensor_that_is_first_used_after_its_model_was_closed_is_read(folder, converted):
    with quantreg.open(folder) as model:
        tensor = model["blk.1.attn_k.weight"]
    with quantreg.open(converted) as model:
        np.testing.assert_array_equal(tensor.data, model["blk.1.attn_k.weight"].data)


def test_commands_take_a_folder(folder, converted, tmp_path, text):
    def run(*arguments):
        found = CliRunner().invoke(cli.cli, [str(argument) for argument in arguments])
        assert found.exit_code == 0, found.output
        return found.output

    out = tmp_path / "c.gguf"
    assert "c.gguf" in run("convert", folder, out, "--type", "auto")
    assert out.read_bytes() == converted.read_bytes()
    assert "Q4_K" in run("quantize", "--dry-run", folder, "Q4_K_M")
    run("compare", folder, converted)
    run("estimate", folder, "--type", "Q4_K_M")
    (tmp_path / "text.txt").write_text(text)
    assert "PPL" in run("perplexity", folder, "-f", tmp_path / "text.txt", "-c", "32", "--chunks", "2").upper()
    run("generate", folder, "-p", "abc", "-n", "3")


def decoded_fp8(codes, scales):
    return fp8_values("F8_E4M3")[codes] * np.repeat(np.repeat(scales, 128, 0), 128, 1)[: len(codes), : codes.shape[1]]


def test_fp8_with_scales_is_decoded_below_everything_else(tmp_path):
    """Also the matrices whose rows GGUF puts into another order, and the bytes are those of the decoded model."""
    golden = llama("F32")
    eight, floats = {}, {}
    for name, (_, shape) in tensors_of("F32").items():
        if "proj" in name:
            codes = RNG.integers(0, 0x7E, shape).astype(np.uint8)
            scales = (RNG.random(tuple(-(-n // 128) for n in shape), np.float32) * np.float32(0.01)).astype(np.float32)
            eight |= {name: ("F8_E4M3", codes), f"{name}_scale_inv": ("F32", scales)}
            floats[name] = ("F32", decoded_fp8(codes, scales).astype(np.float32))
        else:
            eight[name] = floats[name] = ("F32", RNG.standard_normal(shape).astype(np.float32))
    said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    for name, tensors, more in (("eight", eight, said), ("floats", floats, {})):
        folder = tmp_path / name / "Llama"
        write_llama(folder, shards=1)
        save_as(folder / "model.safetensors", tensors)
        (folder / "config.json").write_text(json.dumps(golden["config"] | more))
        quantreg.quantize_file(folder, tmp_path / f"{name}.gguf", "Q4_K_M", threads=2)
    assert (tmp_path / "eight.gguf").read_bytes() == (tmp_path / "floats.gguf").read_bytes()
    with quantreg.load(tmp_path / "eight" / "Llama") as a, quantreg.load(tmp_path / "floats" / "Llama") as b:
        np.testing.assert_array_equal(a.logits([3, 4, 5]), b.logits([3, 4, 5]))


def test_experts_of_mxfp4_stay_in_converted_files_and_are_requantized_only_on_request(tmp_path):
    golden, _ = load("gpt-oss")
    write_folder("gpt-oss", golden, tmp_path / "m")
    with pytest.raises(quantreg.PlanError, match="already quantized"):
        quantreg.quantize_file(tmp_path / "m", tmp_path / "q.gguf", "Q8_0")
    quantreg.convert(tmp_path / "m", tmp_path / "c.gguf")
    for source, out in ((tmp_path / "m", "a.gguf"), (tmp_path / "c.gguf", "b.gguf")):
        quantreg.quantize_file(source, tmp_path / out, "Q8_0", allow_requantize=True)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    with quantreg.open(tmp_path / "c.gguf") as model:
        assert {model[name].type_name for name in model if name.endswith("_exps.weight")} == {"MXFP4"}


def test_a_pre_tokenizer_that_is_unknown_can_be_given(tmp_path):
    golden, _ = load("qwen3")
    folder = tmp_path / "m"
    write_folder("qwen3", golden, folder)
    told = json.loads((folder / "tokenizer.json").read_text())
    told["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "[abc]+"}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(quantreg.TokenizerError, match=r"--override-kv tokenizer\.ggml\.pre=str:NAME"):
        quantreg.convert(folder, tmp_path / "a.gguf")
    given = {"tokenizer.ggml.pre": "qwen2"}
    quantreg.convert(folder, tmp_path / "a.gguf", override_kv=given)
    quantreg.quantize_file(folder, tmp_path / "b.gguf", "Q8_0", override_kv=given)
    quantreg.write_plan(quantreg.plan(folder, "Q8_0", override_kv=given), tmp_path / "plan.json")
    quantreg.quantize_file(folder, tmp_path / "c.gguf", quantreg.read_plan(tmp_path / "plan.json", folder))
    for name in "abc":
        assert quantreg.gguf.read_header(tmp_path / f"{name}.gguf").metadata["tokenizer.ggml.pre"] == "qwen2"


def test_a_safetensors_file_in_a_folder_keeps_its_names(folder, tmp_path):
    """A file is taken as it is. Only the folder is a model with names and metadata."""
    plan = quantreg.plan(folder / "model-00001-of-00002.safetensors", "F16")
    assert "model.embed_tokens.weight" in {tensor.name for tensor in plan.tensors}


def test_types_that_no_converted_file_has_are_refused_with_what_to_do(folder, tmp_path):
    with pytest.raises(quantreg.CheckpointError, match="quantreg quantize"):
        quantreg.convert(folder, tmp_path / "a.gguf", "Q4_K_M")
    with pytest.raises(quantreg.CheckpointError, match="not the folder of a published model"):
        quantreg.convert(tmp_path, tmp_path / "a.gguf")


def test_the_folder_of_an_image_model_is_read_as_before(tmp_path):
    """Its config.json has a "model_type", too, which means something else."""
    folder = tmp_path / "transformer"
    write_llama(folder, shards=1)
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel", "model_type": "t2v"}))
    plan = quantreg.plan(folder, "F16")
    assert "model.embed_tokens.weight" in {tensor.name for tensor in plan.tensors}


def test_a_revision_in_a_cache_has_the_name_of_its_repository(tmp_path):
    folder = write_llama(tmp_path / "models--someone--Small-Llama" / "snapshots" / "0123abcd", shards=1)
    with quantreg.open(folder) as model:
        assert model.metadata["general.name"] == "Small Llama"


def test_the_model_card_gives_the_license_the_tags_and_the_languages(tmp_path):
    folder = write_llama(tmp_path / "m", shards=1)
    card = "license: apache-2.0 # free\nlanguage:\n- en\n- 'no'\ntags: [a, \"b\"]\npipeline_tag: text-generation\n"
    card = f"---\n{card}---\nText"
    (folder / "README.md").write_text(card)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "top_k": 20, "top_p": "broken"}))
    with quantreg.open(folder) as model:
        found = {key: value for key, value in model.metadata.items() if key.startswith("general.")}
    assert found["general.license"] == "apache-2.0"
    assert found["general.languages"] == ["en", "no"]
    assert found["general.tags"] == ["a", "b", "text-generation"]
    assert found["general.sampling.top_k"] == 20
    assert found["general.sampling.temp"] == 0.5
    assert "general.sampling.top_p" not in found


@pytest.mark.parametrize(
    "card", ["", "---", "---\n", "no head", "---\nlicense: mit\n", "---\n: x\n- y\n---", "\x00\xff"]
)
def test_a_model_card_without_a_head_does_no_harm(tmp_path, card):
    folder = write_llama(tmp_path / "m", shards=1)
    (folder / "README.md").write_text(card)
    with quantreg.open(folder) as model:
        assert "general.license" not in model.metadata


def test_inspect_shows_a_folder_as_the_model_that_it_becomes(folder, converted, run):
    code, out, _ = run("inspect", folder)
    assert code == 0
    assert "shown as the GGUF model that it becomes" in out
    assert "blk.1.attn_k.weight" in out
    assert "model.layers.1.self_attn.k_proj.weight" in out
    found = [json.loads(run("inspect", "--json", path)[1]) for path in (folder, converted)]
    assert found[0]["metadata"] | {"general.file_type": 0} == found[1]["metadata"] | {"general.file_type": 0}
    names = {t["name"]: t.pop("from") for t in found[0]["tensors"]}
    assert names["output_norm.weight"] == ["model.norm.weight"]
    assert {t["name"]: t["shape"] for t in found[0]["tensors"]} == {t["name"]: t["shape"] for t in found[1]["tensors"]}


def test_inspect_shows_a_folder_that_no_plugin_knows_as_it_is_stored(tmp_path, run):
    folder = write_llama(tmp_path / "Unknown", architectures=["NobodyKnowsForCausalLM"])
    code, out, err = run("inspect", folder)
    assert code == 0
    assert "model.layers.1.self_attn.k_proj.weight" in out
    assert "blk." not in out
    assert "shown as it is stored" in err
    assert "NobodyKnowsForCausalLM" in err


def test_metadata_of_a_folder_is_that_of_the_model_that_it_becomes(folder, converted, run):
    assert run("metadata", "get", folder, "llama.block_count") == run("metadata", "get", converted, "llama.block_count")
    assert run("metadata", "get", folder, "no.such")[0] == 1


def test_a_tokenizer_is_read_once_while_its_files_stay_as_they_are(tmp_path, monkeypatch):
    folder = write_llama(tmp_path / "Small-Llama")
    calls, read = [], vocabulary_once.vocabulary
    monkeypatch.setattr(vocabulary_once, "vocabulary", lambda *args: calls.append(args) or read(*args))
    monkeypatch.setattr(vocabulary_once, "_SETTLED", 0)
    plans = [quantreg.plan(folder, name) for name in ("Q8_0", "Q6_K", "Q8_0")]
    assert len(calls) == 1
    assert plans[0].to_dict() == plans[2].to_dict()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with quantreg.open(folder) as model:
        assert model.metadata["tokenizer.chat_template"] == "{{ messages }}"
    assert len(calls) == 2
    quantreg.plan(folder, "Q8_0", override_kv={"tokenizer.ggml.bos_token_id": 5})
    assert len(calls) == 3


def test_a_tokenizer_that_has_just_been_written_is_read_again(tmp_path, monkeypatch):
    folder = write_llama(tmp_path / "Small-Llama")
    calls, read = [], vocabulary_once.vocabulary
    monkeypatch.setattr(vocabulary_once, "vocabulary", lambda *args: calls.append(args) or read(*args))
    for _ in range(2):  # within the same tick of the clock, its files could have changed
        quantreg.plan(folder, "Q8_0")
    assert len(calls) == 2
