"""Importance matrices that quantreg collects, adds up and writes are those of llama-imatrix."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import imatrix_models
import numpy as np
import pytest

import quantreg
from quantreg import ImportanceError, ImportanceMatrix, ModelError, OutputError, QualityError
from quantreg.importance import Sums
from quantreg.quality import ChunkDone, Saved, Started, chunks
from quantreg.quality.activations import Activations, counted_rows

GOLDEN = Path(__file__).parent / "golden" / "imatrix"
N_CTX = imatrix_models.N_CTX
TEXT = imatrix_models.text().removesuffix("\n")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with the models, and the text as a file."""
    folder = tmp_path_factory.mktemp("imatrix")
    for name in {model for model, _ in imatrix_models.RUNS.values()}:
        imatrix_models.write(name, folder / f"{name}.gguf")
    (folder / "text.txt").write_text(imatrix_models.text(), encoding="utf-8", newline="")
    return folder


@pytest.fixture
def two_at_a_time(monkeypatch):
    """Two chunks go through the model at once, so that a run has several steps."""
    monkeypatch.setattr(chunks, "BATCH", 2 * N_CTX)


def keywords(options):
    """The arguments of collect_imatrix for options of the command."""
    words = [str(option).removeprefix("--").replace("-", "_") for option in options]
    if words == ["process_output"]:
        return {"process_output": True}
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def difference(found, expected):
    """The largest difference of sums, as a share of the value or of the entry's mean, whichever is larger."""
    worst = 0.0
    for name in expected:
        mine, theirs = found.sums(name).astype(np.float64), expected.sums(name).astype(np.float64)
        worst = max(worst, (np.abs(mine - theirs) / np.maximum(theirs, theirs.mean())).max())
    return worst


def header(path):
    return path.read_bytes()[: quantreg.gguf.read_header(path).data_offset]


# ---- collecting ----


@pytest.mark.parametrize("name", imatrix_models.RUNS)
def test_the_file_is_that_of_the_reference_but_for_rounding(name, folder, tmp_path):
    model, options = imatrix_models.RUNS[name]
    out = tmp_path / "i.gguf"
    found = quantreg.collect_imatrix(
        folder / f"{model}.gguf",
        imatrix_models.text(name).removesuffix("\n"),
        n_ctx=imatrix_models.n_ctx(name),
        dataset="text.txt",
        out=out,
        **keywords(options),
    )
    expected = ImportanceMatrix.read(GOLDEN / f"{name}.gguf")
    assert header(out) == header(GOLDEN / f"{name}.gguf")
    written = ImportanceMatrix.read(out)
    for matrix in (found, written):
        assert sorted(matrix) == list(expected)
        assert [matrix.counts(entry) for entry in expected] == [expected.counts(entry) for entry in expected]
        assert difference(matrix, expected) < 1e-5
        assert (matrix.chunk_count, matrix.chunk_size, matrix.datasets) == (
            expected.chunk_count, expected.chunk_size, expected.datasets,
        )  # fmt: skip
    assert all(np.array_equal(found[entry], written[entry]) for entry in written)


def test_the_golden_files_differ_where_the_options_do():
    plain, output, tied, later = (
        ImportanceMatrix.read(GOLDEN / f"{n}.gguf") for n in ("plain", "output", "tied", "later")
    )
    assert set(output) - set(plain) == {"output.weight"}
    assert "output.weight" not in tied
    assert "token_embd.weight" not in tied
    assert (plain.chunk_count, later.chunk_count) == (9, 4)
    experts = ImportanceMatrix.read(GOLDEN / "experts.gguf")
    assert len(set(experts.counts("blk.0.ffn_down_exps.weight"))) > 4


@pytest.mark.parametrize(
    ("sequences", "n_ctx", "left_out"),
    [
        (4, 512, []), (3, 512, [510, 511]), (2, 512, []), (1, 512, []), (8, 256, []), (6, 256, [255]), (5, 256, []),
        (9, 32, []), (6, 86, [85]), (1, 4100, [4096, 4097, 4098, 4099]), (1, 528, []), (1, 527, list(range(512, 527))),
    ],
)  # fmt: skip
def test_rows_that_the_reference_ignores_are_left_out(sequences, n_ctx, left_out):
    mask = counted_rows(sequences, n_ctx)
    found = [] if mask is None else np.flatnonzero(~mask.reshape(sequences, n_ctx).all(axis=0)).tolist()
    assert found == left_out
    if mask is not None:
        assert int((~mask).sum()) == sequences * len(left_out)


def test_the_tail_of_the_reference_is_shorter_for_all_but_experts():
    found = ImportanceMatrix.read(GOLDEN / "tail.gguf")
    assert found.counts("blk.0.attn_q.weight") == found.counts("output.weight") == (6 * 85,)
    assert sum(found.counts("blk.0.ffn_up_exps.weight")) % (6 * 86) == 0


def test_an_output_that_is_the_embedding_is_told_and_left_out(folder):
    events = []
    found = quantreg.collect_imatrix(
        folder / "llama-tied.gguf", TEXT, n_ctx=N_CTX, process_output=True, progress=events.append
    )
    assert all(name.startswith("blk.") for name in found)
    assert any("no output.weight" in warning for warning in events[0].warnings)


def test_the_steps_do_not_change_the_sums(folder, two_at_a_time):
    found = quantreg.collect_imatrix(folder / "llama-experts.gguf", TEXT, n_ctx=N_CTX)
    expected = ImportanceMatrix.read(GOLDEN / "experts.gguf")
    assert [found.counts(name) for name in expected] == [expected.counts(name) for name in expected]
    assert difference(found, expected) < 1e-5


def test_the_perplexity_is_that_of_quantreg_perplexity(folder, two_at_a_time):
    for output in (False, True):
        events = []
        quantreg.collect_imatrix(
            folder / "llama.gguf", TEXT, n_ctx=N_CTX, perplexity=True, process_output=output, progress=events.append
        )
        expected = quantreg.perplexity(folder / "llama.gguf", TEXT, n_ctx=N_CTX)
        assert isinstance(events[0], Started)
        assert [event.chunk for event in events[1:]] == list(range(1, 10))
        assert np.allclose([event.perplexity for event in events[1:]], expected.running, rtol=1e-5)
        assert np.isclose(events[-1].perplexity_error, expected.perplexity_error, rtol=1e-5)


def test_a_model_that_is_loaded_and_ids_work_too(folder):
    with quantreg.load(folder / "llama.gguf") as model:
        ids = model.tokenize(TEXT)
        found = quantreg.collect_imatrix(model, ids, n_ctx=N_CTX)
    assert difference(found, ImportanceMatrix.read(GOLDEN / "plain.gguf")) < 1e-5
    assert found.dataset is None


@pytest.mark.parametrize("per_expert", [False, True], ids=["one row for all", "a row for each"])
def test_sums_of_experts_count_the_tokens_routed_to_each(per_expert):
    random = np.random.default_rng(1)
    experts = np.stack([random.permutation(5)[:2] for _ in range(700)])  # never expert 5
    x = random.standard_normal((700, 2, 6) if per_expert else (700, 6)).astype(np.float32)
    name = "blk.0.ffn_down_exps.weight"

    sums = Sums()
    activations = Activations(SimpleNamespace(tensors={name: np.zeros((6, 3, 6))}), sums)
    activations.observe(name, x, experts)
    assert not sums  # not before the chunk is complete
    activations.keep()
    each = x if per_expert else np.repeat(x[:, None], 2, axis=1)
    expected = [(each[experts == e].astype(np.float64) ** 2).sum(axis=0) for e in range(6)]
    assert sums.counts(name) == tuple(int((experts == e).sum()) for e in range(6))
    assert sums.counts(name)[5] == 0
    assert np.allclose(sums.sums(name).reshape(6, 6), expected, rtol=1e-6)
    assert (sums[name].reshape(6, 6)[5] == 1).all()


# ---- what it does with numbers that are none ----


def test_nan_in_the_weights_names_the_matrix_and_the_next_step(folder, tmp_path):
    with quantreg.open(folder / "llama.gguf") as file:
        tensors = {name: tensor.dequantize() for name, tensor in file.items()}
        tensors["blk.0.ffn_up.weight"][3, 5] = np.nan
        quantreg.write(tmp_path / "nan.gguf", file.metadata, tensors)
    with pytest.raises(ModelError, match=r"the input of blk\.0\.ffn_down\.weight holds NaN.*quantreg validate"):
        quantreg.collect_imatrix(tmp_path / "nan.gguf", TEXT, n_ctx=N_CTX, out=tmp_path / "i.gguf")
    assert not (tmp_path / "i.gguf").exists()


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("e" * 50, {}, QualityError, "two chunks"),
        (TEXT, {"from_chunk": 9}, QualityError, "9 are to be skipped"),
        (TEXT, {"chunks": 0}, QualityError, "chunks is 0"),
        ([1] * 200 + [99], {}, ModelError, "99"),
        (TEXT, {"output_frequency": -1, "out": "i.gguf"}, OutputError, "negative"),
        (TEXT, {"out": "nowhere/i.gguf"}, OutputError, "create its folder"),
        (TEXT, {"output_format": "csv", "out": "i.gguf"}, ValueError, "gguf, dat"),
        (TEXT, {"add_to": [{"blk.0.attn_q.weight": [1, 2, 3]}]}, ImportanceError, "3 values"),
    ],
)
def test_bad_input_is_refused_before_or_with_the_first_step(
    text, options, error, message, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        quantreg.collect_imatrix(folder / "llama.gguf", text, n_ctx=N_CTX, **options)
    assert not list(tmp_path.iterdir())


# ---- stopping and going on ----


class StoppedError(Exception):
    pass


def stop_after(chunk):
    def progress(event):
        if isinstance(event, ChunkDone) and event.chunk == chunk:
            raise StoppedError

    return progress


def collect(folder, out, **options):
    return quantreg.collect_imatrix(
        folder / "llama-experts.gguf", TEXT, n_ctx=N_CTX, dataset="text.txt", perplexity=True, out=out, **options
    )


@pytest.mark.parametrize("to", ["i.gguf", "i.dat"])
def test_a_run_that_stops_keeps_every_whole_step(to, folder, tmp_path, two_at_a_time):
    form = to[2:]
    with pytest.raises(StoppedError):
        collect(folder, tmp_path / to, output_frequency=0, output_format=form, progress=stop_after(5))
    kept = ImportanceMatrix.read(tmp_path / to)
    assert kept.chunk_count == 6
    with pytest.raises(OutputError, match=r"exists, with the sums of 6 chunks.*--in-file .* --from-chunk 6"):
        collect(folder, tmp_path / to, output_format="dat")
    rest = collect(folder, tmp_path / to, output_format=form, add_to=[tmp_path / to], from_chunk=6)
    expected = ImportanceMatrix.read(GOLDEN / "experts.gguf")
    assert rest.chunk_count == 9
    if form == "dat":  # which has one count for all experts
        expected = ImportanceMatrix.combined([{n: expected.sums(n) for n in expected if len(expected.counts(n)) == 1}])
    assert difference(rest, expected) < 1e-5


def test_the_same_call_goes_on_with_an_unfinished_file(folder, tmp_path, two_at_a_time):
    out, events, whole = tmp_path / "i.gguf", [], []
    with pytest.raises(StoppedError):
        collect(folder, out, progress=stop_after(5))
    assert any("6 of 9 chunks" in warning for warning in ImportanceMatrix.read(out).warnings)
    found = collect(folder, out, progress=events.append)
    collect(folder, tmp_path / "whole.gguf", progress=whole.append)
    assert events[0].done == 6
    assert [event.chunk for event in events if isinstance(event, ChunkDone)] == [7, 8, 9]
    assert np.isclose(events[-2].perplexity, whole[-2].perplexity, rtol=1e-9)
    assert np.isclose(events[-2].perplexity_error, whole[-2].perplexity_error, rtol=1e-9)
    assert header(out) == header(tmp_path / "whole.gguf")
    assert ImportanceMatrix.read(out).warnings == []
    assert found.chunk_count == 9
    assert difference(ImportanceMatrix.read(out), ImportanceMatrix.read(GOLDEN / "experts.gguf")) < 1e-5


def test_a_run_may_go_on_for_more_chunks_than_it_was_to_have(folder, tmp_path, two_at_a_time):
    with pytest.raises(StoppedError):
        collect(folder, tmp_path / "i.gguf", chunks=6, progress=stop_after(3))
    assert collect(folder, tmp_path / "i.gguf").chunk_count == 9


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"process_output": True}, "process_output"),
        ({"from_chunk": 1}, "the first chunk"),
        ({"add_to": [GOLDEN / "experts.gguf"]}, "the files to add to"),
    ],
)
def test_an_unfinished_file_of_another_run_is_refused(change, what, folder, tmp_path, two_at_a_time):
    out = tmp_path / "i.gguf"
    with pytest.raises(StoppedError):
        collect(folder, out, progress=stop_after(3))
    before = out.read_bytes()
    with pytest.raises(OutputError, match=f"4 of 9 chunks.*{what} differed.*--in-file"):
        collect(folder, out, **change)
    assert out.read_bytes() == before
    assert collect(folder, out, force=True, **change).chunk_count >= 8


def test_an_unfinished_file_can_be_added_to_under_its_own_name(folder, tmp_path, two_at_a_time):
    out = tmp_path / "i.gguf"
    with pytest.raises(StoppedError):
        collect(folder, out, progress=stop_after(3))
    with pytest.raises(StoppedError):
        collect(folder, out, add_to=[out], from_chunk=4, progress=stop_after(1))
    found = collect(folder, out, add_to=[out], from_chunk=4)
    assert found.chunk_count == 9
    assert found.datasets == ("text.txt", "text.txt")
    assert difference(found, ImportanceMatrix.read(GOLDEN / "experts.gguf")) < 1e-5


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_run_goes_on(folder, tmp_path, two_at_a_time):
    out = tmp_path / "i.gguf"
    code = (
        "import os, signal, quantreg\n"
        "from quantreg.quality import chunks, ChunkDone\n"
        f"chunks.BATCH = {2 * N_CTX}\n"
        "def progress(event):\n"
        "    if isinstance(event, ChunkDone) and event.chunk == 7:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"quantreg.collect_imatrix({str(folder / 'llama-experts.gguf')!r}, {TEXT!r}, n_ctx={N_CTX}, perplexity=True,\n"
        f"    dataset='text.txt', out={str(out)!r}, output_frequency=4, progress=progress)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["i.gguf"]
    events = []
    collect(folder, out, progress=events.append)
    assert events[0].done == 4
    assert difference(ImportanceMatrix.read(out), ImportanceMatrix.read(GOLDEN / "experts.gguf")) < 1e-5


def test_saves_and_copies_come_after_so_many_chunks(folder, tmp_path, two_at_a_time):
    events = []
    collect(folder, tmp_path / "i.gguf", output_frequency=3, save_frequency=5, progress=events.append)
    saved = [(Path(event.path).name, event.chunks, event.finished) for event in events if isinstance(event, Saved)]
    assert saved == [
        ("i.gguf", 4, False), ("i.gguf.at_6", 6, False), ("i.gguf", 6, False), ("i.gguf", 9, True)
    ]  # fmt: skip
    assert ImportanceMatrix.read(tmp_path / "i.gguf.at_6").chunk_count == 6
    assert ImportanceMatrix.read(tmp_path / "i.gguf.at_6").warnings == []


def test_no_run_replaces_what_it_reads_or_what_it_did_not_make(folder, tmp_path):
    model = tmp_path / "m.gguf"
    model.write_bytes((folder / "llama.gguf").read_bytes())
    with pytest.raises(OutputError, match="is the input"):
        quantreg.collect_imatrix(model, TEXT, n_ctx=N_CTX, out=model, force=True)
    with pytest.raises(OutputError, match="exists: choose another name"):
        quantreg.collect_imatrix(folder / "llama.gguf", TEXT, n_ctx=N_CTX, out=model)


def test_quantize_takes_the_file(folder, tmp_path):
    out = tmp_path / "i.gguf"
    quantreg.collect_imatrix(
        folder / "llama-experts.gguf", TEXT, n_ctx=N_CTX, process_output=True, out=out, dataset="t"
    )
    found = quantreg.coverage(folder / "llama-experts.gguf", out)
    assert [tensor.name for tensor in found.tensors if tensor.state == "no entry"] == ["token_embd.weight"]
    quantreg.quantize_file(folder / "llama-experts.gguf", tmp_path / "q.gguf", "Q4_0", out)
    with quantreg.open(tmp_path / "q.gguf") as file:
        assert file.metadata["quantize.imatrix.dataset"] == "t"
        assert file.metadata["quantize.imatrix.chunks_count"] == 9
