"""`quantreg generate`: whole characters as they come, ids without a tokenizer, one clear line for bad input."""

import io
import re

import numpy as np
import pytest
import small_models
from speaker import IDS, speaker

import quantreg
from quantreg.cli import generate

SPEED = re.compile(r"prompt: \d+ tokens?, [\d.]+ tokens/s(; text: \d+ tokens, [\d.]+ tokens/s)?\n")


@pytest.fixture
def write(tmp_path):
    """Writes a small model and returns its path."""

    def make(*chain, **options):
        path = tmp_path / "m.gguf"
        path.unlink(missing_ok=True)
        small_models.write(chain[0] if not isinstance(chain[0], str) else speaker(*chain, **options), path)
        return path

    return make


def test_the_text_goes_on_until_it_ends(run, write):
    path = write("x", "▁caf", "<0xC3>", "<0xA9>", "!", "</s>", "d")
    code, out, err = run("generate", path, "-p", "x", "-n", 20)
    assert (code, out) == (0, " café!\n")
    assert SPEED.fullmatch(err)


def test_no_more_tokens_than_asked_for(run, write):
    path = write("x", "a", "b", "a")
    assert run("generate", path, "-p", "x", "-n", 5)[1] == "ababa\n"
    assert run("generate", path, "-p", "x", "-n", 0)[:2] == (0, "\n")


class Terminal(io.StringIO):
    """Remembers each piece of text that is written."""

    def __init__(self, terminal):
        super().__init__()
        self.pieces, self._terminal = [], terminal

    def isatty(self):
        return self._terminal

    def write(self, text):
        if text:
            self.pieces.append(text)
        return super().write(text)


def pieces(monkeypatch, write, *chain, terminal=False):
    out = Terminal(terminal)
    monkeypatch.setattr("sys.stdout", out)
    with quantreg.load(write("x", *chain)) as model:
        put = generate._text_out(model)
        for token in chain:
            put(IDS[token])
        put(None)
    return out.pieces


def test_a_character_of_several_tokens_comes_when_it_is_whole(monkeypatch, write):
    chain = "▁caf", "<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "!"
    assert pieces(monkeypatch, write, *chain) == [" caf", "é", "😀", "!", "\n"]


def test_bytes_that_are_no_character_become_marks(monkeypatch, write):
    assert "".join(pieces(monkeypatch, write, "<0xC3>", "a", "<0xF0>", "<0x9F>")) == "�a�\n"


def test_a_terminal_gets_no_control_characters(monkeypatch, write):
    chain = "<0x1B>", "[", "a", "<0x0A>", "b"
    assert "".join(pieces(monkeypatch, write, *chain, terminal=True)) == "\\x1b[a\nb\n"
    assert "".join(pieces(monkeypatch, write, *chain, terminal=False)) == "\x1b[a\nb\n"


def test_ids_need_no_tokenizer_and_give_ids(run, write, tmp_path):
    path = write("x", "a", "b", "c", "d", **{"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.eos_token_id": IDS["d"]})
    ids = tmp_path / "ids.txt"
    ids.write_text(f"[1, {IDS['x']}]\n")
    code, out, _ = run("generate", path, "--ids", ids, "-n", 9)
    assert (code, out) == (0, f"{IDS['a']} {IDS['b']} {IDS['c']}\n")
    code, _, err = run("generate", path, "-p", "x")
    assert code == 1
    assert "rwkv" in err
    assert "--ids" in err


def test_a_prompt_from_a_file_loses_its_last_line_end(run, write, tmp_path):
    path = write("x", "a", "b", "</s>")
    text = tmp_path / "prompt.txt"
    text.write_text("x\n")
    assert run("generate", path, "-f", text)[1] == "ab\n"


def test_special_tokens_in_a_prompt_count_as_such(run, write):
    path = write("<|end|>", "a", "</s>")
    assert run("generate", path, "-p", "x<|end|>")[1] == "a\n"


def test_chat_writes_the_prompt_as_the_template_says(run, write):
    template = (
        "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}z{% endif %}"
    )
    path = write("z", "H", "i", "</s>", template=template)
    assert run("generate", path, "--chat", "-p", "x")[:2] == (0, "Hi\n")
    code, _, err = run("generate", path, "--chat", "--system", "y", "-p", "x")
    assert code == 0
    assert "prompt: 7 tokens" in err  # BOS and a space, s y u x z


def test_seeds_repeat_a_text(run, write):
    path = write("x", "a")
    texts = [run("generate", path, "-p", "x", "-n", 20, "--temp", 3, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_the_end_of_the_context_is_told(run, write):
    path = write("x", "a", "b", "a", context=10)
    code, out, err = run("generate", path, "-p", "x", "-n", -1)
    assert (code, out) == (0, "abababa\n")
    assert err.endswith("note: the text stops because the context of 10 tokens is full\n")
    assert "note" not in run("generate", path, "-p", "x", "-n", 7)[2]
    code, out, err = run("generate", path, "-p", "x", "-n", 50, "-c", 12)
    assert out == "ababababa\n"
    assert err.startswith("warning: the model was trained on 10 tokens")
    assert err.endswith("note: the text stops because the context of 12 tokens is full\n")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 2, "Give one prompt"),
        (("-p", "a", "--ids", "ids.txt"), 2, "Give one prompt"),
        (("--ids", "ids.txt", "--chat"), 2, "--ids and --chat"),
        (("-p", "a", "--system", "b"), 2, "--system needs --chat"),
        (("-p", "a", "-n", "-2"), 2, "-n"),
        (("-p", "a", "--temp", "-1"), 1, "the temperature is -1.0"),
        (("-p", "a", "--top-k", "-1"), 1, "top_k is -1"),
        (("-p", "a", "--top-p", "2"), 1, "top_p is 2.0"),
        (("-p", "a", "--chat"), 1, "no chat template"),
        (("-p", "aaaaaaaaaa"), 1, "the prompt has 12 tokens, but the context has room for 10"),
        (("-p", "aaa", "-c", "2"), 1, "the prompt has 5 tokens, but the context has room for 2"),
        (("-p", "Ω"), 1, "byte 0xCE"),
        (("-f", "no.txt"), 1, "no.txt"),
    ],
)
def test_bad_input_is_one_clear_line(run, write, options, code, message):
    path = write("x", "a", context=10)
    found, out, err = run("generate", path, *options)
    assert (found, out) == (code, "")
    assert message in err
    if code == 1:
        assert err.count("\n") == 1


def test_an_empty_prompt_is_refused_if_the_model_adds_nothing(run, write):
    path = write("x", "a", "</s>", **{"tokenizer.ggml.add_bos_token": False})
    code, _, err = run("generate", path, "-p", "")
    assert code == 1
    assert "the prompt is empty" in err
    path = write("<s>", "a", "</s>")
    assert run("generate", path, "-p", "")[:2] == (0, "a\n")


def test_ids_outside_the_vocabulary_are_refused(run, write, tmp_path):
    (tmp_path / "ids.txt").write_text("1 99")
    code, _, err = run("generate", write("x", "a"), "--ids", tmp_path / "ids.txt")
    assert code == 1
    assert "token id 99 is outside the vocabulary" in err


def test_a_model_of_embeddings_is_refused(run, write, tmp_path):
    (tmp_path / "ids.txt").write_text("1 2")
    code, _, err = run("generate", write(small_models.build("bert")), "--ids", tmp_path / "ids.txt")
    assert code == 1
    assert "predict no tokens" in err


def test_a_damaged_model_ends_with_the_reason(run, write):
    small = speaker("x", "a")
    small.tensors["output.weight"][4] = np.nan
    code, out, err = run("generate", write(small), "-p", "x")
    assert (code, out) == (1, "\n")
    assert "the model predicts nan for token 4" in err
