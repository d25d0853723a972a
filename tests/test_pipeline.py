"""Whole files: the reference's bytes, whatever the threads and slabs; clear errors; nothing half-written."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import GGUFFormatError, NonFiniteError, OutputError, PlanError
from quantreg.events import Advanced, Finished, Started, TensorDone
from quantreg.gguf import Value
from quantreg.jobs import slabs
from quantreg.recipes import parse_override, parse_tensor_type

GOLDEN = json.loads((Path(__file__).parent / "golden" / "small-model.json").read_text())


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Folder with small.gguf and small-imatrix.gguf; the same bytes as where the golden digests were made."""
    folder = tmp_path_factory.mktemp("small")
    small_model.write_model(folder / "small.gguf")
    small_model.write_imatrix(folder / "small-imatrix.gguf")
    assert sha256(folder / "small.gguf") == GOLDEN["model_sha256"]
    assert sha256(folder / "small-imatrix.gguf") == GOLDEN["imatrix_sha256"]
    return folder


@pytest.fixture
def at_small(small, monkeypatch):
    """The working directory of the golden runs: the imatrix path is stored as it was typed."""
    monkeypatch.chdir(small)
    return small


def options_of(args):
    """llama-quantize's options as keywords."""
    keywords = {}
    words = iter(args)
    for word in words:
        name = word.removeprefix("--").replace("-", "_")
        match name:
            case "pure" | "leave_output_tensor" | "allow_requantize":
                keywords[name] = True
            case "tensor_type":
                keywords.setdefault("tensor_types", []).append(parse_tensor_type(next(words)))
            case "override_kv":
                keywords.setdefault(name, []).append(parse_override(next(words)))
            case "prune_layers":
                keywords[name] = [int(n) for n in next(words).split(",")]
            case "include_weights" | "exclude_weights":
                keywords.setdefault(name, []).append(next(words))
            case _:
                keywords[name] = next(words)
    return keywords


@pytest.mark.parametrize("run", GOLDEN["runs"], ids=lambda run: " ".join([run["type"], *run["args"]]))
def test_the_file_is_the_references_byte_for_byte(run, at_small, tmp_path):
    out = tmp_path / "out.gguf"
    if run["ok"]:
        quantreg.quantize_file("small.gguf", out, run["type"], **options_of(run["args"]))
        assert sha256(out) == run["sha256"]
    else:
        with pytest.raises(PlanError):
            quantreg.quantize_file("small.gguf", out, run["type"], **options_of(run["args"]))
        assert not out.exists()


def test_bytes_do_not_depend_on_threads_or_slab_size(at_small, tmp_path, monkeypatch):
    digests = set()
    for i, (threads, slab, chunk) in enumerate(
        [(1, 1 << 20, 1 << 16), (2, 1000, 500), (5, 300, 1 << 16), (3, 70000, 1)]
    ):
        monkeypatch.setattr(slabs, "SLAB_WEIGHTS", slab)
        monkeypatch.setattr(slabs, "SLAB_BYTES", slab)
        monkeypatch.setattr(slabs, "CHUNK_WEIGHTS", chunk)
        out = tmp_path / f"{i}.gguf"
        quantreg.quantize_file("small.gguf", out, "Q4_K_M", "small-imatrix.gguf", threads=threads)
        digests.add(sha256(out))
    assert len(digests) == 1


def test_experts_use_their_own_row_of_the_imatrix(tmp_path):
    x = small_model.noise(5, (3, 64, 256)).astype(np.float16)
    columns = small_model.noise(6, (3, 256)) ** 2 + np.float32(0.1)
    quantreg.write(
        tmp_path / "moe.gguf",
        {"general.architecture": "llama", "llama.block_count": 1, "llama.expert_count": 3},
        {"blk.0.ffn_up_exps.weight": x},
    )
    imatrix = quantreg.ImportanceMatrix({"blk.0.ffn_up_exps.weight": columns})
    quantreg.quantize_file(tmp_path / "moe.gguf", tmp_path / "out.gguf", "Q4_K_S", imatrix, threads=2)
    with quantreg.open(tmp_path / "out.gguf") as model:
        tensor = model["blk.0.ffn_up_exps.weight"]
        assert tensor.type_name == "Q4_K"
        np.testing.assert_array_equal(tensor.data, quantreg.quantize(x, "Q4_K", columns))


def test_the_result_tells_sizes_and_decisions(at_small, tmp_path):
    out = tmp_path / "out.gguf"
    result = quantreg.quantize_file("small.gguf", out, "Q4_K_M")
    assert result.size == out.stat().st_size
    assert result.source_size == Path("small.gguf").stat().st_size
    assert result.path == str(out)
    by_name = {tensor.name: tensor for tensor in result.tensors}
    assert by_name["blk.2.ffn_down.weight"].to_type == "Q8_0"  # Q6_K wanted, 288 columns
    assert "288 is not a multiple of 256" in by_name["blk.2.ffn_down.weight"].reason
    assert by_name["output_norm.weight"].to_type == "F32"
    assert result.bits_per_weight == result.plan.bits_per_weight
    assert result.plan == quantreg.plan("small.gguf", "Q4_K_M")


def test_progress_events_cover_every_tensor_and_byte(at_small, tmp_path):
    events = []
    result = quantreg.quantize_file("small.gguf", tmp_path / "out.gguf", "Q4_K_M", progress=events.append)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[-1].result is result
    done = [e for e in events if isinstance(e, TensorDone)]
    assert [e.tensor for e in done] == list(result.tensors)
    assert [e.index for e in done] == list(range(1, len(result.tensors) + 1))
    assert sum(e.source_bytes for e in events if isinstance(e, Advanced)) == events[0].source_bytes


def test_a_quantized_source_is_quantized_again_only_on_request(at_small, tmp_path):
    once, twice = tmp_path / "q8.gguf", tmp_path / "q4.gguf"
    quantreg.quantize_file("small.gguf", once, "Q8_0")
    with pytest.raises(PlanError, match="allow_requantize"):
        quantreg.quantize_file(once, twice, "Q4_0")
    quantreg.quantize_file(once, twice, "Q4_0", allow_requantize=True)
    with quantreg.open(once) as a, quantreg.open(twice) as b:
        name = "blk.1.attn_q.weight"
        np.testing.assert_array_equal(b[name].data, quantreg.quantize(a[name].dequantize(), "Q4_0"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "blk.0.attn_norm.weight"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_or_infinity_in_the_source_is_refused_by_tensor_and_place(tmp_path, dtype, name, bad):
    tensors = {
        "blk.0.attn_q.weight": np.ones((8, 256), dtype),
        "blk.0.attn_norm.weight": np.ones(256, np.float32),
    }
    tensors[name].reshape(-1)[137] = bad
    quantreg.write(tmp_path / "in.gguf", {"general.architecture": "llama", "llama.block_count": 1}, tensors)
    out = tmp_path / "out.gguf"
    with pytest.raises(NonFiniteError, match=rf"{name}.*NaN or infinity at (column|index) 137"):
        quantreg.quantize_file(tmp_path / "in.gguf", out, "Q4_K_M")
    assert sorted(os.listdir(tmp_path)) == ["in.gguf"]


def test_values_that_overflow_half_precision_are_refused(tmp_path):
    x = np.ones((4, 256), np.float32)
    x[2, 3] = 65520
    quantreg.write(tmp_path / "in.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": x})
    with pytest.raises(NonFiniteError, match=r"blk.0.attn_q.weight: row 2"):
        quantreg.quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "F16")


def test_an_existing_output_needs_force_and_keeps_its_bytes_without(at_small, tmp_path):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        quantreg.quantize_file("small.gguf", out, "Q8_0")
    assert out.read_bytes() == b"precious"
    quantreg.quantize_file("small.gguf", out, "Q8_0", force=True)
    assert out.stat().st_size > 1000


def test_the_output_may_not_be_the_input(small, tmp_path):
    source = tmp_path / "in.gguf"
    source.write_bytes((small / "small.gguf").read_bytes())
    (tmp_path / "link.gguf").hardlink_to(source)
    for out in (source, tmp_path / "link.gguf"):
        with pytest.raises(OutputError, match="is the input"):
            quantreg.quantize_file(source, out, "Q8_0", force=True)


def test_an_error_or_interrupt_in_the_middle_leaves_nothing_behind(at_small, tmp_path):
    for error in (RuntimeError, KeyboardInterrupt):

        def stop(event, error=error):
            if isinstance(event, TensorDone) and event.index == 5:
                raise error

        with pytest.raises(error):
            quantreg.quantize_file("small.gguf", tmp_path / "out.gguf", "Q4_K_M", progress=stop)
        assert os.listdir(tmp_path) == []


def test_a_source_that_shrinks_while_it_is_read_is_an_error(small, tmp_path):
    source = tmp_path / "in.gguf"
    source.write_bytes((small / "small.gguf").read_bytes())

    def shrink(event):
        if isinstance(event, Started):
            os.truncate(source, source.stat().st_size // 2)

    with pytest.raises(GGUFFormatError) as refused:
        quantreg.quantize_file(source, tmp_path / "out.gguf", "Q4_K_M", progress=shrink)
    assert refused.value.code == "tensor-past-end"
    assert os.listdir(tmp_path) == ["in.gguf"]


def test_another_alignment_is_kept_and_readable(tmp_path):
    x = small_model.noise(3, (5, 256)).astype(np.float16)
    metadata = {"general.architecture": "llama", "general.alignment": Value("u32", 128)}
    quantreg.write(tmp_path / "in.gguf", metadata, {"blk.0.attn_q.weight": x, "blk.0.attn_k.weight": x})
    quantreg.quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_K_M")
    with quantreg.open(tmp_path / "out.gguf") as model:
        assert model.metadata["general.alignment"] == 128
        for name in model:
            np.testing.assert_array_equal(model[name].data, quantreg.quantize(x, model[name].type_id))


def test_a_split_model_becomes_one_file(tmp_path):
    x = small_model.noise(3, (5, 256)).astype(np.float16)
    for i in range(2):
        keys = {"split.no": Value("u16", i), "split.count": Value("u16", 2), "split.tensors.count": Value("i32", 2)}
        quantreg.write(
            tmp_path / f"m-0000{i + 1}-of-00002.gguf",
            {"general.architecture": "llama", "llama.block_count": 2} | keys if i == 0 else keys,
            {f"blk.{i}.attn_q.weight": x + np.float16(i)},
        )
    quantreg.quantize_file(tmp_path / "m-00001-of-00002.gguf", tmp_path / "out.gguf", "Q4_K_M")
    with quantreg.open(tmp_path / "out.gguf") as model:
        assert list(model) == ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]
        assert "split.count" not in model.metadata
        np.testing.assert_array_equal(model["blk.1.attn_q.weight"].data, quantreg.quantize(x + np.float16(1), "Q4_K"))


def test_tensors_of_an_unknown_type_are_copied(tmp_path):
    quantreg.write(
        tmp_path / "in.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": np.ones((4, 256), np.float16)}
    )
    raw = bytearray((tmp_path / "in.gguf").read_bytes())
    at = raw.index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 16
    raw[at : at + 4] = (4242).to_bytes(4, "little")
    (tmp_path / "in.gguf").write_bytes(raw)
    quantreg.quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "COPY")
    with quantreg.open(tmp_path / "in.gguf") as a, quantreg.open(tmp_path / "out.gguf") as b:
        assert b["blk.0.attn_q.weight"].type_id == 4242
        assert bytes(a["blk.0.attn_q.weight"].data) == bytes(b["blk.0.attn_q.weight"].data)
