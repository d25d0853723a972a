"""A folder with a tokenizer.json of Unigram, as XLM-RoBERTa has: its texts become the ids of llama.cpp.

The goldens are written by ``support/checkpoints/make_unigram.py``. The metadata are those of the golden "xlm-roberta".
"""

import base64
import json
import pickle

import pytest
from checkpoints import GOLDEN
from checkpoints.tokenizers import CHARSMAP, SIZE, VOCABULARY, write_tokenizer

import quantreg
from quantreg.checkpoints.restore_vocabulary import tokenizer_files
from quantreg.checkpoints.vocabulary import vocabulary
from quantreg.tokenization import Tokenizer
from quantreg.tokenization.charsmap import Charsmap

IDS = json.loads((GOLDEN.parent / "vocabularies" / "unigram.json").read_text())
CONFIG = {"vocab_size": VOCABULARY, "type_vocab_size": 1, "model_type": "xlm-roberta"}


def read(folder, change=None, config=CONFIG):
    write_tokenizer("unigram", folder)
    if change is not None:
        file = json.loads((folder / "tokenizer.json").read_text())
        change(file)
        (folder / "tokenizer.json").write_text(json.dumps(file))
    return {key: value.data for key, value in vocabulary(folder, config, "xlm-roberta").items()}


def test_texts_become_the_ids_of_llama_cpp(tmp_path):
    tokenizer = Tokenizer.of(read(tmp_path))
    assert {text: tokenizer.encode(text) for text in IDS["llama.cpp"]} == IDS["llama.cpp"]
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode("the night") == tokenizer.encode("the night")


def test_texts_become_the_ids_of_the_published_tokenizer(tmp_path):
    """Special tokens within a text are found there, and are text here."""
    tokenizer = Tokenizer.of(read(tmp_path))
    found = {text: tokenizer.encode(text) for text in IDS["tokenizers"]}
    assert {text for text in found if found[text] != IDS["tokenizers"][text]} == {"<s> the </s>"}
    assert tokenizer.encode("<s> the </s>", special=True)[0::3] == IDS["tokenizers"]["<s> the </s>"][0::3]


def test_ids_become_text_again(tmp_path):
    tokenizer = Tokenizer.of(read(tmp_path))
    for text in ("the night", "in the end", "été"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.bos == 0
    assert tokenizer.eos == 2
    assert tokenizer.add_bos
    assert tokenizer.add_eos


def test_the_way_back_gives_the_same_vocabulary(tmp_path):
    first = read(tmp_path)
    files = tokenizer_files(first)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    (tmp_path / "tokenizer.model").unlink(missing_ok=True)
    again = {key: value.data for key, value in vocabulary(tmp_path, CONFIG, "xlm-roberta").items()}
    for key in ("model", "tokens", "scores", "token_type", "precompiled_charsmap", "remove_extra_whitespaces"):
        assert again[f"tokenizer.ggml.{key}"] == first[f"tokenizer.ggml.{key}"], key


def test_tokens_that_were_added_keep_their_ids(tmp_path):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)

    found = read(tmp_path, lambda file: file["added_tokens"].append({"id": SIZE, "content": "ﬁx the", **flags}))
    assert found["tokenizer.ggml.tokens"][SIZE] == "ﬁx the"
    assert found["tokenizer.ggml.token_type"][SIZE] == 4
    tokenizer = Tokenizer.of(found)
    assert tokenizer.encode("in ﬁx the in").count(SIZE) == 1  # and is not normalized


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["model"].update(vocab=[]), "no vocabulary of tokens with scores"),
        (lambda file: file["model"]["vocab"].__setitem__(9, ["x"]), "token 9 is .*, not a text with a score"),
        (lambda file: file["model"]["vocab"].__setitem__(9, ["x", "y"]), "token 9 is .*, not a text with a score"),
        (lambda file: file.update(normalizer={"type": "Lowercase"}), "normalizer of the type 'Lowercase'"),
        (lambda file: file["normalizer"].update(precompiled_charsmap="?"), "no Base64"),
        (lambda file: file.update(pre_tokenizer={"type": "Digits"}), "splits texts by 'Digits'"),
        (lambda file: file["model"].update(unk_id="x"), "unk_id"),
    ],
)
def test_what_the_tokenizer_model_cannot_say_is_refused(change, message, tmp_path):
    with pytest.raises(quantreg.TokenizerError, match=message):
        read(tmp_path, change)


def test_a_vocabulary_that_is_larger_than_the_embeddings_is_refused(tmp_path):
    with pytest.raises(quantreg.TokenizerError, match=rf"has {SIZE} tokens, but config\.json"):
        read(tmp_path, config=CONFIG | {"vocab_size": SIZE - 1})


def test_the_table_replaces_the_longest_piece():
    table = Charsmap(CHARSMAP)
    raw = "e\u0301ﬁ".encode()
    assert table.longest(raw, 0) == (3, "é".encode())
    assert table.longest(raw, 3) == (3, b"fi")
    assert table.longest(b"plain", 0) == (0, b"")
    assert table.longest("\u00ad".encode(), 0) == (2, b"")


@pytest.mark.parametrize("data", [b"", b"\4\0\0\0", CHARSMAP[:200], b"\xff\xff\xff\x7f" + CHARSMAP[4:]])
def test_a_damaged_table_is_refused(data):
    with pytest.raises(quantreg.TokenizerError, match="precompiled_charsmap is damaged"):
        Charsmap(data).longest("ﬁ".encode(), 0)


def test_a_table_in_base64_is_that_of_the_file(tmp_path):
    file = read(tmp_path)["tokenizer.ggml.precompiled_charsmap"]
    told = json.loads((tmp_path / "tokenizer.json").read_text())["normalizer"]["precompiled_charsmap"]
    assert bytes(file) == base64.b64decode(told) == CHARSMAP
