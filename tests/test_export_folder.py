"""A GGUF model becomes a folder again: what that folder converts to is the model that it was made of."""

import json
import os
from pathlib import Path

import checkpoints
import numpy as np
import pytest

import quantreg
from quantreg.checkpoints import Config, Described
from quantreg.checkpoints.folder import find
from quantreg.checkpoints.restore import restore
from quantreg.gguf import TensorInfo, Value, read_header
from quantreg.jobs import export_folder

NAMES = checkpoints.names()
# Models whose class has a part that GGUF does not hold.
ONE_WAY = {name for name in NAMES if find(Config(checkpoints.load(name)[0]["config"]))[1].one_way}
BACK = [name for name in NAMES if name not in ONE_WAY]
# Keys that say more after the way back, and mean the same: what was left to the pre-tokenizer or to BERT is written.
SAID = {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token"}
# phi3's added tokens stand in tokenizer.json, too, which its conversion reads after tokenizer.model.
PHI_3 = {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A function that returns the GGUF file of a golden's folder, which is written once."""

    def convert(name, kind):
        folder = tmp_path_factory.getbasetemp() / "back" / name
        if not folder.exists():
            checkpoints.write_folder(name, checkpoints.load(name)[0], folder / "checkpoint")
        path = folder / f"{kind}.gguf"
        if not path.exists():
            quantreg.convert(folder / "checkpoint", path, kind)
        return path

    return convert


def contents(path):
    """{name: (type, dims, bytes)} of the tensors of a file."""
    header, data = read_header(path), path.read_bytes()
    starts = {info.name: header.data_offset + info.offset for info in header.tensors}
    return {
        info.name: (info.type_name, info.dims, data[starts[info.name] : starts[info.name] + info.nbytes])
        for info in header.tensors
    }


def described(path):
    return {key: (value.type, value.data) for key, value in read_header(path).metadata.raw_items()}


def assert_same_metadata(name, first, second):
    differ = {key for key in {**first, **second} if first.get(key) != second.get(key)}
    assert {key for key in differ if key in first} <= (PHI_3 if name.startswith("phi3") else set())
    assert differ - set(first) <= SAID


@pytest.mark.parametrize("kind", ["F32", "auto"])
@pytest.mark.parametrize("name", BACK)
def test_the_way_to_a_folder_and_back_changes_nothing(name, kind, converted, tmp_path):
    path = converted(name, kind)
    result = quantreg.export(path, tmp_path / "back", threads=2)
    assert not result.warnings
    quantreg.convert(tmp_path / "back", tmp_path / "again.gguf", kind)
    first, second = contents(path), contents(tmp_path / "again.gguf")
    before, after = described(path), described(tmp_path / "again.gguf")
    if name == "gpt-oss":  # its blocks of MXFP4 are decoded
        with quantreg.open(path) as model, quantreg.open(tmp_path / "again.gguf") as again:
            for tensor in [tensor for tensor in first if first[tensor][0] == "MXFP4"]:
                np.testing.assert_array_equal(model[tensor].dequantize(), again[tensor].dequantize())
                del first[tensor], second[tensor]
        del before["general.file_type"], after["general.file_type"]
    assert first == second
    assert_same_metadata(name, before, after)


@pytest.mark.parametrize("name", BACK)
def test_the_folder_of_a_quantized_model_has_the_values_that_it_decodes_to(name, converted, tmp_path):
    quantreg.quantize_file(converted(name, "F32"), tmp_path / "q.gguf", "Q8_0", allow_requantize=name == "gpt-oss")
    quantreg.export(tmp_path / "q.gguf", tmp_path / "back", dtype="f32")
    quantreg.convert(tmp_path / "back", tmp_path / "again.gguf", "F32")
    with quantreg.open(tmp_path / "q.gguf") as model, quantreg.open(tmp_path / "again.gguf") as again:
        assert set(model) == set(again)
        for tensor in model:
            values, found = model[tensor].dequantize(), again[tensor].dequantize()
            np.testing.assert_array_equal(
                values, found.reshape(values.shape), err_msg=tensor
            )  # quantize drops axes of 1


@pytest.mark.parametrize("name", sorted(ONE_WAY))
def test_a_model_without_a_part_of_its_class_says_why_it_stays(name, converted, tmp_path):
    with pytest.raises(quantreg.CheckpointError, match=r"cannot go back to Qwen\dVL.*sees images"):
        quantreg.export(converted(name, "F32"), tmp_path / "back")
    assert not any(entry.name.startswith((".", "back")) for entry in tmp_path.iterdir())


def dtypes(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        found |= {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    return found


@pytest.mark.parametrize(("dtype", "torch"), [("f16", "float16"), ("bf16", "bfloat16"), (np.float32, "float32")])
def test_a_dtype_is_that_of_every_tensor(dtype, torch, converted, tmp_path):
    quantreg.export(converted("llama", "F32"), tmp_path / "back", dtype=dtype)
    assert set(dtypes(tmp_path / "back").values()) == {{"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[torch]}
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == torch


def test_a_quantized_model_is_decoded_to_bf16_and_plain_numbers_keep_their_values(converted, tmp_path):
    quantreg.quantize_file(converted("llama", "F32"), tmp_path / "q.gguf", "Q8_0")  # of a checkpoint of F32
    quantreg.export(tmp_path / "q.gguf", tmp_path / "back")
    found = dtypes(tmp_path / "back")
    assert {found[name] for name in found if name.endswith("proj.weight")} == {"BF16"}
    assert {found[name] for name in found if "norm" in name} == {"F32"}
    quantreg.quantize_file(converted("mistral", "auto"), tmp_path / "r.gguf", "Q8_0")  # of one of BF16
    quantreg.export(tmp_path / "r.gguf", tmp_path / "uniform")
    assert set(dtypes(tmp_path / "uniform").values()) == {"BF16"}


def test_a_large_model_gets_shards_and_an_index(converted, tmp_path):
    path = converted("mixtral", "auto")
    result = quantreg.export(path, tmp_path / "back", split_max_size="50K")
    names = sorted(entry.name for entry in (tmp_path / "back").glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert all(os.path.getsize(tmp_path / "back" / name) < 60_000 for name in names)
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(names)
    assert sorted(map(os.path.basename, result.paths)) == sorted(os.listdir(tmp_path / "back"))
    assert result.size == sum(map(os.path.getsize, result.paths))
    quantreg.convert(tmp_path / "back", tmp_path / "again.gguf")
    assert contents(tmp_path / "again.gguf") == contents(path)


def test_tensors_are_written_in_slabs_of_any_size(converted, tmp_path, monkeypatch):
    """Also where a tensor is turned, taken apart or filled by several, and a slab ends inside a part."""
    for name in ("gpt2", "falcon-40b", "gpt-oss-decoded", "deepseek3", "llama"):
        path = converted(name, "F32")
        for weights in (1, 200, 1 << 20):
            monkeypatch.setattr(export_folder, "SLAB_WEIGHTS", weights)
            quantreg.export(path, tmp_path / f"{name}-{weights}", threads=3)
        files = [(tmp_path / f"{name}-{weights}" / "model.safetensors").read_bytes() for weights in (1, 200, 1 << 20)]
        assert files[0] == files[1] == files[2], name


@pytest.mark.parametrize(
    ("given", "folder"),
    [("back/", True), ("back", True), ("Qwen3-0.6B", True), ("there.d", True), ("back.safetensors", False),
     ("back.st", False)],
)  # fmt: skip
def test_a_folder_is_what_ends_in_a_slash_or_exists_or_has_no_suffix(given, folder, converted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.d").mkdir()
    result = quantreg.export(converted("llama", "F32"), given)
    assert os.path.isdir(given) == folder
    assert os.fspath(result) == given
    with quantreg.open(result) as model:
        assert "token_embd.weight" in model
        assert (model.metadata.get("general.architecture") == "llama") == folder


def test_a_folder_with_files_is_left_alone_or_with_force_only_its_model_is_replaced(converted, tmp_path):
    back = tmp_path / "back"
    quantreg.export(converted("mixtral", "auto"), back, split_max_size="50K")
    (back / "notes.txt").write_text("mine")
    (back / "README.md").write_text("mine, too")
    (back / "vocab.json").write_text("of another tokenizer")
    with pytest.raises(quantreg.OutputError, match=r"not empty.*--force"):
        quantreg.export(converted("llama-3", "auto"), back)
    quantreg.export(converted("llama-3", "auto"), back, force=True)
    assert (back / "notes.txt").read_text() == "mine"
    assert (back / "README.md").read_text() == "mine, too"
    assert not list(back.glob("model-*"))
    assert not (back / "vocab.json").exists()
    quantreg.convert(back, tmp_path / "again.gguf")
    assert contents(tmp_path / "again.gguf") == contents(converted("llama-3", "auto"))
    (tmp_path / "file.d").write_text("")
    with pytest.raises(quantreg.OutputError, match="exists and is no folder"):
        quantreg.export(converted("llama-3", "auto"), f"{tmp_path / 'file.d'}/")


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("when", ["_write", "_json", "sync"])
def test_a_run_that_stops_leaves_nothing_behind(when, there, converted, tmp_path, monkeypatch):
    back = tmp_path / "back"
    path = converted("llama", "F32")
    if there:
        back.mkdir()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        f"quantreg.storage.folder.{when}" if when == "sync" else f"quantreg.jobs.export_folder.{when}", stop
    )
    with pytest.raises(KeyboardInterrupt):
        quantreg.export(path, back)
    assert [entry.name for entry in tmp_path.iterdir()] == ["back"] * there
    assert not there or not os.listdir(back)


def test_a_replacement_that_breaks_off_leaves_no_folder_that_looks_complete(converted, tmp_path, monkeypatch):
    back = tmp_path / "back"
    quantreg.export(converted("llama", "F32"), back)
    renamed = []

    def rename(old, new):
        renamed.append(new)
        if len(renamed) == 3:
            raise OSError(5, "the disk is gone")
        os.replace(old, new)

    monkeypatch.setattr("quantreg.storage.folder.os.rename", rename)
    with pytest.raises(quantreg.OutputError, match="the disk is gone"):
        quantreg.export(converted("llama-3", "F32"), back, force=True)
    assert not (back / "config.json").exists()
    monkeypatch.undo()
    quantreg.export(converted("llama-3", "F32"), back, force=True)
    with quantreg.open(back) as model:
        assert model.metadata["llama.rope.freq_base"] == 500000


def changed(path, out, tensors=None, **metadata):
    """A copy of a file with other metadata ("llama__vocab_size") and some tensors left out or added."""
    with quantreg.open(path) as model:
        kept = {name: model[name] for name in model if (tensors or {}).get(name, True) is not None}
        kept |= {name: data for name, data in (tensors or {}).items() if data is not None}
        values = dict(model.metadata) | {key.replace("__", "."): value for key, value in metadata.items()}
        quantreg.write(out, {key: value for key, value in values.items() if value is not None}, kept, force=True)
    return out


X = np.zeros((4, 32), np.float32)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"blk.0.odd.weight": X}, {}, r"1 tensor that LlamaForCausalLM has no name for \(blk.0.odd.weight\)"),
        ({"blk.1.attn_v.weight": None}, {}, "cannot go back to LlamaForCausalLM: .*self_attn.v_proj"),
        ({"blk.1.attn_q.weight": X[:3]}, {}, r"blk.1.attn_q.weight has the shape \[3, 32\], which"),
        (
            {},
            {"general__architecture": "mamba"},
            "no plugin knows how a model of the architecture 'mamba' is published",
        ),
        ({}, {"llama__block_count": 7}, "7 layers"),
        ({}, {"llama__embedding_length": None}, "hidden_size"),
        ({}, {"llama__rope__dimension_count": 4}, "config.json cannot say that llama.rope.dimension_count is 4"),
        ({"rope_freqs.weight": np.array([1, 3, 2, 5, 1, 1, 1, 9], np.float32)}, {}, "no numbers of Llama 3.1 give"),
    ],
)
def test_what_cannot_go_back_is_named_with_the_reason(tensors, metadata, message, converted, tmp_path):
    path = changed(converted("llama", "F32"), tmp_path / "m.gguf", tensors, **metadata)
    with pytest.raises(quantreg.CheckpointError, match=message):
        quantreg.export(path, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_keys_that_a_folder_cannot_say_are_in_the_warnings(converted, tmp_path, capsys):
    from quantreg.cli import main

    path = changed(converted("llama", "F32"), tmp_path / "m.gguf", llama__odd=3)
    assert quantreg.export(path, tmp_path / "a").warnings == (
        "llama.odd has no place in config.json: the folder does not say it",
    )
    assert main(["export", str(path), f"{tmp_path / 'b'}/", "--dtype", "bf16", "--split-max-size", "50K"]) in (0, None)
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'b'}/\n"
    assert "llama.odd has no place in config.json" in err
    assert len(list((tmp_path / "b").glob("model-*"))) > 1


def test_a_model_without_a_tokenizer_is_written_without_one(converted, tmp_path):
    path = changed(converted("llama", "F32"), tmp_path / "m.gguf", tokenizer__ggml__model="no_vocab")
    result = quantreg.export(path, tmp_path / "back")
    assert sorted(os.listdir(tmp_path / "back")) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert result.warnings == (
        "the model has no tokenizer: the folder has none, and does not convert back without one",
    )


def test_nan_and_values_too_large_for_f16_are_refused(converted, tmp_path):
    for value, dtype in ((np.nan, "f32"), (1e6, "f16")):
        with quantreg.open(converted("llama", "F32")) as model:
            broken = model["blk.0.attn_v.weight"].dequantize().copy()
        broken[0, 3] = value
        path = changed(converted("llama", "F32"), tmp_path / "m.gguf", {"blk.0.attn_v.weight": broken})
        with pytest.raises(quantreg.NonFiniteError, match=r"blk\.0\.attn_v\.weight"):
            quantreg.export(path, tmp_path / "back", dtype=dtype)
        assert not (tmp_path / "back").exists()


def test_the_model_card_and_the_sampling_come_back(converted, tmp_path):
    path = changed(
        converted("llama", "F32"),
        tmp_path / "m.gguf",
        general__name='It\'s "mine"',
        general__license="apache-2.0",
        general__license__link="https://example.org/a#b",
        general__tags=["a: b", "c"],
        general__languages=["en", "de"],
        general__sampling__temp=np.float32(0.7).item(),
        general__sampling__top_k=Value("i32", 20),
    )
    quantreg.export(path, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text())["temperature"] == 0.7
    quantreg.convert(tmp_path / "back", tmp_path / "again.gguf", "F32")
    before, after = described(path), described(tmp_path / "again.gguf")
    for key in before:
        if key.startswith("general.") and key not in ("general.name", "general.quantization_version"):
            assert after[key] == before[key], key
    assert after["general.name"][1] == "Back"  # the card cannot hold both marks


def test_scaling_of_llama_3_is_found_from_its_factors(converted, tmp_path):
    quantreg.export(converted("llama-3", "F32"), tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["rope_scaling"] == checkpoints.load("llama-3")[0]["config"]["rope_scaling"]


def test_numbers_of_float32_are_written_as_the_shortest_decimals(converted, tmp_path):
    quantreg.export(converted("llama", "F32"), tmp_path / "back")
    assert '"rms_norm_eps": 1e-05,' in (tmp_path / "back" / "config.json").read_text()


def info_of(name, *shape):
    return TensorInfo(name, shape[::-1], 0, "F32", 0, 4 * int(np.prod(shape)), 4 * shape[-1], True)


def test_parts_of_one_tensor_must_all_be_there_and_fit():
    meta = {"general.architecture": "gpt-oss", "gpt-oss.block_count": 1, "gpt-oss.attention.head_count": 1}
    meta |= {"gpt-oss.embedding_length": 32}
    gate, up = "blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"
    for infos, message in (
        ([info_of(gate, 2, 4, 32)], "gate_up_proj of GptOssForCausalLM .* fill 256 of its 512 values"),
        ([info_of(gate, 2, 4, 32), info_of(up, 2, 6, 32)], "do not belong together"),
    ):
        with pytest.raises(quantreg.CheckpointError, match=message):
            restore(Described(meta, infos, lambda name: np.zeros(1, np.float32)), "float32")
