"""Folders with a tokenizer that is damaged, contradicts itself, is unknown or belongs to another model."""

import contextlib
import copy
import json
import random

import pytest
from checkpoints.vocabularies import GOLDEN, write_files
from checkpoints.vocabulary_folders import folders

from quantreg import TokenizerError
from quantreg.checkpoints.protobuf import encoded, fields
from quantreg.checkpoints.vocab_spm import Piece, encoded_pieces
from quantreg.checkpoints.vocabulary import vocabulary
from quantreg.checkpoints.vocabulary_hint import Vocabulary

TRAINED = json.loads((GOLDEN / "folders.json").read_text(encoding="utf-8"))["trained"]
CASES = folders(TRAINED)
PIECES = [Piece(b"<unk>", 0.0, 2), Piece(b"<s>", 0.0, 3), Piece(b"</s>", 0.0, 3), Piece("▁a".encode(), -1.0, 1)]


def files_of(name):
    return copy.deepcopy(CASES[name][3])


def refused(tmp_path, files, match, hint=None, **overrides):
    folder = write_files(tmp_path, files)
    with pytest.raises(TokenizerError, match=match) as caught:
        vocabulary(folder, files.get("config.json", {}), hint, overrides)
    return str(caught.value)


def test_an_unknown_pretokenizer_stops_and_says_what_was_found_and_what_to_do(tmp_path):
    files = files_of("plain")
    files["tokenizer.json"]["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"
    message = refused(tmp_path, files, "--override-kv tokenizer.ggml.pre=str:NAME")
    assert r"\w+|\W+" in message.replace(r"\\", "\\")
    values = vocabulary(tmp_path, files["config.json"], "bpe", {"tokenizer.ggml.pre": "llama-bpe"})
    assert values["tokenizer.ggml.pre"].data == "llama-bpe"
    assert list(values)[:2] == ["tokenizer.ggml.model", "tokenizer.ggml.pre"]


@pytest.mark.parametrize(
    ("key", "step", "found"),
    [
        ("normalizer", {"type": "NFKC"}, "the normalizer NFKC"),
        ("normalizer", {"type": "Lowercase"}, "the normalizer Lowercase"),
        ("pre_tokenizer", {"type": "Whitespace"}, "the step .*Whitespace"),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}, "ByteLevel with add_prefix_space"),
        ("pre_tokenizer", None, "no ByteLevel step"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed"}, "the step .*Removed"),
    ],
)
def test_steps_that_gguf_has_no_word_for_are_named(tmp_path, key, step, found):
    files = files_of("plain")
    files["tokenizer.json"][key] = step
    refused(tmp_path, files, found)


def test_a_model_with_marks_at_the_end_of_words_is_refused(tmp_path):
    files = files_of("plain")
    files["tokenizer.json"]["model"]["end_of_word_suffix"] = "</w>"
    refused(tmp_path, files, "end_of_word_suffix")


def test_a_folder_without_a_tokenizer_says_which_files_are_missing(tmp_path):
    refused(tmp_path, {"config.json": {}}, "has no tokenizer.model and no tokenizer.json and no vocab.txt: download")


def test_a_tokenizer_of_another_kind_names_what_the_architecture_has(tmp_path):
    refused(tmp_path, files_of("bert"), "type WordPiece, but models of this architecture have bpe", "bpe")


def test_a_hint_that_is_none_is_named(tmp_path):
    refused(tmp_path, files_of("plain"), "'nonsense' names no kind of vocabulary", "nonsense")
    refused(tmp_path, files_of("plain"), "'nonsense' is no kind of vocabulary", Vocabulary(kinds=("nonsense",)))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"model": {"type": "BPE"', "is not JSON"),
        ("[1, 2]", "holds a list, not an object"),
        ('{"a": 1, "a": 2}', "has the key 'a' twice"),
        ("version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("[" * 100_000, "nested too deeply|is not JSON"),
        ("base64://///w==", "is not UTF-8"),
        ('{"added_tokens": ["\\ud800"]}', "lone surrogate"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, found):
    files = files_of("plain")
    config = files["config.json"]
    folder = write_files(tmp_path, {**files, name: content})
    with pytest.raises(TokenizerError, match=found) as caught:
        vocabulary(folder, config, "bpe")
    assert name in str(caught.value)


def test_a_token_given_twice_in_a_vocabulary_is_named(tmp_path):
    files = files_of("plain")
    text = json.dumps(files["tokenizer.json"]).replace('"vocab": {', '"vocab": {"b": 0, ')
    refused(tmp_path, {**files, "tokenizer.json": text}, "the key 'b' twice")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda model: model["vocab"].update(x=1), "gives 'b' and 'x' the same id 1"),
        (lambda model: model["vocab"].update(x=-1), "the id of the token 'x' .* is -1"),
        (lambda model: model["vocab"].update(x=1 << 40), "the id of the token 'x'"),
        (lambda model: model["vocab"].update(x="7"), "the id of the token 'x'"),
        (lambda model: model["vocab"].update(x=True), "the id of the token 'x'"),
        (lambda model: model.update(vocab=[]), "has no vocabulary"),
        (lambda model: model.update(merges=[]), "has no merges"),
        (lambda model: model.update(merges=["a b c"]), "merge 0 is 'a b c', not two tokens"),
        (lambda model: model.update(merges=[["a", "b"], ["a"]]), "merge 1 is"),
        (lambda model: model.update(merges=[["a", 3]]), "merge 0 is"),
    ],
)
def test_a_damaged_vocabulary_says_where(tmp_path, change, found):
    files = files_of("plain")
    change(files["tokenizer.json"]["model"])
    refused(tmp_path, files, found, "bpe")


def test_an_added_token_must_have_the_id_that_readers_give_it(tmp_path):
    files = files_of("plain")
    files["tokenizer.json"]["added_tokens"][3]["id"] = 21
    refused(tmp_path, files, "the added token '<tool>' the id 21, but the next free id is 15", "bpe")
    files["tokenizer.json"]["added_tokens"][3]["id"] = 13
    refused(tmp_path, files, "the added token '<tool>' the id 13", "bpe")
    files = files_of("plain")
    files["tokenizer_config.json"]["added_tokens_decoder"]["99"] = {"content": "<tool>", "special": True}
    refused(tmp_path, files, "the added token '<tool>' the id 99, but the vocabulary has it as 15", "bpe")


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("added_tokens_decoder", {"x": {"content": "a"}}, "'x' in .* is no token id"),
        ("added_tokens_decoder", {"9" * 40: {"content": "a"}}, "is no token id"),
        ("added_tokens_decoder", {"1": {"special": True}}, 'has no "content"'),
        ("added_tokens_decoder", [1], "is a list, not an object"),
    ],
)
def test_damaged_entries_of_tokenizer_config_are_named(tmp_path, key, value, found):
    files = files_of("plain")
    files["tokenizer_config.json"][key] = value
    refused(tmp_path, files, found, "bpe")


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path):
    files = files_of("plain")
    files["config.json"]["vocab_size"] = 19
    refused(tmp_path, files, "the token 'x_y' with the id 19, but config.json gives the model a \"vocab_size\" of 19")


@pytest.mark.parametrize("size", [0, -5, 1 << 40, "32000", 3.5, True])
def test_a_vocabulary_size_that_is_none_is_refused_before_anything_is_allocated(tmp_path, size):
    files = files_of("plain")
    files["config.json"]["vocab_size"] = size
    refused(tmp_path, files, '"vocab_size" in config.json is')


def test_a_number_of_token_types_that_is_none_is_refused(tmp_path):
    files = files_of("bert")
    files["config.json"]["type_vocab_size"] = "2"
    refused(tmp_path, files, "\"type_vocab_size\" in config.json is '2'", "bert")


def test_special_ids_that_are_none_do_not_count(tmp_path):
    files = files_of("plain")
    files["tokenizer_config.json"] = {}
    files["config.json"] |= {"bos_token_id": -1, "eos_token_id": [1, 2], "pad_token_id": "x", "unk_token_id": True}
    values = vocabulary(write_files(tmp_path, files), files["config.json"], "bpe")
    assert not [key for key in values if key.endswith("_token_id")]
    files["config.json"]["bos_token_id"] = 1 << 40
    refused(tmp_path, files, "the id of the bos token is", "bpe")


def test_an_added_token_whose_characters_look_like_bytes_keeps_its_text(tmp_path):
    files = files_of("plain")
    for entry in (
        files["tokenizer.json"]["added_tokens"][6],
        files["tokenizer_config.json"]["added_tokens_decoder"]["18"],
    ):
        entry["normalized"] = False
    values = vocabulary(write_files(tmp_path, files), files["config.json"], "bpe")
    assert values["tokenizer.ggml.tokens"].data[18] == "né"


def test_overrides_replace_other_keys_of_the_tokenizer_too(tmp_path):
    files = files_of("plain")
    given = {"tokenizer.ggml.bos_token_id": 3, "tokenizer.ggml.add_bos_token": True, "general.name": "x"}
    values = vocabulary(write_files(tmp_path, files), files["config.json"], "bpe", given)
    assert values["tokenizer.ggml.bos_token_id"].data == 3
    assert values["tokenizer.ggml.add_bos_token"].data is True
    assert "general.name" not in values


def spm(tmp_path, raw, config=None):
    (tmp_path / "tokenizer.model").write_bytes(raw)
    return vocabulary(tmp_path, config or {}, "llama")


def test_a_sentencepiece_model_survives_writing_and_reading(tmp_path):
    values = spm(tmp_path, encoded_pieces(PIECES, space=True))
    assert values["tokenizer.ggml.tokens"].data == ["<unk>", "<s>", "</s>", "▁a"]
    assert values["tokenizer.ggml.scores"].data == [0.0, 0.0, 0.0, -1.0]
    assert values["tokenizer.ggml.token_type"].data == [2, 3, 3, 1]


def test_a_sentencepiece_model_that_breaks_off_anywhere_is_refused_or_read_as_a_shorter_one(tmp_path):
    raw = encoded_pieces(PIECES, space=True)
    for end in range(len(raw)):
        with contextlib.suppress(TokenizerError):
            values = spm(tmp_path, raw[:end])
            assert len(values["tokenizer.ggml.tokens"].data) <= len(PIECES)


def test_no_damage_of_a_sentencepiece_model_raises_anything_else(tmp_path):
    source, raw = random.Random(5), bytearray(encoded_pieces(PIECES, space=True))
    for _ in range(500):
        damaged = bytearray(raw)
        for _ in range(1 + int(source.random() * 3)):
            damaged[int(source.random() * len(raw))] = int(source.random() * 256)
        with contextlib.suppress(TokenizerError):
            spm(tmp_path, bytes(damaged))


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", "it has no pieces"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "where 0 are left"),
        (b"\x0a" + b"\xff" * 12, "more than ten bytes"),
        (b"\x0b", "a field of the unknown kind 3"),
        (b"\x00\x01", "a field with the number 0"),
        (b"\x08\x01", "a piece is a number"),
        (encoded([(1, encoded([(1, b"a"), (3, 9)]))]), "a piece of the unknown type 9"),
        (encoded([(1, encoded([(2, 1.0)]))]), "a piece without a text"),
        (encoded_pieces([PIECES[0], PIECES[0]], space=True), "the piece '<unk>' twice, as 0 and 1"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
    ],
)
def test_a_sentencepiece_model_that_is_none_says_why(tmp_path, raw, found):
    with pytest.raises(TokenizerError, match=found):
        spm(tmp_path, raw)


def test_fields_of_every_kind_are_read_and_unknown_ones_skipped():
    raw = encoded([(7, 300), (1, b"text"), (2, 1.5)]) + b"\x19" + bytes(range(8))
    found = [
        (number, bytes(value) if isinstance(value, memoryview) else value) for number, value in fields(memoryview(raw))
    ]
    assert found == [(7, 300), (1, b"text"), (2, 1.5), (3, int.from_bytes(bytes(range(8)), "little"))]


def test_a_tiktoken_file_named_tokenizer_model_gives_way_to_tokenizer_json(tmp_path):
    files = files_of("plain") | {"tokenizer.model": "IQ== 0\nIg== 1\nIw== 2\n"}
    values = vocabulary(write_files(tmp_path, files), files["config.json"], "llama")
    assert values["tokenizer.ggml.model"].data == "gpt2"


@pytest.mark.parametrize("name", ["tokenizer.model", "qwen.tiktoken", "tekken.json"])
def test_formats_that_are_not_read_are_named_with_a_way_out(tmp_path, name):
    files = {name: "IQ== 0\nIg== 1\nIw== 2\n", "vocab_notes.md": "", "config.json": {}}
    message = refused(tmp_path, files, "it has .* quantreg does not read the format that is there", "qwen2")
    assert name in message
    assert "save_pretrained" in message


def test_tokens_for_bytes_are_marked_where_plain_text_is_merged_as_byte_pairs(tmp_path):
    files = files_of("llama json")
    files["tokenizer.json"]["normalizer"] = files["tokenizer.json"]["normalizer"]["normalizers"][1]
    values = vocabulary(write_files(tmp_path, files), files["config.json"], "gemma3")
    assert values["tokenizer.ggml.pre"].data == "gemma4"
    assert values["tokenizer.ggml.token_type"].data[:4] == [3, 3, 3, 6]


def test_a_word_list_with_a_word_twice_is_refused(tmp_path):
    files = {"vocab.txt": "[UNK]\na\nb\na\n", "config.json": {}}
    refused(tmp_path, files, "has 'a' in the lines 2 and 4", "bert")
    refused(tmp_path, {"vocab.txt": "", "config.json": {}}, "is empty", "bert")
