"""Tokens are those of the reference: on small vocabularies, on its own test files, and live on random texts."""

import json
import os
import pickle
import random
import time
from functools import cache
from pathlib import Path

import pytest
import token_vocabularies as vocabularies
from reference_tokens import Reference
from token_texts import BROKEN, TEXTS, random_bytes, random_text

import quantreg
from quantreg.tokenization.pretokenizers import PRETOKENIZERS

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tokens" / "tokens.json").read_text(encoding="utf-8"))
VARIANTS = vocabularies.variants(PRETOKENIZERS, GOLDEN["merges"], GOLDEN["marked"])
FILES = os.environ.get("GGML_VOCABS")
LIBRARY = os.environ.get("LLAMA_LIB")


@cache
def tokenizer(name):
    return quantreg.Tokenizer.of(VARIANTS[name])


def test_every_vocabulary_has_goldens():
    assert set(VARIANTS) == set(GOLDEN["facts"])


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_tokens_are_those_of_the_reference(name):
    results = GOLDEN["results"][GOLDEN["facts"][name]["result"]]
    for text, (plain, special) in zip([*TEXTS, *BROKEN], results, strict=True):
        assert tokenizer(name).encode(text) == plain, text
        assert tokenizer(name).encode(text, special=True) == (plain if special is None else special), text


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_text_of_tokens_is_that_of_the_reference(name):
    facts = GOLDEN["facts"][name]
    for text, shown in zip([*TEXTS, *BROKEN], GOLDEN["decoded"][facts["decoded"]], strict=True):
        ids = tokenizer(name).encode(text, special=True)
        assert tokenizer(name).decode_bytes(ids, special=True).hex() == shown


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_special_tokens_are_those_of_the_reference(name):
    facts = {key: value for key, value in GOLDEN["facts"][name].items() if key not in ("decoded", "result")}
    found = {key: getattr(tokenizer(name), key) for key in facts}
    assert {**found, "end_ids": sorted(found["end_ids"])} == facts


def test_the_goldens_tell_different_pretokenizers_apart():
    """Two names that split differently have different tokens, so that a mix-up in the table shows."""
    by_result = {}
    for name, pre in PRETOKENIZERS.items():
        result = GOLDEN["facts"][f"gpt2/{name}"]["result"]
        by_result.setdefault(result, {}).setdefault((pre.splits, pre.spaces_marked), name)
    mixed = [sorted(names.values()) for names in by_result.values() if len(names) > 1]
    assert mixed == [["bailingmoe", "qwen2"]]  # two ways to write the same


@pytest.mark.parametrize("name", ["gpt2/llama3", "gpt2/gemma4", "llama", "llama/no-prefix"])
def test_text_survives(name):
    text = "Zwei  Räder,\n\tоднако 한국어 🚀!"
    assert tokenizer(name).decode(tokenizer(name).encode(text)) == text


@pytest.mark.parametrize("name", ["gpt2/qwen2", "gpt2/gemma4", "llama", "bert"])
def test_a_tokenizer_pickles(name):
    text = TEXTS[2]
    copy = pickle.loads(pickle.dumps(tokenizer(name)))
    assert copy.encode(text) == tokenizer(name).encode(text)
    assert repr(copy) == repr(tokenizer(name))


def test_a_long_word_merges_as_a_short_one_does():
    pairs = tokenizer("gpt2/gpt-2")._model
    rng = random.Random(5)
    for _ in range(300):
        word = "".join(rng.choice("abcdeĠ Ċ".replace(" ", "")) for _ in range(rng.randint(2, 32)))
        assert pairs._merged(word) == pairs._merged_by_heap(word)


def test_the_first_of_equal_merges_counts():
    metadata = VARIANTS["gpt2/gpt-2"]
    merges = ["b c", "a b", *["b c"] * 50]
    few = {**metadata, "tokenizer.ggml.merges": merges, "tokenizer.ggml.tokens": [*"abcd", "ab", "bc"]}
    few["tokenizer.ggml.token_type"] = [1] * 6
    assert quantreg.Tokenizer.of(few).encode("abcd") == [0, 5, 3]
    few["tokenizer.ggml.merges"] = [*["q q"] * 50, "a b", "b c"]
    assert quantreg.Tokenizer.of(few).encode("abcd") == [4, 2, 3]


def test_tokens_end_at_a_nul_as_in_the_reference():
    metadata = {**VARIANTS["gpt2/gemma4"]}
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"][:-1], "\0tail"]
    last = len(metadata["tokenizer.ggml.tokens"]) - 1
    assert quantreg.Tokenizer.of(metadata).tokens[last] == f"[EMPTY_{last}]"


@pytest.mark.parametrize("name", ["gpt2/tiny_aya", "gpt2/default", "gpt2/gpt-4o", "gpt2/gemma4", "llama", "bert"])
@pytest.mark.parametrize("text", ["word ", "x", "7", " ", "\n", "A", "中", "'"])
def test_time_grows_with_the_length_of_a_text(name, text):
    """A megabyte takes seconds; an expression that goes back to the start at each step would take hours."""
    start = time.process_time()
    quantreg.Tokenizer.of(VARIANTS[name]).encode((text * 60_000)[:60_000])
    assert time.process_time() - start < 8


@pytest.mark.skipif(not FILES, reason="set GGML_VOCABS to the folder of the reference's ggml-vocab-*.gguf")
def test_the_reference_s_own_files_pass():
    paths = sorted(Path(FILES).glob("ggml-vocab-*.gguf"))
    checked = []
    for path in paths:
        inputs = path.with_name(path.name + ".inp")
        if not inputs.exists():
            continue
        found = quantreg.Tokenizer.of(quantreg.open(path).metadata)
        with open(inputs, encoding="utf-8", newline="") as file:
            texts = file.read().split("\n__ggml_vocab_test__\n")
        lines = path.with_name(path.name + ".out").read_text(encoding="utf-8").splitlines()
        for text, line in zip(texts, lines, strict=False):
            assert found.encode(text) == [int(id) for id in line.split()], (path.name, text)
        checked.append((len(texts), len(lines)))
    assert len(checked) >= 14
    assert min(map(min, checked)) >= 40


@pytest.mark.skipif(not LIBRARY, reason="set LLAMA_LIB to libllama.so of the pinned llama.cpp")
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_random_texts_live_against_the_reference(name, tmp_path):
    path = tmp_path / "vocabulary.gguf"
    quantreg.write(path, {**vocabularies.MODEL, **VARIANTS[name]}, {})
    compare(Reference(LIBRARY).vocabulary(path), tokenizer(name), 40)


@pytest.mark.skipif(not (LIBRARY and FILES), reason="set LLAMA_LIB and GGML_VOCABS")
def test_random_texts_live_on_the_reference_s_own_files():
    reference, known = Reference(LIBRARY), 0
    for path in sorted(Path(FILES).glob("ggml-vocab-*.gguf")):
        metadata = quantreg.open(path).metadata
        if metadata["tokenizer.ggml.model"] in ("llama", "gpt2", "gemma4", "bert"):
            compare(reference.vocabulary(path), quantreg.Tokenizer.of(metadata), 100)
            known += 1
    assert known >= 14


def compare(reference, found, count):
    rng = random.Random(13)
    for index in range(count):
        if index % 4 == 3:
            text = random_bytes(rng).decode("utf-8", "surrogateescape")
        else:
            text = random_text(rng).encode("utf-8", "replace").decode()
        for special in (False, True):
            ids = reference.encode(text, special)
            assert found.encode(text, special=special) == ids, text
            ids += [rng.randrange(reference.size) for _ in range(10)]
            assert found.decode_bytes(ids, special=special) == reference.decode_bytes(ids, special)
    for id in range(reference.size):
        assert found.token_bytes(id) == reference.token_bytes(id)
        assert found.token_bytes(id, special=True) == reference.token_bytes(id, True)
    reference.close()
