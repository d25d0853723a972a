"""A vocabulary that is damaged or unknown, and text and ids that do not fit it, are refused with what to do."""

import pytest

import quantreg

KEY = "tokenizer.ggml."
SPM = {
    KEY + "model": "llama",
    KEY + "tokens": ["<unk>", "<s>", "</s>", "<0x41>", "▁", "h", "i", "hi", "▁hi", "<|user|>"],
    KEY + "scores": [0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, 0.0],
    KEY + "token_type": [2, 3, 3, 6, 1, 1, 1, 1, 1, 4],
}
BPE = {KEY + "model": "gpt2", KEY + "pre": "gpt-2", KEY + "tokens": ["a", "b", "ab"], KEY + "merges": ["a b"]}


def of(metadata, **changes):
    return quantreg.Tokenizer.of({**metadata, **{KEY + key: value for key, value in changes.items()}})


@pytest.mark.parametrize("model", ["rwkv", "plamo2", "whitespace"])
def test_another_tokenizer_model_is_refused_with_the_way_to_make_ids(model):
    with pytest.raises(quantreg.TokenizerError, match=rf"'{model}'.*gpt2.*llama-tokenize.*--ids ids\.txt"):
        of(SPM, model=model)


def test_an_unknown_pretokenizer_is_refused_with_the_way_to_make_ids():
    with pytest.raises(quantreg.TokenizerError, match=r"'brand-new'.*llama-tokenize.*--ids ids\.txt"):
        of(BPE, pre="brand-new")


def test_a_missing_pretokenizer_is_the_default():
    metadata = {key: value for key, value in BPE.items() if key != KEY + "pre"}
    assert of(metadata).encode("ab") == [2]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "no tokenizer .*missing.*--ids"),
        ({KEY + "model": "none"}, "no tokenizer .*none.*--ids"),
        ({KEY + "model": 5}, "is 5, not a string"),
        ({KEY + "model": "llama"}, "no tokenizer.ggml.tokens"),
        ({**SPM, KEY + "tokens": [1, 2]}, "tokens is no list of the right type"),
        ({**SPM, KEY + "tokens": "abc"}, "tokens is no list of the right type"),
        ({**SPM, KEY + "tokens": ["a", "b", "a"]}, "'a' twice"),
        ({**SPM, KEY + "scores": [0.0]}, "scores has 1 entries for 10 tokens"),
        ({**SPM, KEY + "scores": 1.0}, "scores is no list"),
        ({**SPM, KEY + "token_type": [1, 1]}, "token_type has 2 entries for 10 tokens"),
        ({key: value for key, value in BPE.items() if key != KEY + "merges"}, "no tokenizer.ggml.merges"),
    ],
)
def test_a_damaged_vocabulary_is_refused(metadata, message):
    with pytest.raises(quantreg.TokenizerError, match=message):
        quantreg.Tokenizer.of(metadata)


@pytest.mark.parametrize("id", [-1, 10, 1 << 40])
def test_an_id_outside_the_vocabulary_is_refused(id):
    for call in (lambda: of(SPM).decode([id]), lambda: of(SPM).token_bytes(id)):
        with pytest.raises(quantreg.TokenizerError, match=f"{id} is not a token of the vocabulary.* 0 to 9"):
            call()


def test_a_byte_that_the_vocabulary_cannot_write_is_refused():
    assert of(SPM).encode("A") == [4, 3]
    with pytest.raises(quantreg.TokenizerError, match="no token for the byte 0x42"):
        of(SPM).encode("B")


@pytest.mark.parametrize("metadata", [SPM, BPE])
def test_a_surrogate_that_stands_for_no_byte_is_refused(metadata):
    with pytest.raises(quantreg.TokenizerError, match=r"U\+D83D at character \d"):
        of(metadata).encode("ab\ud83d")


def test_a_bert_vocabulary_without_unknown_token_is_refused_when_it_needs_one():
    found = of({KEY + "model": "bert", KEY + "tokens": ["▁a"]})
    assert found.encode("a") == [0]
    with pytest.raises(quantreg.TokenizerError, match="no token for unknown words"):
        found.encode("b")


def test_a_special_token_outside_the_vocabulary_does_not_count():
    found = of(SPM, bos_token_id=99, eos_token_id=2)
    assert (found.bos, found.eos) == (1, 2)
    assert of(BPE).bos is None


def test_control_tokens_are_text_unless_asked_for_and_added_tokens_are_always_tokens():
    assert of(SPM).encode("hi<|user|>hi") == [8, 9, 8]
    assert of(SPM).encode("hi</s>hi", special=True) == [8, 2, 8]
    assert of(SPM).decode([8, 2, 8]) == "hi hi"
    assert of(SPM).decode([8, 2, 8], special=True) == "hi</s> hi"
    with pytest.raises(quantreg.TokenizerError, match="0x3C"):  # "<" has no token in this vocabulary
        of(SPM).encode("hi</s>hi")


def test_the_longest_special_token_is_found_first():
    found = of(SPM, tokens=["a", "<x>", "<x><y>"], token_type=[1, 4, 4], scores=[0.0] * 3, add_space_prefix=False)
    assert found.encode("a<x><y>a<x>a") == [0, 2, 0, 1, 0]


@pytest.mark.parametrize("raw", [b"\xf4\x90\x80\x80", b"\xf7\xbf\xbf\xbf"])
def test_a_code_point_beyond_unicode_is_bad_bytes(raw):
    """The reference ends the process at such bytes."""
    text = "a" + raw.decode("utf-8", "surrogateescape") + "b"
    names = ["a", "b", *"ï¿½"]  # the bytes of U+FFFD as a byte-pair vocabulary writes them
    assert of(BPE, tokens=names, merges=["a b"]).encode(text) == [0, *[2, 3, 4] * 4, 1]


def test_half_a_character_is_bytes_and_a_replacement_character():
    found = of(
        SPM,
        tokens=["<unk>", "<s>", "</s>", "<0xC3>", "▁", "h", "i", "hi", "▁hi", "<0xA4>"],
        token_type=[2, 3, 3, 6, 1, 1, 1, 1, 1, 6],
    )
    assert found.token_bytes(3) == b"\xc3"
    assert (found.decode([3]), found.decode([3, 9])) == ("\ufffd", "ä")
