"""Several file types in one run: the bytes of single runs, each slab read once, equal tensors encoded once."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import NonFiniteError, OutputError, PlanError, UnknownFileTypeError, cli
from quantreg.events import Advanced, Finished, Started, TensorDone
from quantreg.jobs import shards, slabs
from quantreg.jobs.processes import worker_processes

TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q4_0", "F16", "BF16"]


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    small_model.write_imatrix(tmp_path / "imatrix.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def singly(src, names, *args, **options):
    """The bytes of a run for each type, and its warnings."""
    found = []
    for name in names:
        result = quantreg.quantize_file(src, "single.gguf", name, *args, force=True, **options)
        found.append(([Path(path).read_bytes() for path in result.paths], result))
    return found


def together(src, names, *args, **options):
    return quantreg.quantize_files(src, "out-{type}.gguf", names, *args, **options)


def check(src, names, *args, run_options=None, **options):
    """Compare one run with single runs, and return the results of the one."""
    alone = singly(src, names, *args, **options)
    results = together(src, names, *args, **options, **(run_options or {}))
    for (expected, single), result, name in zip(alone, results, names, strict=True):
        assert result.paths[0].startswith(f"out-{name}")
        assert [Path(path).read_bytes() for path in result.paths] == expected
        assert result.plan.file_type == single.plan.file_type
        assert (result.size, result.bits_per_weight) == (single.size, single.bits_per_weight)
        assert set(single.warnings) <= set(result.warnings)
    assert not [name for name in os.listdir() if "partial" in name or "tmp" in name]
    return results


@pytest.mark.parametrize("imatrix", [None, "imatrix.gguf"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_bytes_are_those_of_single_runs(at, imatrix, threads, monkeypatch):
    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 20_000)
    monkeypatch.setattr(slabs, "CHUNK_WEIGHTS", 5_000)
    results = check("small.gguf", TYPES, imatrix, run_options={"threads": threads})
    assert any(result.plan.fallbacks for result in results)  # rows of 288 weights


@pytest.mark.parametrize(
    "options",
    [
        {"split_max_tensors": 8}, {"split_max_size": "100K"}, {"pure": True}, {"leave_output_tensor": True},
        {"token_embedding_type": "F16"}, {"tensor_types": {"attn_v": "q8_0", "ffn_up": "f16"}},
        {"prune_layers": [1]}, {"override_kv": {"general.name": "mine"}}, {"imatrix_floor": 0.01},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_options_hold_for_all_outputs(at, options):
    check("small.gguf", ["Q8_0", "Q4_K_M", "F16"], "imatrix.gguf", **options)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_the_bytes_do_not_depend_on_the_executor(at, executor):
    with ThreadPoolExecutor(2) if executor == "threads" else worker_processes(2) as pool:
        check("small.gguf", ["Q8_0", "Q4_K_M", "F16"], "imatrix.gguf", run_options={"executor": pool})


@pytest.mark.parametrize("source", ["Q8_0", "BF16", "F32"])
def test_a_source_of_another_type_is_decoded_for_some_and_copied_for_others(at, source):
    quantreg.quantize_file("small.gguf", "source.gguf", source)
    check("source.gguf", ["Q8_0", "BF16", "F32", "Q4_K_M", "COPY"], allow_requantize=True)


def test_experts_use_their_own_rows_of_the_imatrix(at):
    x = small_model.noise(5, (3, 64, 256)).astype(np.float16)
    columns = small_model.noise(6, (3, 256)) ** 2 + np.float32(0.1)
    metadata = {"general.architecture": "llama", "llama.block_count": 1, "llama.expert_count": 3}
    quantreg.write("moe.gguf", metadata, {"blk.0.ffn_up_exps.weight": x})
    imatrix = quantreg.ImportanceMatrix({"blk.0.ffn_up_exps.weight": columns})
    check("moe.gguf", ["Q8_0", "Q4_K_M", "IQ4_XS", "Q2_K"], imatrix)


def test_each_slab_is_read_and_decoded_once_and_equal_tensors_are_encoded_once(at, monkeypatch):
    read, encoded = [], []
    raw, encode = slabs.Worker._raw, slabs.encode_slab
    monkeypatch.setattr(slabs.Worker, "_raw", lambda self, slab: (read.append(slab), raw(self, slab))[1])
    monkeypatch.setattr(
        slabs, "encode_slab",
        lambda qtype, *args, **more: (encoded.append((more["tensor"], qtype.name)), encode(qtype, *args, **more))[1],
    )  # fmt: skip
    names = ["Q4_K_M", "Q4_K_S", "Q5_K_M"]
    plans = [quantreg.plan("small.gguf", name) for name in names]
    together("small.gguf", names)
    assert len(read) == len(plans[0])  # the tensors are smaller than a slab
    pairs = {(t.source.name, t.to_type) for plan in plans for t in plan.tensors if t.converted}
    assert sorted(encoded) == sorted(pairs)
    assert len(pairs) < sum(t.converted for plan in plans for t in plan.tensors)


def test_events_are_about_all_outputs(at):
    events = []
    names = ["Q8_0", "Q4_K_M"]
    results = together("small.gguf", names, progress=events.append)
    started = events[0]
    assert isinstance(started, Started)
    assert [plan.file_type.name for plan in started.plans] == names
    assert started.source_bytes == sum(e.source_bytes for e in events if isinstance(e, Advanced))
    assert started.source_bytes == sum(t.source.nbytes for t in started.plan.tensors)  # once, and not for each
    done = [e for e in events if isinstance(e, TensorDone)]
    assert [(e.index, e.output) for e in done] == [(i, n) for i in range(1, len(started.plan) + 1) for n in (0, 1)]
    assert [e.result for e in events if isinstance(e, Finished)] == results == [e.result for e in events[-2:]]


def test_a_plan_is_an_output_too(at):
    plan = quantreg.plan("small.gguf", "Q5_K_M")
    results = together("small.gguf", [plan, "Q8_0"])
    assert [result.path for result in results] == ["out-Q5_K_M.gguf", "out-Q8_0.gguf"]
    assert Path("out-Q5_K_M.gguf").read_bytes() == singly("small.gguf", ["Q5_K_M"])[0][0][0]


@pytest.mark.parametrize(
    ("dst", "names", "message"),
    [
        ("out.gguf", ["Q8_0", "Q4_0"], r"does not hold \{type\}"),
        ("{type}/{type}.gguf", ["Q8_0"], r"holds \{type\} 2 times"),
        ("{type}.gguf", ["Q4_K", "Q8_0", "Q4_K_M"], "for Q4_K and Q4_K_M, which are the same file type"),
        ("{type}.gguf", [15, "Q4_K_M"], "would be written twice"),
        ("{type}.gguf", [], "give a list"),
        ("{type}.gguf", "Q8_0,Q4_0", "give a list"),
    ],
)
def test_outputs_must_differ(at, dst, names, message):
    with pytest.raises(PlanError, match=message):
        quantreg.quantize_files("small.gguf", dst, names)
    assert sorted(os.listdir()) == ["imatrix.gguf", "small.gguf"]


def test_a_target_is_for_one_file(at):
    with pytest.raises(PlanError, match="one file"):
        together("small.gguf", ["Q8_0"], target_bpw=4)
    with pytest.raises(UnknownFileTypeError):
        together("small.gguf", ["Q8_0", "Q9"])


def test_all_outputs_that_exist_are_named_before_any_work(at):
    for name in ("out-Q8_0.gguf", "out-Q4_K_M.gguf"):
        Path(name).write_bytes(b"precious")
    events = []
    for options in ({}, {"resumable": True}, {"resume": True}):
        with pytest.raises(OutputError, match=r"out-Q8_0.gguf, .*out-Q4_K_M.gguf: exist: ") as refused:
            together("small.gguf", ["Q8_0", "Q6_K", "Q4_K_M"], progress=events.append, **options)
        assert "Q6_K" not in str(refused.value)
    assert events == []
    assert Path("out-Q8_0.gguf").read_bytes() == b"precious"
    check("small.gguf", ["Q8_0", "Q6_K", "Q4_K_M"], run_options={"force": True})


def test_no_output_replaces_the_source_even_with_force(at):
    os.rename("small.gguf", "out-Q8_0.gguf")
    with pytest.raises(OutputError, match="is the input"):
        together("out-Q8_0.gguf", ["Q8_0", "Q4_0"], force=True)


def test_the_disk_must_have_room_for_all_outputs_together(at, monkeypatch):
    plans = [quantreg.quantize_file("small.gguf", "x.gguf", name, force=True).size for name in ("Q8_0", "Q4_0")]
    monkeypatch.setattr(shards, "free_bytes", lambda folder: sum(plans) - 1)
    with pytest.raises(OutputError, match=f"the files take {sum(plans)} bytes, but only {sum(plans) - 1} are free"):
        together("small.gguf", ["Q8_0", "Q4_0"])
    monkeypatch.setattr(shards, "free_bytes", lambda folder: sum(plans))
    together("small.gguf", ["Q8_0", "Q4_0"])


def test_an_error_leaves_no_output_and_advises_on_the_type_that_cannot_hold_the_weights(at):
    x = np.ones((4, 256), np.float32)
    x[1, 3] = 1e6
    quantreg.write("big.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": x})
    with pytest.raises(NonFiniteError, match="the file type BF16"):
        together("big.gguf", ["Q4_K_M", "F16"])
    x[1, 3] = np.nan
    quantreg.write("nan.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": x})
    with pytest.raises(NonFiniteError, match=r"blk\.0\.attn_q"):
        together("nan.gguf", ["F32", "Q4_K_M"])
    assert not [name for name in os.listdir() if name.startswith("out")]


def test_outputs_may_be_in_folders_of_their_own(at):
    for name in ("Q8_0", "Q4_0"):
        Path(name).mkdir()
    results = quantreg.quantize_files("small.gguf", "{type}/model.gguf", ["Q8_0", "Q4_0"])
    assert [result.path for result in results] == ["Q8_0/model.gguf", "Q4_0/model.gguf"]


# ---- the command ----


def test_the_command_makes_a_file_for_each_type(at, capsys):
    assert cli.main(["quantize", "small.gguf", "out-{type}.gguf", "Q8_0,Q6_K,q4_k_m", "2"]) == 0
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == [
        "out-Q8_0.gguf", "out-Q6_K.gguf", "out-Q4_K_M.gguf"
    ]  # fmt: skip
    assert "F16 -> Q8_0, Q6_K, Q4_K" in said.err
    for expected, name in zip(
        singly("small.gguf", ["Q8_0", "Q6_K", "Q4_K_M"]), ["Q8_0", "Q6_K", "Q4_K_M"], strict=True
    ):
        assert Path(f"out-{name}.gguf").read_bytes() == expected[0][0]


def test_without_out_the_files_have_the_names_of_llama_quantize(at):
    assert cli.main(["quantize", "small.gguf", "Q8_0,Q4_0"]) == 0
    assert {"ggml-model-Q8_0.gguf", "ggml-model-Q4_0.gguf"} <= set(os.listdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out.gguf", "Q8_0,Q4_0"], "does not hold {type}"),
        (["{type}{type}.gguf", "Q8_0,Q4_0"], "holds {type} 2 times"),
        (["{type}.gguf", "Q8_0,,Q4_0"], "lacks a type"),
        (["Q8_0,", "2"], "lacks a type"),
        (["{type}.gguf", "Q8_0,Q99"], "Q99"),
        (["{type}.gguf", "Q4_K,Q4_K_M"], "the same file type"),
        (["{type}.gguf", "Q8_0,Q4_0", "--report", "r.html", "--calibration", "imatrix.gguf"], ""),
    ],
)
def test_the_command_refuses_what_makes_no_sense(at, capsys, words, message):
    assert cli.main(["quantize", "small.gguf", *words]) != 0
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == ["imatrix.gguf", "small.gguf"]


def test_a_dry_run_shows_the_plan_of_each_output(at, capsys):
    import json

    assert cli.main(["quantize", "--dry-run", "small.gguf", "out-{type}.gguf", "Q8_0,Q4_K_M"]) == 0
    assert "out-Q8_0.gguf:\n" in capsys.readouterr().out
    assert cli.main(["quantize", "--dry-run", "--json", "small.gguf", "out-{type}.gguf", "Q8_0,Q4_K_M"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert [(plan["path"], plan["file_type"]) for plan in plans] == [
        ("out-Q8_0.gguf", "Q8_0"), ("out-Q4_K_M.gguf", "Q4_K_M")
    ]  # fmt: skip
    assert sorted(os.listdir()) == ["imatrix.gguf", "small.gguf"]


def test_lines_of_json_say_which_output_they_are_about(at, capsys):
    import json

    assert cli.main(["quantize", "--log-json", "small.gguf", "out-{type}.gguf", "Q8_0,Q4_K_M"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["file_types"] == ["Q8_0", "Q4_K_M"]
    assert {line["output"] for line in lines if line["event"] == "tensor"} == {0, 1}
    assert [line["paths"] for line in lines[-2:]] == [["out-Q8_0.gguf"], ["out-Q4_K_M.gguf"]]


def test_types_that_cannot_be_made_are_all_named_before_any_work(at):
    with pytest.raises(
        PlanError, match=r"^IQ2_XS requires an importance matrix for .* Nor can IQ1_S and IQ2_M be made$"
    ):
        together("small.gguf", ["Q8_0", "IQ2_XS", "Q4_0", "IQ1_S", "IQ2_M"])
    with pytest.raises(PlanError, match=r"^IQ2_XS requires .*IQ4_XS$"):
        together("small.gguf", ["Q8_0", "IQ2_XS"])
    assert not [name for name in os.listdir() if name.startswith("out")]
