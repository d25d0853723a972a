"""Perplexity, KL divergence and base files, against the figures that llama-perplexity gave for the same models."""

import re
from pathlib import Path

import numpy as np
import numpy_q4_1
import pytest
import quality_models
from entries import installed

import quantreg
from quantreg.quality import BaseFile, ChunkDone, Chunks, Started, batches, measure
from quantreg.quality.logprobs import encoded, scored

GOLDEN = Path(__file__).parent / "golden" / "quality"
N_CTX = quality_models.N_CTX


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with base.gguf and rounded.gguf."""
    folder = tmp_path_factory.mktemp("quality")
    quality_models.write(quality_models.base(), folder / "base.gguf")
    quality_models.write(quality_models.rounded(), folder / "rounded.gguf")
    return folder


@pytest.fixture(scope="session")
def ids():
    """The tokens of the text, as the reference cut them."""
    with BaseFile(GOLDEN / "base.dat") as file:
        return file.tokens.reshape(-1)


@pytest.fixture
def base(folder):
    with quantreg.load(folder / "base.gguf", threads=1) as model:
        yield model


def reference():
    """What llama-perplexity printed about the two models: label -> numbers, as text."""
    lines = (GOLDEN / "rounded.txt").read_text(encoding="utf-8").splitlines()
    parts = (line.split(":", 1) for line in lines if ":" in line)
    return {label.strip(): re.findall(r"-?\d+\.\d+", rest) for label, rest in parts}


# ---- the figures of the reference ----


def test_the_perplexity_is_the_references_for_every_chunk(base, ids):
    golden = (GOLDEN / "base.txt").read_text()
    chunks = [float(x) for x in re.findall(r"\[\d+\]([\d.]+),", golden)]
    final, error = map(float, re.search(r"PPL = ([\d.]+) \+/- ([\d.]+)", golden).groups())
    found = quantreg.perplexity(base, ids, n_ctx=N_CTX)
    assert len(chunks) == found.chunks == 9
    np.testing.assert_allclose(found.running, chunks, rtol=1e-5)
    assert found.perplexity == found.running[-1] == pytest.approx(final, rel=1e-5)
    assert found.perplexity_error == pytest.approx(error, rel=1e-5)
    assert found.nll == pytest.approx(np.log(final), rel=1e-6)
    assert found.nll_error == pytest.approx(error / final, rel=1e-5)
    assert (found.tokens, found.n_ctx) == (9 * 15, N_CTX)


def test_the_divergence_from_the_references_base_file_is_the_references(folder):
    found = quantreg.kl_divergence(folder / "rounded.gguf", GOLDEN / "base.dat")
    expected = {
        "Mean PPL(Q)": (found.perplexity, found.perplexity_error),
        "Mean PPL(base)": (found.perplexity_base, found.perplexity_base_error),
        "Cor(ln(PPL(Q)), ln(PPL(base)))": (100 * found.correlation,),
        "Mean ln(PPL(Q)/PPL(base))": (found.log_ratio, found.log_ratio_error),
        "Mean PPL(Q)/PPL(base)": (found.ratio, found.ratio_error),
        "Mean PPL(Q)-PPL(base)": (found.difference, found.difference_error),
        "Mean    KLD": (found.kl_mean, found.kl_error),
        "Maximum KLD": (found.kl_max,),
        "99.9%   KLD": (found.kl_99_9,),
        "99.0%   KLD": (found.kl_99,),
        "95.0%   KLD": (found.kl_95,),
        "90.0%   KLD": (found.kl_90,),
        "Median  KLD": (found.kl_median,),
        "10.0%   KLD": (found.kl_10,),
        "5.0%   KLD": (found.kl_5,),
        "1.0%   KLD": (found.kl_1,),
        "0.1%   KLD": (found.kl_0_1,),
        "Minimum KLD": (found.kl_min,),
        "Mean    Δp": (100 * found.dp_mean, 100 * found.dp_error),
        "Maximum Δp": (100 * found.dp_max,),
        "99.9%   Δp": (100 * found.dp_99_9,),
        "99.0%   Δp": (100 * found.dp_99,),
        "95.0%   Δp": (100 * found.dp_95,),
        "90.0%   Δp": (100 * found.dp_90,),
        "75.0%   Δp": (100 * found.dp_75,),
        "Median  Δp": (100 * found.dp_median,),
        "25.0%   Δp": (100 * found.dp_25,),
        "10.0%   Δp": (100 * found.dp_10,),
        "5.0%   Δp": (100 * found.dp_5,),
        "1.0%   Δp": (100 * found.dp_1,),
        "0.1%   Δp": (100 * found.dp_0_1,),
        "Minimum Δp": (100 * found.dp_min,),
        "RMS Δp": (100 * found.dp_rms, 100 * found.dp_rms_error),
        "Same top p": (100 * found.same_top, 100 * found.same_top_error),
    }
    golden = reference()
    assert set(expected) == set(golden)
    for label, values in expected.items():
        for value, printed in zip(values, golden[label], strict=True):
            last_digit = 10.0 ** -len(printed.split(".")[1])
            assert value == pytest.approx(float(printed), rel=2e-5, abs=last_digit), label


def test_a_base_file_is_laid_out_and_filled_like_the_references(base, ids, tmp_path):
    quantreg.perplexity(base, ids, n_ctx=N_CTX, save_base=tmp_path / "ours.dat")
    ours, theirs = (tmp_path / "ours.dat").read_bytes(), (GOLDEN / "base.dat").read_bytes()
    start = 20 + 4 * 9 * N_CTX
    assert (len(ours), ours[:start]) == (len(theirs), theirs[:start])
    with BaseFile(tmp_path / "ours.dat") as a, BaseFile(GOLDEN / "base.dat") as b:
        assert (a.n_ctx, a.n_vocab, a.whole) == (b.n_ctx, b.n_vocab, b.whole) == (N_CTX, base.n_vocab, 9)
        mine, golden = a.rows(0, 135), b.rows(0, 135)
    assert mine.shape[1] == golden.shape[1] == base.n_vocab + 1 + 4  # an odd vocabulary is filled up
    heads = mine[:, :4].copy().view("<f4"), golden[:, :4].copy().view("<f4")
    np.testing.assert_allclose(*heads, atol=1e-4)
    assert np.abs(mine[:, 4:-1].astype(int) - golden[:, 4:-1]).max() <= 2


def test_a_model_beside_its_base_gives_what_the_base_file_gives(folder, ids):
    file = quantreg.kl_divergence(folder / "rounded.gguf", GOLDEN / "base.dat")
    both = quantreg.kl_divergence(folder / "rounded.gguf", folder / "base.gguf", ids, n_ctx=N_CTX)
    assert both.perplexity == file.perplexity
    for name in ("kl_mean", "kl_error", "kl_median", "kl_99", "dp_rms", "dp_mean", "same_top"):
        assert getattr(both, name) == pytest.approx(getattr(file, name), rel=1e-3), name
    assert both.perplexity_base > file.perplexity_base  # which a file limits: 16 nats below the top is the least


def test_a_model_does_not_differ_from_itself(folder, ids):
    path = folder / "base.gguf"
    found = quantreg.kl_divergence(path, path, ids, n_ctx=N_CTX)
    assert found.kl_mean == pytest.approx(0, abs=1e-6)
    assert (found.same_top, found.ratio, found.dp_rms) == (1, 1, pytest.approx(0, abs=1e-7))
    assert found.correlation == pytest.approx(1)


# ---- what they are made of ----


def slow_log_softmax(logits):
    x = logits.astype(np.float64)
    return (
        x - np.log(np.exp(x - x.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) - x.max(axis=1, keepdims=True)
    )


@pytest.mark.parametrize("shape", [(5, 7), (3, 70001), (700, 257)])
@pytest.mark.parametrize("threads", [1, 3])
def test_scores_are_those_of_float64(shape, threads):
    random = np.random.default_rng(1)
    logits, theirs = (random.normal(0, 4, shape).astype(np.float32) for _ in range(2))
    targets = random.integers(0, shape[1], shape[0]).astype(np.int32)
    found = scored(logits, targets, base=theirs, threads=threads)
    mine, base = slow_log_softmax(logits), slow_log_softmax(theirs)
    each = np.arange(shape[0])
    np.testing.assert_allclose(found.nll, -mine[each, targets], rtol=1e-6)
    np.testing.assert_allclose(found.nll_base, -base[each, targets], rtol=1e-6)
    kl = np.where(base > -16, np.exp(base) * (base - mine), 0).sum(axis=1)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-5)
    np.testing.assert_array_equal(found.same, logits.argmax(axis=1) == theirs.argmax(axis=1))
    alone = scored(logits, targets, base=theirs, threads=1)
    assert all(np.array_equal(a, b) for a, b in zip(alone, found, strict=True))


def test_rows_of_a_base_file_hold_log_probabilities_down_to_16_below_the_top():
    logits = np.random.default_rng(2).normal(0, 6, (40, 501)).astype(np.float32)
    logits[3] = 1.5  # all equal: no scale
    rows = encoded(logits)
    scale, low = rows[:, :4].copy().view(np.float32).T
    back = rows[:, 4:-1] * scale[:, None] + low[:, None]
    exact = slow_log_softmax(logits)
    floor = exact.max(axis=1, keepdims=True) - 16
    np.testing.assert_allclose(back, np.maximum(exact, floor), atol=16 / 65535)
    assert scale[3] == 0
    assert not rows[3, 4:].any()
    targets = np.arange(40, dtype=np.int32)
    of_file, of_logits = (scored(logits, targets, base=x) for x in (rows, logits))
    np.testing.assert_allclose(of_file.kl, 0, atol=2e-4)
    np.testing.assert_array_equal(of_logits.same, True)


def test_the_result_does_not_depend_on_slices_or_threads(folder, ids, monkeypatch):
    def figures(threads):
        with quantreg.load(folder / "rounded.gguf", threads=threads) as model:
            return quantreg.kl_divergence(model, GOLDEN / "base.dat", threads=threads)

    one = figures(1)
    monkeypatch.setattr(measure, "_LOGITS", 4 * 95 * 37)  # slices of 37 rows: a chunk has 15
    other = figures(2)
    for name in one.__slots__:
        if name not in ("seconds", "tokens_per_second"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5), name


def test_logits_never_exceed_their_limit(base, ids, monkeypatch):
    monkeypatch.setattr(measure, "_LOGITS", 4 * 95 * 37)
    sizes = []
    output = base.output
    monkeypatch.setattr(
        base, "output", lambda states, **options: sizes.append(len(states)) or output(states, **options)
    )
    quantreg.perplexity(base, ids, n_ctx=N_CTX)
    assert sum(sizes) == 135
    assert max(sizes) <= 37
    assert min(sizes) > 30, "the slices are of about the same size"


def test_about_2048_tokens_go_through_the_layers_at_once(base):
    for n_ctx, sequences in ((32, 64), (512, 4), (600, 3), (4096, 1)):
        chunks = Chunks(np.zeros((100, n_ctx), np.int32), None)
        sizes = [len(ids) for _, ids in batches(chunks)]
        assert sizes[0] == sequences
        assert sum(sizes) == 100


def test_chunks_begin_with_bos_and_keep_the_texts_own_token(base, ids):
    cut = Chunks.cut(base, ids, N_CTX, chunks=4)
    assert (cut.bos, len(cut), cut.left) == (1, 4, 5 * N_CTX)
    assert (cut.inputs(1, 3)[:, 0] == 1).all()
    np.testing.assert_array_equal(cut.tokens.reshape(-1), ids[: 4 * N_CTX])
    np.testing.assert_array_equal(cut.inputs(1, 3)[:, 1:], cut.tokens[1:3, 1:])
    skipped = Chunks.cut(base, ids, N_CTX, chunks=4, skip=7)
    np.testing.assert_array_equal(skipped.tokens, ids.reshape(-1, N_CTX)[7:])


def test_the_number_of_chunks_can_be_limited(folder, base, ids):
    whole, few = (quantreg.perplexity(base, ids, n_ctx=N_CTX, chunks=chunks) for chunks in (None, 4))
    assert few.chunks == 4
    assert few.running == pytest.approx(whole.running[:4], rel=1e-6)
    assert quantreg.kl_divergence(folder / "rounded.gguf", GOLDEN / "base.dat", chunks=4).chunks == 4


def test_progress_reports_each_chunk_with_the_figures_so_far(folder, base, ids):
    events = []
    found = quantreg.perplexity(base, ids, n_ctx=N_CTX, progress=events.append)
    assert events[0] == Started(9, N_CTX)
    assert [(e.chunk, e.chunks) for e in events[1:]] == [(i, 9) for i in range(1, 10)]
    assert [e.perplexity for e in events[1:]] == list(found.running)
    events.clear()
    found = quantreg.kl_divergence(folder / "rounded.gguf", GOLDEN / "base.dat", progress=events.append)
    last = events[-1]
    assert isinstance(last, ChunkDone)
    for name in ("perplexity", "perplexity_error", "log_ratio", "kl_mean", "kl_error", "dp_rms", "same_top"):
        assert getattr(last, name) == getattr(found, name)


def test_a_context_beyond_the_models_is_a_warning(base, ids):
    events = []
    found = quantreg.perplexity(base, ids, n_ctx=96, progress=events.append)
    assert len(found.warnings) == 1
    assert "trained on 64 context tokens" in found.warnings[0]
    assert events[0].warnings == found.warnings
    assert quantreg.perplexity(base, ids, n_ctx=64).warnings == ()


MINE = quantreg.QuantType(
    "MY_Q4",
    type_id=2004,
    block_size=32,
    type_size=20,
    fallback="F16",
    codec=lambda: quantreg.PythonCodec(MINE, numpy_q4_1.encode, numpy_q4_1.decode),
)


def test_a_third_partys_numpy_type_runs(folder, tmp_path):
    with installed(register_types=lambda register: register(MINE)):
        with quantreg.open(folder / "base.gguf") as model:
            tensors = {
                name: quantreg.QuantizedTensor.from_array(name, x, "MY_Q4") if x.ndim == 2 else x
                for name, x in model.items()
            }
            decoded = {name: np.asarray(x) for name, x in tensors.items()}
            quantreg.write(tmp_path / "mine.gguf", model.metadata, tensors)
            quantreg.write(tmp_path / "decoded.gguf", model.metadata, decoded)
        found = quantreg.kl_divergence(tmp_path / "mine.gguf", GOLDEN / "base.dat")
    expected = quantreg.kl_divergence(tmp_path / "decoded.gguf", GOLDEN / "base.dat")
    assert 0.01 < found.kl_mean < 2
    assert found.kl_mean == pytest.approx(expected.kl_mean, rel=1e-4)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-4)


def test_results_are_a_line_and_a_table_in_a_notebook(folder, base, ids):
    perplexity = quantreg.perplexity(base, ids, n_ctx=N_CTX)
    divergence = quantreg.kl_divergence(folder / "rounded.gguf", GOLDEN / "base.dat")
    assert repr(perplexity).startswith("<Perplexity 10350.31")
    assert re.match(r"<Divergence 0.12291 \+/- 0.01131 nats, perplexity 9022.60\d\d against 9759.19", repr(divergence))
    for found in (perplexity, divergence):
        html = found._repr_html_()
        assert "<th>perplexity_error</th>" in html
        assert "running" not in html
