"""quantreg perplexity: what it prints, what it reads, and one clear line for bad input before any long work."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import quality_models
from entries import installed

import quantreg
from quantreg import Architecture, Graph, ModelError, OutputError, QualityError
from quantreg.quality import BaseFile, read_ids, read_text, token_ids

GOLDEN = Path(__file__).parent / "golden" / "quality"
BASE = GOLDEN / "base.dat"
N_CTX = quality_models.N_CTX


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with base.gguf, rounded.gguf, and ids.txt as llama-tokenize would print it."""
    folder = tmp_path_factory.mktemp("quality")
    quality_models.write(quality_models.base(), folder / "base.gguf")
    quality_models.write(quality_models.rounded(), folder / "rounded.gguf")
    with BaseFile(BASE) as file:
        (folder / "ids.txt").write_text(str(file.tokens.reshape(-1).tolist()) + "\n")
    return folder


@pytest.fixture
def command(run, folder, monkeypatch):
    """Run `quantreg perplexity` in that folder: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)
    return lambda *args: run("perplexity", *args)


@pytest.fixture
def never_runs(monkeypatch):
    """No model may compute anything."""

    def states(self, *args, **options):
        raise AssertionError("this is the long work")

    monkeypatch.setattr(quantreg.Model, "states", states)


IDS = ("--ids", "ids.txt", "-c", N_CTX)


# ---- what it prints ----


def test_it_prints_the_lines_of_llama_perplexity(command):
    code, out, err = command("base.gguf", *IDS)
    assert (code, err) == (0, "")
    golden = (GOLDEN / "base.txt").read_text().splitlines()
    mine = out.splitlines()
    assert [line.split("]")[0] for line in mine[0].split(",")] == [line.split("]")[0] for line in golden[0].split(",")]
    assert mine[1].startswith("Final estimate: PPL = 10350.31")
    assert len(mine) == 2


def test_it_prints_the_table_of_llama_perplexity(command):
    code, out, err = command("rounded.gguf", "--kl-divergence", "--kl-divergence-base", BASE)
    assert (code, err) == (0, "")
    mine = [line for line in out.splitlines() if line]
    golden = (GOLDEN / "rounded.txt").read_text(encoding="utf-8").splitlines()
    assert len(mine) == len(golden)
    for ours, theirs in zip(mine, golden, strict=True):
        shapes = ["".join("0" if c.isdigit() else c for c in line) for line in (ours, theirs)]
        assert shapes[0] == shapes[1]


def test_llama_perplexitys_spelling_of_the_model_works(command):
    assert command("-m", "base.gguf", *IDS)[1] == command("base.gguf", *IDS)[1]
    code, _, err = command("-m", "base.gguf", "rounded.gguf", *IDS)
    assert code == 2
    assert "Two models are given, rounded.gguf and base.gguf" in err


def test_json_is_one_object_with_all_figures(command, folder):
    code, out, err = command("base.gguf", *IDS, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["perplexity"] == pytest.approx(10350.317, rel=1e-5)
    assert {"perplexity_error", "chunks", "n_ctx", "tokens", "running", "tokens_per_second"} < set(found)
    code, out, err = command("rounded.gguf", *IDS, "--against", "base.gguf", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert {"kl_mean", "kl_error", "kl_median", "kl_99", "same_top", "perplexity_base"} < set(found)
    assert found["same_top"] == pytest.approx(0.80741, abs=1e-5)
    assert found["chunks"] == 9


def test_json_has_no_number_that_is_not_finite(folder):
    with BaseFile(BASE) as file:
        ids = file.tokens.reshape(-1)
    with quantreg.load(folder / "base.gguf") as model:
        flat = np.zeros_like(np.asarray(model.tensors["output.weight"]))
        flat = quantreg.QuantizedTensor.from_array("output.weight", flat, "F32")
        found = quantreg.kl_divergence(model.replaced({"output.weight": flat}), model, ids, n_ctx=N_CTX)
    assert found.perplexity == pytest.approx(model.n_vocab)
    assert found.to_dict()["correlation"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_base_file_that_was_written_is_read_without_a_text(command, tmp_path):
    code, _, err = command("base.gguf", *IDS, "--kl-divergence-base", tmp_path / "new.dat")
    assert (code, err) == (0, "")
    code, out, err = command("rounded.gguf", "--kl-divergence", "--save-all-logits", tmp_path / "new.dat")
    assert (code, err) == (0, "")
    assert "Mean    KLD:   0.1229" in out
    code, _, err = command("rounded.gguf", "--kl-divergence", "--kl-divergence-base", tmp_path / "new.dat", *IDS)
    assert (code, err) == (0, ""), "its own text may be given, too"


def test_a_base_file_is_not_replaced_by_accident(command, tmp_path, never_runs):
    path = tmp_path / "precious.dat"
    path.write_bytes(BASE.read_bytes())
    code, out, err = command("rounded.gguf", *IDS, "--kl-divergence-base", path)
    assert (code, out) == (2, "")
    assert "add --kl-divergence to compare the model with it, or --force to replace it" in err
    assert path.read_bytes() == BASE.read_bytes()


def test_a_base_file_appears_only_when_it_is_complete(folder, tmp_path, monkeypatch):
    def stop(event):
        if getattr(event, "chunk", 0) == 5:
            raise KeyboardInterrupt

    with BaseFile(BASE) as file:
        ids = file.tokens.reshape(-1)
    with pytest.raises(KeyboardInterrupt):
        quantreg.perplexity(folder / "base.gguf", ids, n_ctx=N_CTX, save_base=tmp_path / "x.dat", progress=stop)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="create its folder first"):
        quantreg.perplexity(folder / "base.gguf", ids, n_ctx=N_CTX, save_base=tmp_path / "none" / "x.dat")


def test_a_context_beyond_the_models_is_one_warning(command):
    code, out, err = command("base.gguf", "--ids", "ids.txt", "-c", 96)
    assert code == 0
    assert err == (
        "warning: the model was trained on 64 context tokens, and chunks of 96 are longer: its predictions beyond 64 "
        "may be poor (-c 64)\n"
    )
    assert "Final estimate" in out


# ---- text and ids ----


@pytest.mark.parametrize("text", ["[1, 22, 3]", "1 22 3", "1,22,3\n", "\n[1,\n 22,\n 3\n]\n", "  1\t22\r\n3  "])
def test_an_ids_file_holds_integers_between_spaces_commas_and_brackets(text, tmp_path):
    (tmp_path / "ids.txt").write_bytes(text.encode())
    assert read_ids(tmp_path / "ids.txt").tolist() == [1, 22, 3]


@pytest.mark.parametrize(
    ("text", "item"),
    [("1 x 3", "item 2 is 'x'"), ("1 -2", "item 2 is '-2'"), ("1.5", "'1.5'"), ("1 " + "9" * 30, "item 2 is '9999")],
)
def test_another_word_in_an_ids_file_is_named(text, item, tmp_path):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(QualityError, match="not a token id: expected integers from 0") as caught:
        read_ids(tmp_path / "ids.txt")
    assert item in str(caught.value)


def test_a_text_loses_one_newline_at_its_end_and_nothing_else(tmp_path):
    (tmp_path / "text").write_bytes("\ufeffä\r\nb\n\n".encode())
    assert read_text(tmp_path / "text") == "\ufeffä\r\nb\n"
    (tmp_path / "text").write_bytes(b"abc\xff\n")
    with pytest.raises(QualityError, match=r"not text in UTF-8 \(byte 3 is 0xff\)"):
        read_text(tmp_path / "text")


@pytest.mark.parametrize("ids", [[[1, 2]], [1.5, 2], ["1"], 7])
def test_ids_of_another_shape_or_kind_are_refused(ids, folder):
    with quantreg.load(folder / "base.gguf") as model, pytest.raises(ModelError, match="expected integers of shape"):
        token_ids(model, ids)


def test_a_file_is_not_taken_for_its_text(folder):
    with quantreg.load(folder / "base.gguf") as model:
        with pytest.raises(QualityError, match="pass what it holds"):
            quantreg.perplexity(model, str(folder / "ids.txt"))
        for text in (folder / "ids.txt", b"text"):
            with pytest.raises(TypeError, match="pass a str, or token ids"):
                quantreg.perplexity(model, text)


# ---- bad input: one line, before any long work ----


def damaged(change):
    def write(folder):
        path = folder / "bad.dat"
        path.write_bytes(change(BASE.read_bytes()))
        return "rounded.gguf", "--kl-divergence", "--kl-divergence-base", path

    return write


def numbers(n_ctx=N_CTX, n_vocab=97, chunks=9):
    return lambda data: data[:8] + struct.pack("<Iii", n_ctx, n_vocab, chunks) + data[20:]


def zero_tokens(data):
    return data[:20] + bytes(4 * 9 * N_CTX) + data[20 + 4 * 9 * N_CTX :]


def of_ids(text, *options):
    def write(folder):
        (folder / "bad-ids.txt").write_text(text)
        return "base.gguf", "--ids", folder / "bad-ids.txt", *options

    return write


def of_small(change):
    """The arguments for a model that was changed."""

    def write(folder):
        small = quality_models.base()
        change(small)
        quality_models.write(small, folder / "bad.gguf")
        return folder / "bad.gguf", *IDS

    return write


BAD = {
    "a text shorter than two chunks": (
        of_ids("5 " * 60, "-c", 32),
        "the text has 60 tokens, but two chunks of 32 need 64: give a longer text, or use a context of 30 or less",
    ),
    "an empty text": (of_ids("", "-c", 32), "the text has 0 tokens"),
    "no context": (of_ids("5 " * 90, "-c", 0), "a context of 0 tokens is too short"),
    "a negative context": (of_ids("5 " * 90, "-c", -8), "a context of -8 tokens is too short"),
    "no chunks": (of_ids("5 " * 90, "-c", 32, "--chunks", 0), "the number of chunks is 0"),
    "ids outside the vocabulary": (
        of_ids("5 " * 70 + "97 3", "-c", 32),
        "token 70 of the text has the id 97, but the vocabulary of the model has 97 tokens",
    ),
    "a word among ids": (of_ids("5 6 seven", "-c", 32), "item 3 is 'seven', not a token id"),
    "no text": (lambda folder: ("base.gguf",), "There is no text: give a file with -f, or token ids with --ids."),
    "text and ids": (lambda folder: ("base.gguf", *IDS, "-f", "x"), "--file and --ids cannot be used together"),
    "no base file": (lambda folder: ("base.gguf", *IDS, "--kl-divergence"), "--kl-divergence needs a base file"),
    "two bases": (
        lambda folder: ("base.gguf", *IDS, "--against", "base.gguf", "--kl-divergence-base", BASE),
        "--against runs the base model itself",
    ),
    "no text to compare on": (lambda folder: ("base.gguf", "--against", "rounded.gguf"), "There is no text"),
    "a text that does not exist": (lambda folder: ("base.gguf", "-f", "none.txt"), "none.txt: "),
    "a model that does not exist": (lambda folder: ("none.gguf", *IDS), "none.gguf: "),
    "a tensor that is missing": (of_small(lambda small: small.remove("blk.1.ffn_up")), "blk.1.ffn_up.weight"),
    "a tensor of another shape": (
        of_small(lambda small: small.tensors.update({"output_norm.weight": np.ones(32, np.float32)})),
        "output_norm.weight",
    ),
    "a base file of 0 bytes": (damaged(lambda data: b""), "bad.dat: is empty (0 bytes): write it anew"),
    "a base file of 10 bytes": (damaged(lambda data: data[:10]), "bad.dat: is cut short: it has 10 bytes"),
    "a model as base file": (damaged(lambda data: b"GGUF" + data), "is not a base file: it begins with b'GGUF_log'"),
    "a base file cut in its tokens": (damaged(lambda data: data[:500]), "is cut short: it has 500 bytes"),
    "a base file cut in its rows": (
        damaged(lambda data: data[:9000]),
        "is cut short: 2 of 9 chunks are complete: write it anew, or compare the first 2 (--chunks 2)",
    ),
    "a base file without a row": (damaged(lambda data: data[:1200]), "is cut short: 0 of 9 chunks are complete"),
    "a base file that goes on": (damaged(lambda data: data + bytes(8)), "is damaged: it has 28720 bytes"),
    "a base file of another vocabulary": (
        damaged(lambda data: numbers(n_vocab=98)(data)),
        "was written for a vocabulary of 98 tokens, but the model has 97",
    ),
    "a base file of no chunks": (damaged(numbers(chunks=-1)), "is damaged: its header says -1 chunks"),
    "a base file of huge chunks": (damaged(numbers(n_ctx=1 << 31)), "is cut short"),
    "a base file with other tokens": (
        damaged(lambda data: data[:24] + struct.pack("<i", 97) + data[28:]),
        "is damaged: it holds the token 97",
    ),
    "a base file with another context": (
        lambda folder: (*damaged(lambda data: data)(folder), "-c", 64),
        "holds chunks of 32 tokens, not of 64: leave out the context (-c)",
    ),
    "a base file of another text": (
        lambda folder: (*damaged(lambda data: data)(folder), *of_ids("5 " * 400)(folder)[1:]),
        "holds other tokens than the text, from token 0 on",
    ),
    "a base file of a longer text": (
        lambda folder: (*damaged(zero_tokens)(folder), *of_ids("0 " * 80)(folder)[1:]),
        "holds other tokens than the text, from token 80 on",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line_before_any_long_work(name, command, tmp_path, never_runs):
    arguments, message = BAD[name]
    code, out, err = command(*arguments(tmp_path))
    assert code in (1, 2)
    assert out == ""
    lines = [line for line in err.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1, err
    assert message in lines[0]


def test_what_is_left_of_a_base_file_can_be_used(command, tmp_path):
    (tmp_path / "cut.dat").write_bytes(BASE.read_bytes()[:9000])
    code, out, _ = command(
        "rounded.gguf", "--kl-divergence", "--kl-divergence-base", tmp_path / "cut.dat", "--chunks", 2
    )
    assert code == 0
    assert "Mean    KLD:   0.1497" in out


def test_a_scale_that_is_not_finite_is_found(command, tmp_path):
    data = bytearray(BASE.read_bytes())
    start = 20 + 4 * 9 * N_CTX + 20 * 204  # row 20, of 102 codes, belongs to the second chunk
    data[start : start + 4] = struct.pack("<f", np.nan)
    (tmp_path / "nan.dat").write_bytes(data)
    code, _, err = command("rounded.gguf", "--kl-divergence", "--kl-divergence-base", tmp_path / "nan.dat")
    assert code == 1
    assert "nan.dat: is damaged: chunk 2 has a scale of nan" in err


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ("blk.0.ffn_up.weight", "the first matrix whose input holds them is blk.0.ffn_down.weight"),
        ("blk.1.ffn_down.weight", "the first matrix whose input holds them is output.weight"),
        ("output.weight", "all inputs of matrices are finite, so they come from the output matrix"),
    ],
)
def test_nan_in_the_logits_is_traced_to_a_chunk_and_a_matrix(tensor, told, value, command, folder, tmp_path):
    small = quality_models.base()
    small.tensors[tensor][3, 3] = value
    quality_models.write(small, tmp_path / "nan.gguf")
    code, out, err = command(tmp_path / "nan.gguf", *IDS)
    assert code == 1
    assert out == ""
    assert "the logits of chunk 1 hold NaN or infinity" in err
    assert told in err
    assert len(err.splitlines()) == 1
    code, _, err = command("base.gguf", *IDS, "--against", tmp_path / "nan.gguf")
    assert code == 1
    assert told in err


def test_models_with_other_vocabularies_cannot_be_compared(command, tmp_path, never_runs):
    small = quality_models.base()
    tokens = [*quality_models.TOKENS]
    tokens[10], tokens[11] = tokens[11], tokens[10]
    small.metadata["tokenizer.ggml.tokens"] = tokens
    quality_models.write(small, tmp_path / "other.gguf")
    code, _, err = command("base.gguf", *IDS, "--against", tmp_path / "other.gguf")
    assert code == 1
    assert "the tokens of the two models differ: compare models with the same tokenizer" in err
    for name in ("token_embd.weight", "output.weight"):
        small.tensors[name] = small.tensors[name][:64]
    quality_models.write(small, tmp_path / "shorter.gguf")
    code, _, err = command("base.gguf", *IDS, "--against", tmp_path / "shorter.gguf")
    assert code == 1
    assert "the models have vocabularies of 97 and 64 tokens" in err


def test_a_model_of_embeddings_is_refused(command, tmp_path, never_runs):
    small = quality_models.base()
    metadata = {key.replace("llama.", "embedder."): value for key, value in small.metadata.items()}
    metadata["general.architecture"] = "embedder"
    quantreg.write(tmp_path / "embedder.gguf", metadata, small.tensors)
    embedder = Architecture("embedder", "Embeddings only", graph=Graph(generates=False))
    with installed(register_architectures=lambda register: register(embedder)):
        code, _, err = command(tmp_path / "embedder.gguf", *IDS)
    assert code == 1
    assert "embedder models make embeddings and predict no tokens" in err


# ---- the text itself, and a terminal ----


def test_a_text_becomes_the_references_tokens(command, tmp_path):
    (tmp_path / "text.txt").write_bytes(quality_models.text().encode())
    assert command("base.gguf", "-f", tmp_path / "text.txt", "-c", N_CTX) == command("base.gguf", *IDS)
    code, _, err = command(
        "base.gguf", "-f", tmp_path / "text.txt", "--kl-divergence", "--kl-divergence-base", BASE, "--json"
    )
    assert (code, err) == (0, "")


def test_on_a_terminal_the_list_follows_when_the_bar_has_gone(command, monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    code, out, err = command("base.gguf", *IDS)
    assert code == 0
    assert out.splitlines()[-2].startswith("[1]81476.6")
    assert out.splitlines()[-1].startswith("Final estimate: PPL = 10350.31")
    assert "[1]" not in err
