"""quantreg evaluate -f: each type as the weights of the whole model, and what that does to predictions."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import small_models
import toy
from entries import registered

import quantreg
from quantreg import ModelError, QualityError
from quantreg.evaluation import page

N_VOCAB = 320


def text_of(n):
    random = np.random.default_rng(5)
    return "".join(random.choice(list("the quick brown fox jumps over it.\n"), n))


def model_of(width=256, ff=512, experts=False):
    """A small model of random F16 weights that reads any text: its tokens are bytes."""
    small = small_models.decoder("reader", "llama", width=width, ff=ff, heads=4, heads_kv=2, vocab=N_VOCAB)
    if experts:
        small_models.experts(small, 4, 2)
    small.keys(context_length=512)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [f"[{i}]" for i in range(N_VOCAB - len(tokens))]
    small.metadata |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * N_VOCAB,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (N_VOCAB - 259)],
    }
    small.tensors = {n: t.astype(np.float16) if t.ndim > 1 else t for n, t in small.tensors.items()}
    return small


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with model.gguf, experts.gguf, odd.gguf (rows that no K-quant takes) and text.txt."""
    folder = tmp_path_factory.mktemp("text")
    small_models.write(model_of(), folder / "model.gguf")
    small_models.write(model_of(experts=True), folder / "experts.gguf")
    small_models.write(model_of(width=96, ff=256), folder / "odd.gguf")
    (folder / "text.txt").write_text(text_of(700))
    return folder


def read(folder, types, name="model.gguf", **options):
    return quantreg.evaluate(
        folder / name, types, sample=5000, text=folder / "text.txt", n_ctx=64, chunks=3, **options
    ).text


def of_file(path, folder, base):
    text = (folder / "text.txt").read_text()
    return quantreg.kl_divergence(path, base, text, n_ctx=64, chunks=3)


@pytest.mark.parametrize("name", ["model.gguf", "experts.gguf"])
@pytest.mark.parametrize(
    ("type_", "how"), [("Q4_0", {"pure": True}), ("Q4_K_M", {}), ("Q3_K", {"pure": True}), ("NVFP4", {"pure": True})]
)
def test_the_divergence_is_that_of_the_quantized_file(folder, tmp_path, name, type_, how):
    base, path = folder / name, tmp_path / "quantized.gguf"
    file_type = "Q3_K_M" if type_ == "Q3_K" else type_
    result = quantreg.quantize_file(base, path, file_type, **how)
    expected = of_file(path, folder, base)
    (found,) = read(folder, [type_], name).types
    assert found.type == type_
    assert found.divergence.kl_mean == pytest.approx(expected.kl_mean, rel=1e-3)
    assert found.divergence.perplexity == pytest.approx(expected.perplexity, rel=1e-5)
    assert found.divergence.same_top == expected.same_top
    assert found.bits_per_weight == pytest.approx(result.bits_per_weight, rel=1e-4)


def test_a_smaller_type_moves_predictions_further(folder):
    text = read(folder, ["Q8_0", "Q4_0", "Q2_K"])
    by_type = {measure.type: measure.divergence for measure in text.types}
    assert by_type["Q8_0"].kl_mean < by_type["Q4_0"].kl_mean < by_type["Q2_K"].kl_mean
    assert text.chunks == 3
    assert text.n_ctx == 64
    for divergence in by_type.values():
        assert divergence.perplexity_base == pytest.approx(text.perplexity, rel=1e-5)


def test_a_type_of_a_numpy_plugin_is_read_like_a_built_in_one(folder):
    with registered(toy.Plugin(toy.make())):
        toy3, q3 = read(folder, ["TOY3", "Q3_K"]).types
    assert 0 < toy3.divergence.kl_mean < 20 * q3.divergence.kl_mean


def test_a_type_that_the_model_has_already_changes_nothing(folder):
    (found,) = read(folder, ["F16"]).types
    assert abs(found.divergence.kl_mean) < 1e-6
    assert found.divergence.same_top == 1


def test_a_tensor_that_a_type_does_not_fit_gets_the_fallback_of_quantize(folder, tmp_path):
    path = tmp_path / "q.gguf"
    result = quantreg.quantize_file(folder / "odd.gguf", path, "Q4_K_S", pure=True)
    whole = quantreg.evaluate(
        folder / "odd.gguf", ["Q4_K"], sample=5000, text=folder / "text.txt", n_ctx=64, chunks=3
    )  # fmt: skip
    (found,) = whole.text.types
    assert whole.incomplete()["Q4_K"]  # only ffn_down has rows of 256 weights
    assert result.plan.fallbacks
    assert found.bits_per_weight == pytest.approx(result.bits_per_weight, rel=1e-4)
    assert found.divergence.kl_mean == pytest.approx(of_file(path, folder, folder / "odd.gguf").kl_mean, rel=1e-3)


def test_importance_is_used_and_what_it_does_not_cover_gets_a_fallback(folder, tmp_path):
    random = np.random.default_rng(3)
    with quantreg.open(folder / "model.gguf") as model:
        entries = {n: random.random((1, t.shape[-1])).astype(np.float32) ** 4 for n, t in model.items() if t.ndim > 1}
    plain, weighted = (read(folder, ["Q4_K"], imatrix=imatrix).types[0] for imatrix in (None, entries))
    assert plain.divergence.kl_mean != weighted.divergence.kl_mean
    part = {name: entry for name, entry in entries.items() if name.startswith("blk.")}
    path, base = tmp_path / "q.gguf", folder / "model.gguf"
    result = quantreg.quantize_file(base, path, "IQ2_XXS", part, pure=True, on_missing_importance="fallback")
    (found,) = read(folder, ["IQ2_XXS"], imatrix=part).types
    assert result.plan["token_embd.weight"].to_type != "IQ2_XXS"
    assert found.bits_per_weight == pytest.approx(result.bits_per_weight, rel=1e-4)
    assert found.divergence.kl_mean == pytest.approx(of_file(path, folder, base).kl_mean, rel=1e-3)


def test_text_may_be_a_string_or_token_ids(folder):
    text = (folder / "text.txt").read_text()
    with quantreg.load(folder / "model.gguf") as model:
        ids = model.tokenize(text)
    found = [
        quantreg.evaluate(folder / "model.gguf", "Q4_0", sample=5000, text=given, n_ctx=64, chunks=3).text
        for given in (text, ids, folder / "text.txt")
    ]
    assert len({result.types[0].divergence.kl_mean for result in found}) == 1
    assert [result.file for result in found] == [None, None, str(folder / "text.txt")]


def test_a_codec_that_fails_fails_alone(folder):
    def encode(rows, importance):
        if rows.shape[1] == 512:  # not met in the sample of one row per tensor
            raise ValueError("not these rows")
        return toy.encode(rows, importance)

    with registered(toy.Plugin(toy.make(encode=encode))):
        found = quantreg.evaluate(
            folder / "model.gguf", ["TOY3", "Q4_0"], sample=5000, text=folder / "text.txt", n_ctx=64, chunks=3
        )
    assert [measure.type for measure in found.text.types] == ["Q4_0"]
    (failure,) = (entry for entry in found.failed if entry.type == "TOY3")
    assert failure.reason.startswith("no KL divergence: ")
    assert "not these rows" in failure.reason


def test_progress_counts_chunks(folder):
    steps = []
    read(folder, ["Q4_0", "Q8_0"], progress=steps.append)
    chunks = [step for step in steps if step.tensor.startswith("chunk")]
    assert chunks[0][:2] == ("chunk 1 of 3", "the model itself")
    assert {step.total for step in chunks} == {9}
    assert [step.done for step in chunks] == sorted(step.done for step in chunks)
    assert max(step.done for step in chunks) == 9


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"text": "short", "n_ctx": 64}, QualityError, "two chunks"),
        ({"text": [1, 2, 999] * 100, "n_ctx": 64}, ModelError, "vocabulary"),
        ({"text": Path("missing.txt")}, FileNotFoundError, "missing.txt"),
        ({"text": text_of(700), "n_ctx": 64, "chunks": 0}, QualityError, "number of chunks"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_before_anything_is_measured(folder, options, error, message):
    steps = []
    with pytest.raises(error, match=message):
        quantreg.evaluate(folder / "model.gguf", ["Q4_0"], progress=steps.append, **options)
    assert not steps


def test_a_model_that_cannot_run_is_refused(tmp_path, folder):
    quantreg.write(tmp_path / "m.gguf", {"general.architecture": "clip"}, {"a.weight": np.ones((64, 64), np.float16)})
    with pytest.raises(ModelError, match="clip"):
        quantreg.evaluate(tmp_path / "m.gguf", "Q4_0", text=folder / "text.txt")


# ---- the command ----


def arguments(folder, *types):
    return (
        "evaluate", *types, "--on", folder / "model.gguf", "--sample", "5k", "-f", folder / "text.txt", "-c", 64,
        "--chunks", 3,
    )  # fmt: skip


def test_the_command_shows_both_tables(run, folder):
    code, out, _ = run(*arguments(folder, "Q8_0", "Q4_0"))
    assert code == 0
    first, sentence, second = out.split("\n\n")
    assert first.startswith("TYPE")
    assert re.fullmatch(r".*text\.txt, 3 chunks of 64 tokens: the model as it is has PPL [\d.]+ \+/- [\d.]+", sentence)
    rows = [line.split() for line in second.splitlines()]
    assert rows[0] == ["TYPE", "BPW", "KL", "+/-", "KL", "99%", "SAME", "TOP", "PPL"]
    assert [row[0] for row in rows[1:]] == ["Q4_0", "Q8_0"]
    assert float(rows[1][2]) > float(rows[2][2]) > 0


def test_json_has_the_figures_of_the_text(run, folder):
    text = json.loads(run(*arguments(folder, "Q4_0"), "--json")[1])["text"]
    assert text["file"].endswith("text.txt")
    (found,) = text["types"]
    assert found["type"] == "Q4_0"
    assert found["kl_mean"] > 0
    assert {"kl_error", "kl_median", "kl_99", "same_top", "perplexity", "perplexity_base"} <= set(found)


@pytest.mark.parametrize(
    ("more", "message"),
    [(("-f", "a.txt", "--csv"), "use --json with -f"), (("--chunks", "3"), "--chunks needs a text")],
)
def test_wrong_usage_gets_a_clear_message(run, folder, more, message):
    code, _, err = run("evaluate", "Q4_0", "--on", folder / "model.gguf", *more)
    assert code == 2
    assert message in err


def test_the_page_shows_the_curve_of_the_divergence(folder):
    with registered(toy.Plugin(toy.make())):
        found = quantreg.evaluate(
            folder / "model.gguf", ["TOY3", "Q2_K", "Q4_0", "Q8_0"],
            sample=5000, text=folder / "text.txt", n_ctx=64, chunks=3,
        )  # fmt: skip
    made = page(found, ["TOY3"])
    charts = re.findall(r'<svg.*?aria-label="([^"]*)".*?</svg>', made, re.DOTALL)
    assert charts.count("error against bits per weight") == 2  # for wide and for narrow screens
    assert charts.count("KL divergence against bits per weight") == 2
    assert len(set(re.findall(r'<clipPath id="([^"]*)"', made))) == len(charts)
    (toy3,) = (measure for measure in found.text.types if measure.type == "TOY3")
    assert re.search(r"<b>TOY3</b> has a KL divergence of [\d.]+ nats at [\d.]+ bits per weight", made)
    assert f"<td>{toy3.divergence.kl_mean:.5f}</td>" in made
    assert "<dt>text</dt><dd>text.txt, 3 chunks of 64 tokens" in made
    assert str(folder) not in made


def test_a_page_without_a_text_has_no_curve_of_the_divergence(folder):
    assert "KL divergence" not in page(quantreg.evaluate(folder / "model.gguf", ["Q4_0"], sample=5000))
