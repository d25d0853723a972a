"""Generation: the same tokens with and without a cache, reproducible draws, limits as a plain oracle has them."""

import math

import numpy as np
import pytest
import small_models
from speaker import IDS, speaker

import quantreg
from quantreg import ModelError, ShapeError
from quantreg.inference import sampling
from quantreg.inference.sampling import Sampler

RNG = np.random.default_rng(7)
PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens small models by their names, each once."""
    folder, models = tmp_path_factory.mktemp("generate"), {}

    def open_model(name):
        if name not in models:
            small_models.write(small_models.build(name), folder / f"{name}.gguf")
            models[name] = quantreg.load(folder / f"{name}.gguf", threads=1)
        return models[name]

    yield open_model
    for model in models.values():
        model.close()


def load(small, path):
    small_models.write(small, path)
    return quantreg.load(path, threads=1)


def without_cache(model, ids, n):
    ids, limit = list(ids), len(ids) + n
    long = "rope_factors_long.weight" in model.tensors  # the rotation then depends on the length of the context
    for _ in range(n):
        ids.append(int(model.logits(ids, model.cache(limit) if long else None)[-1].argmax()))
    return ids[-n:]


# ---- the cache ----


@pytest.mark.parametrize("name", small_models.names())
def test_a_cache_does_not_change_what_is_generated(opened, name):
    model = opened(name)
    if not model.graph.generates:
        pytest.skip("it predicts no tokens")
    assert list(model.generate(PROMPT, 8, end_ids=())) == without_cache(model, PROMPT, 8)


def test_a_long_prompt_goes_through_in_parts(opened, monkeypatch):
    model = opened("llama")
    whole = list(model.generate(PROMPT, 6, end_ids=()))
    monkeypatch.setattr(sampling, "PROMPT", 2)
    assert list(model.generate(PROMPT, 6, end_ids=())) == whole


def test_generation_goes_on_from_a_cache(opened):
    model = opened("llama")
    whole = list(model.generate(PROMPT, 6, end_ids=()))
    cache = model.cache()
    first = list(model.generate(PROMPT, 3, end_ids=(), cache=cache))
    assert cache.length == len(PROMPT) + 2  # the last token has not gone through the model
    assert first + list(model.generate(first[-1:], 3, end_ids=(), cache=cache)) == whole


def test_generation_runs_as_far_as_it_is_asked_for(opened):
    model = opened("llama")
    cache = model.cache()
    tokens = model.generate(PROMPT, 100, end_ids=(), cache=cache)
    assert cache.length == 0
    next(tokens)
    assert cache.length == len(PROMPT)
    assert list(model.generate(PROMPT, 0)) == []


# ---- the end ----


def test_generation_ends_before_an_end_token(tmp_path):
    with load(speaker("<s>", "a", "b", "c", "</s>", "d"), tmp_path / "m.gguf") as model:
        assert model.end_ids == {IDS["</s>"], IDS["<|end|>"]}
        assert model.detokenize(model.generate([1])) == "abc"
        assert list(model.generate([1], end_ids=[IDS["b"]])) == [IDS["a"]]
        assert list(model.generate([1], 5, end_ids=()))[3:] == [IDS["</s>"], IDS["d"]]


def test_generation_ends_when_the_context_is_full(tmp_path):
    with load(speaker("<s>", "a", "b", "a", context=8), tmp_path / "m.gguf") as model:
        assert len(list(model.generate([1]))) == 7
        assert len(list(model.generate([1], cache=model.cache(5)))) == 4
        assert len(list(model.generate([1] * 8))) == 0


def test_a_prompt_longer_than_the_context_is_refused_at_once(tmp_path):
    with load(speaker("<s>", "a", context=8), tmp_path / "m.gguf") as model:
        with pytest.raises(ShapeError, match="the prompt has 9 tokens, but the context has room for 8"):
            model.generate([1] * 9, 3)
        cache = model.cache(6)
        list(model.generate([1] * 4, 1, cache=cache))
        with pytest.raises(ShapeError, match="3 tokens, but the context has room for 6, of which 4 are taken"):
            model.generate([1] * 3, 1, cache=cache)


def test_a_model_of_embeddings_generates_nothing(opened):
    names = [name for name in small_models.names() if not opened(name).graph.generates]
    for name in names:
        with pytest.raises(ModelError, match="predict no tokens"):
            opened(name).generate(PROMPT, 1)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([], {}, "at least one"),
        ([96], {}, "outside the vocabulary"),
        ([[1, 2]], {}, "one sequence"),
        ([1], {"n": -1}, "-1 tokens"),
        ([1], {"temperature": -0.1}, "the temperature is -0.1"),
        ([1], {"temperature": math.nan}, "the temperature is nan"),
        ([1], {"top_k": -1}, "top_k is -1"),
        ([1], {"top_p": 0.0}, "top_p is 0.0"),
        ([1], {"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_the_first_token(opened, ids, options, message):
    with pytest.raises((ModelError, ShapeError), match=message):
        opened("llama").generate(ids, **{"n": 1, **options})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(tmp_path, value):
    small = speaker("<s>", "a")
    small.tensors["output.weight"][5, 1] = value
    with load(small, tmp_path / "m.gguf") as model, pytest.raises(ModelError, match="for token 5"):
        list(model.generate([1], 1))


# ---- sampling ----


def oracle(logits, temperature, top_k, top_p, draw):
    """The token for a uniform draw, by plain loops."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    order = order[: top_k or None]
    weights = [math.exp(logits[i] - logits[order[0]]) for i in order]
    total, kept = 0.0, []
    for token, weight in zip(order, weights, strict=True):
        kept.append(token)
        total += weight / sum(weights)
        if top_p < 1 and total >= top_p:
            break
    chances = [math.exp((logits[i] - logits[order[0]]) / temperature) for i in kept]
    rest = draw * sum(chances)
    for token, chance in zip(kept, chances, strict=True):
        rest -= chance
        if rest < 0:
            return token
    return kept[-1]


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-9])
@pytest.mark.parametrize("top_k", [0, 1, 5, 1000])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_draws_are_those_of_a_plain_oracle(temperature, top_k, top_p):
    sampler = Sampler(temperature, top_k, top_p)
    for seed in range(30):
        logits = (2 * RNG.standard_normal(50)).astype(np.float32)
        draw = np.random.default_rng(seed).random()
        found = sampler.choose(logits, np.random.default_rng(seed))
        assert found == oracle(logits.astype(float).tolist(), temperature, top_k, top_p, draw)


def test_tokens_are_drawn_as_often_as_they_are_probable():
    chances = np.array([0.5, 0.25, 0.15, 0.1])
    random, sampler = np.random.default_rng(1), Sampler(1.0)
    logits = np.log(chances).astype(np.float32)
    found = np.bincount([sampler.choose(logits, random) for _ in range(20000)], minlength=4) / 20000
    assert abs(found - chances).max() < 0.012


def test_a_seed_repeats_a_text_and_another_seed_does_not(opened):
    model = opened("llama")

    def text(seed):
        return list(model.generate(PROMPT, 20, temperature=1.5, seed=seed, end_ids=()))

    assert text(1) == text(1)
    assert text(1) != text(2)
    assert text(None) != text(None)


def test_without_temperature_nothing_is_random(opened):
    model = opened("llama")
    greedy = list(model.generate(PROMPT, 10, end_ids=()))
    assert list(model.generate(PROMPT, 10, top_k=3, top_p=0.5, seed=9, end_ids=())) == greedy
    assert list(model.generate(PROMPT, 10, temperature=5, top_k=1, seed=9, end_ids=())) == greedy
    assert list(model.generate(PROMPT, 10, temperature=1e-6, seed=9, end_ids=())) == greedy


# ---- text ----


def test_tokenize_adds_what_the_model_adds(tmp_path):
    with load(speaker("<s>", "a", **{"tokenizer.ggml.add_eos_token": True}), tmp_path / "m.gguf") as model:
        assert model.bos == 1
        plain = model.tokenize("abc", bos=False)
        assert model.tokenize("abc") == [1, *plain, 2]
        assert model.detokenize(model.tokenize("abc")) == "abc"
        assert model.tokenize("<s>a", special=True, bos=False)[0] == 1
        assert 1 not in model.tokenize("<s>a", bos=False)


def test_without_a_tokenizer_ids_still_work(opened):
    model = opened("llama")  # its tokenizer.ggml.model is "none"
    assert model.bos is None
    assert model.end_ids == frozenset()
    with pytest.raises(quantreg.TokenizerError, match="--ids"):
        model.tokenize("a")
    with pytest.raises(quantreg.TokenizerError, match="--ids"):
        model.detokenize([1])


def test_an_unknown_tokenizer_leaves_the_ids_that_the_metadata_names(tmp_path):
    keys = {"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.add_bos_token": True}
    with load(speaker("<s>", "a", **keys), tmp_path / "m.gguf") as model:
        assert model.bos == 1
        assert model.end_ids == {2, 5}
