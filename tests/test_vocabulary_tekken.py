"""A folder with Mistral's tekken.json alone gets the vocabulary of the reference, and the ids of Mistral.

The goldens are written by ``support/checkpoints/make_tekken.py``, with the pinned gguf-py and mistral-common.
"""

import copy
import json

import pytest
from checkpoints import GOLDEN

import quantreg
from quantreg.checkpoints.restore_vocabulary import tokenizer_files
from quantreg.checkpoints.vocabulary import vocabulary
from quantreg.tokenization import Tokenizer

FILES = json.loads((GOLDEN.parent / "vocabularies" / "tekken.json").read_text())
KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def read(folder, file, size=340):
    (folder / "tekken.json").write_text(json.dumps(file))
    found = vocabulary(folder, {"vocab_size": size, "model_type": "mistral"}, "llama")
    return {key: value.data for key, value in found.items()}


@pytest.mark.parametrize("name", FILES)
def test_the_vocabulary_is_that_of_the_reference(name, tmp_path):
    golden = FILES[name]
    found = read(tmp_path, golden["file"])
    assert found["tokenizer.ggml.model"] == "gpt2"
    assert found["tokenizer.ggml.pre"] == "tekken"
    for key in ("tokens", "token_type", "merges"):
        assert list(found[f"tokenizer.ggml.{key}"]) == golden[key], key
    assert {role: found[f"tokenizer.ggml.{KEYS[role]}_token_id"] for role in KEYS} == golden["ids"]
    assert found["tokenizer.ggml.add_bos_token"]
    assert not found["tokenizer.ggml.add_eos_token"]


@pytest.mark.parametrize("name", FILES)
def test_texts_become_the_ids_of_mistral(name, tmp_path):
    tokenizer = Tokenizer.of(read(tmp_path, FILES[name]["file"]))
    for text, ids in FILES[name]["texts"].items():
        assert tokenizer.encode(text) == ids, text


def test_the_way_back_gives_a_tokenizer_json_that_is_read_in_its_place(tmp_path):
    first = read(tmp_path, FILES["v11"]["file"])
    for name, data in tokenizer_files(first).items():
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    again = {key: value.data for key, value in vocabulary(tmp_path, {"vocab_size": 340}, "llama").items()}
    for key in ("tokens", "token_type", "merges", "pre"):
        assert list(again[f"tokenizer.ggml.{key}"]) == list(first[f"tokenizer.ggml.{key}"]), key
    tokenizer = Tokenizer.of(again)
    for text, ids in FILES["v11"]["texts"].items():
        assert tokenizer.encode(text) == ids, text


def test_a_model_with_more_embeddings_gets_unused_tokens(tmp_path):
    found = read(tmp_path, FILES["v11"]["file"], 350)
    assert found["tokenizer.ggml.tokens"][340:] == [f"[PAD{id}]" for id in range(340, 350)]


def changed(change):
    file = copy.deepcopy(FILES["v11"]["file"])
    change(file)
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("config"), 'has no "config"'),
        (lambda file: file["config"].pop("default_vocab_size"), '"default_vocab_size"'),
        (lambda file: file["config"].update(default_vocab_size=400), "does not have the 370 tokens"),
        (lambda file: file["vocab"][300].update(token_bytes="!"), "token 300 is '!', not bytes in Base64"),
        (lambda file: file["vocab"][300].pop("token_bytes"), "token 300 is .*, not bytes in Base64"),
        (lambda file: file["vocab"][300].update(token_bytes="YQ=="), "token 300 is b'a', which cannot be"),
        (lambda file: file["vocab"][300].update(token_bytes="AAECAwQFBgc="), "no two tokens make token 300"),
        (lambda file: file["special_tokens"].append({"token_str": "<s>"}), "special tokens are not up to 30 different"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(change, message, tmp_path):
    with pytest.raises(quantreg.TokenizerError, match=message):
        read(tmp_path, changed(change))


def test_a_vocabulary_that_is_larger_than_the_embeddings_is_refused(tmp_path):
    with pytest.raises(quantreg.TokenizerError, match=r"has 340 tokens, but config\.json gives"):
        read(tmp_path, FILES["v11"]["file"], 300)
