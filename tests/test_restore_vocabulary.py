"""A vocabulary becomes the tokenizer's files of a folder, and those files become the same vocabulary again.

That the tokenizers package reads the steps of a restored tokenizer.json as we do follows from the goldens: its
pre-tokenizer has the structure of an original, for which the ids are goldens.
"""

import json

import pytest
from checkpoints.vocabularies import GOLDEN, STRUCTURES, tokenizer_json, write_files
from checkpoints.vocabulary_folders import folders

from quantreg import Tokenizer, TokenizerError
from quantreg.checkpoints.pretokenizers import found_structure
from quantreg.checkpoints.restore_vocabulary import tokenizer_files
from quantreg.checkpoints.vocabulary import vocabulary
from quantreg.tokenization.pretokenizers import PRETOKENIZERS

SPLITS = json.loads((GOLDEN / "splits.json").read_text(encoding="utf-8"))
CASES = folders(json.loads((GOLDEN / "folders.json").read_text(encoding="utf-8"))["trained"])
PREFIX = "tokenizer.ggml."
SMALL = {
    PREFIX + "model": "gpt2",
    PREFIX + "pre": "gpt-2",
    PREFIX + "tokens": ["a", "b", "ab", "<s>", "</s>", "<tool>", "[PAD6]"],
    PREFIX + "token_type": [1, 1, 1, 3, 3, 4, 5],
    PREFIX + "merges": ["a b"],
    PREFIX + "bos_token_id": 3,
    PREFIX + "eos_token_id": 4,
}


def plain(values):
    return {key: value.data for key, value in values.items()}


def restored(metadata, folder):
    for name, content in tokenizer_files(metadata).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def parsed(metadata, name="tokenizer.json"):
    return json.loads(tokenizer_files(metadata)[name])


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_a_restored_pretokenizer_has_the_structure_of_the_original(name, tmp_path):
    original = tokenizer_json(name, SPLITS["vocab"], SPLITS["merges"])
    kind = STRUCTURES[name][2].get("model_type", "llama")
    first = vocabulary(write_files(tmp_path / "a", {"tokenizer.json": original}), {"model_type": kind}, "bpe")
    folder = restored(plain(first), tmp_path / "b")
    found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert found_structure(found) == found_structure(original)
    assert found["model"]["ignore_merges"] == PRETOKENIZERS[STRUCTURES[name][0]].whole_words
    again = vocabulary(folder, {"model_type": kind}, "bpe")
    for key in ("model", "pre", "tokens", "token_type", "merges"):
        assert again[PREFIX + key] == first[PREFIX + key]


@pytest.mark.parametrize("name", sorted(set(PRETOKENIZERS) - {"default", "kimi-k2"}))
def test_every_name_can_be_restored_and_is_recognised_as_one_that_splits_alike(name, tmp_path):
    folder = restored({**SMALL, PREFIX + "pre": name}, tmp_path)
    again = vocabulary(folder, {}, "bpe")[PREFIX + "pre"].data
    assert PRETOKENIZERS[again].splits == PRETOKENIZERS[name].splits or again == "gpt-4o"
    assert PRETOKENIZERS[again].spaces_marked == PRETOKENIZERS[name].spaces_marked


def test_a_pretokenizer_that_no_file_can_hold_is_refused():
    with pytest.raises(TokenizerError, match="a folder cannot hold the pre-tokenizer 'kimi-k2'"):
        tokenizer_files({**SMALL, PREFIX + "pre": "kimi-k2"})


@pytest.mark.parametrize("name", sorted(name for name in CASES if CASES[name][1] not in ("qwen2", "phi3")))
def test_the_vocabulary_survives_the_way_to_a_folder_and_back(name, tmp_path):
    _, hint, _, files = CASES[name]
    config = files["config.json"]
    first = vocabulary(write_files(tmp_path / "a", files), config, hint)
    folder = restored(plain(first), tmp_path / "b")
    again = vocabulary(folder, config, hint)
    told = {f"{PREFIX}{key}" for key in ("add_bos_token", "add_eos_token", "add_sep_token", "normalizer.lowercase")}
    told |= {key for key in first if key not in again and first[key].data in (999, False)}
    size = len(first[PREFIX + "tokens"].data)  # a tokenizer.model is filled up to "vocab_size", a tokenizer.json is not
    for key in sorted({*first, *again} - told):
        if key in (PREFIX + "tokens", PREFIX + "token_type") and name == "sentencepiece added":
            continue  # in every other file a "▁" in an added token stands for a space, and "<pad>" is special
        if key == PREFIX + "eos_token_id" and name.startswith("bert text"):
            assert again[key].data == 3  # a vocab.txt does not say that a text ends with "[SEP]"
            continue
        before, after = first[key].data, again[key].data
        assert before == (after[:size] if isinstance(after, list) else after), key


def test_special_tokens_are_named_and_marked(tmp_path):
    config = parsed(SMALL, "tokenizer_config.json")
    assert (config["bos_token"], config["eos_token"]) == ("<s>", "</s>")
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert parsed(SMALL, "special_tokens_map.json") == {"bos_token": "<s>", "eos_token": "</s>"}
    added = {entry["content"]: entry for entry in parsed(SMALL)["added_tokens"]}
    assert {text: entry["special"] for text, entry in added.items()} == {"<s>": True, "</s>": True, "<tool>": False}
    assert "[PAD6]" not in parsed(SMALL)["model"]["vocab"]


def test_a_name_needs_a_special_token_because_readers_make_it_one():
    assert "pad_token" not in parsed({**SMALL, PREFIX + "padding_token_id": 0}, "tokenizer_config.json")


def test_the_ends_of_a_text_are_in_generation_config():
    assert parsed(SMALL, "generation_config.json") == {"bos_token_id": 3, "eos_token_id": 4}
    found = parsed({**SMALL, PREFIX + "eot_token_id": 5, PREFIX + "padding_token_id": 4}, "generation_config.json")
    assert found == {"bos_token_id": 3, "pad_token_id": 4, "eos_token_id": [4, 5]}


@pytest.mark.parametrize(
    ("flags", "single"),
    [
        ({}, None),
        ({"add_bos_token": False}, "ByteLevel"),
        ({"add_bos_token": True}, ["<s>", "A"]),
        ({"add_eos_token": True}, ["A", "</s>"]),
        ({"add_bos_token": True, "add_eos_token": True}, ["<s>", "A", "</s>"]),
    ],
)
def test_the_post_processor_puts_around_a_text_what_the_file_says(flags, single):
    found = parsed({**SMALL, **{PREFIX + key: flag for key, flag in flags.items()}})["post_processor"]
    if single is None:  # another one would say that nothing is added, which the file leaves open
        assert found is None
    elif single == "ByteLevel":
        assert found["type"] == "ByteLevel"
    else:
        assert [next(iter(part.values()))["id"] for part in found["single"]] == single


def test_tokens_that_swallow_white_space_are_marked():
    added = {entry["content"]: entry for entry in parsed({**SMALL, "general.name": "Phi-3 mini"})["added_tokens"]}
    assert {text: (entry["lstrip"], entry["rstrip"]) for text, entry in added.items()} == {
        "<s>": (False, False),
        "</s>": (False, True),
        "<tool>": (False, True),
    }


def test_chat_templates_become_files():
    key = "tokenizer.chat_template"
    found = tokenizer_files({**SMALL, key: "{{x}}", f"{key}.tool_use": "T", f"{key}.../evil": "no"})
    assert found["chat_template.jinja"] == b"{{x}}"
    assert found["additional_chat_templates/tool_use.jinja"] == b"T"
    assert not [name for name in found if "evil" in name]


def test_the_length_of_a_context_is_kept():
    metadata = {**SMALL, "general.architecture": "llama", "llama.context_length": 2048}
    assert parsed(metadata, "tokenizer_config.json")["model_max_length"] == 2048


def test_merges_into_what_is_no_token_are_left_out():
    assert parsed({**SMALL, PREFIX + "merges": ["a b", "ab b"]})["model"]["merges"] == [["a", "b"]]


def test_a_vocabulary_of_scores_gets_merges_that_give_its_ids(tmp_path):
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "▁ab",
        "bb",
    ]
    metadata = {
        PREFIX + "model": "llama",
        PREFIX + "tokens": tokens,
        PREFIX + "scores": [0.0] * 259 + [-9.0, -8.0, -7.0, -2.0, -3.0, -1.0, -4.0],
        PREFIX + "token_type": [2, 3, 3, *[6] * 256, *[1] * 7],
    }
    found = parsed(metadata)
    assert found["model"]["merges"] == [["▁", "ab"], ["▁a", "b"], ["▁", "a"], ["a", "b"], ["b", "b"]]
    assert found["model"]["byte_fallback"]
    assert found["normalizer"]["normalizers"][0] == {"type": "Prepend", "prepend": "▁"}
    again = Tokenizer.of(plain(vocabulary(restored(metadata, tmp_path), {}, "llama")))
    for text in ("ab abb", "bbb a", "xab  ab", "é\n"):
        assert again.encode(text) == Tokenizer.of(metadata).encode(text)
    (tmp_path / "tokenizer.model").unlink()  # from tokenizer.json alone
    alone = Tokenizer.of(plain(vocabulary(tmp_path, {}, "llama")))
    for text in ("ab abb", "bbb a", "xab  ab", "é\n"):
        assert alone.encode(text) == Tokenizer.of(metadata).encode(text)


def test_odd_types_of_tokens_count_as_normal_and_a_missing_name_as_the_default():
    found = parsed({**SMALL, PREFIX + "token_type": [0, 99, -3, 3, 3, 4, 5], PREFIX + "pre": ""})
    assert [entry["content"] for entry in found["added_tokens"]] == ["<s>", "</s>", "<tool>"]
    assert len(found["pre_tokenizer"]["pretokenizers"]) == 5


def test_a_file_without_a_vocabulary_is_refused():
    with pytest.raises(TokenizerError):
        tokenizer_files({})


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(TokenizerError, match="bytes that are no UTF-8, which JSON cannot hold"):
        tokenizer_files(
            {**SMALL, PREFIX + "tokens": ["\udcff", *SMALL[PREFIX + "tokens"][1:]], PREFIX + "merges": ["b b"]}
        )


def test_words_need_a_token_for_unknown_ones():
    metadata = {PREFIX + "model": "bert", PREFIX + "tokens": ["▁a", "b"], PREFIX + "token_type": [1, 1]}
    with pytest.raises(TokenizerError, match="names no token for unknown words"):
        tokenizer_files(metadata)
