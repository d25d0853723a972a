"""Attention in blocks of queries gives what its definition gives, computed in float64 with all scores at once."""

import numpy as np
import pytest

from quantreg.inference.attention import QUERIES, Attend, attend
from quantreg.inference.cache import Cache
from quantreg.inference.passes import Pass

HEADS, KV_HEADS, LENGTH, VALUES = 4, 2, 8, 6


def heads(seed, sequences, tokens):
    random = np.random.default_rng(seed)
    shapes = ((HEADS, LENGTH), (KV_HEADS, LENGTH), (KV_HEADS, VALUES))
    return [random.standard_normal((sequences, tokens, *shape), np.float32) for shape in shapes]


def sees(query, key, how):
    """Whether a query at one position sees a key at another."""
    if how.causal and key > query:
        return False
    if not how.window:
        return True
    if how.chunked:
        return key // how.window == query // how.window
    return query - key < how.window if how.causal else abs(query - key) <= how.window // 2


def defined(q, k, v, how):
    """The same by its definition: float64 (sequences, tokens, heads, values)."""
    sequences, tokens = q.shape[:2]
    k, v = (np.repeat(each.astype(np.float64), HEADS // KV_HEADS, axis=2) for each in (k, v))
    scores = np.einsum("sqhl,skhl->shqk", q.astype(np.float64), k) * how.scale
    if how.softcap:
        scores = how.softcap * np.tanh(scores / how.softcap)
    at = np.arange(tokens)
    if how.slopes is not None:
        scores -= how.slopes[:, None, None] * abs(at[:, None] - at)
    scores[:, :, [[not sees(i, j, how) for j in at] for i in at]] = -np.inf
    if how.sinks is not None:  # one more key, of a value that is 0
        sinks = np.broadcast_to(how.sinks[:, None, None], (sequences, HEADS, tokens, 1))
        scores = np.concatenate([scores, sinks], axis=3)
    shares = np.exp(scores - scores.max(axis=3, keepdims=True))
    shares /= shares.sum(axis=3, keepdims=True)
    return np.einsum("shqk,skhv->sqhv", shares[..., :tokens], v)


SETTINGS = {
    "plain": {},
    "soft cap": {"softcap": 2.0},
    "sinks": {"sinks": np.array([-1, 0, 1, 3], np.float32)},
    "slopes": {"slopes": np.array([0.5, 0.25, 0.1, 0.02], np.float32)},
    "window": {"window": 5},
    "a window of one token": {"window": 1},
    "a window with sinks": {"window": 7, "sinks": np.array([-1, 0, 1, 3], np.float32)},
    "chunks": {"window": 6, "chunked": True},
    "both directions": {"causal": False},
    "both directions, window": {"causal": False, "window": 6},
    "both directions, slopes": {"causal": False, "slopes": np.array([0.5, 0.25, 0.1, 0.02], np.float32)},
}


@pytest.mark.parametrize("tokens", [1, 21, QUERIES + 13])
@pytest.mark.parametrize("name", SETTINGS)
def test_attention_is_what_its_definition_says(name, tokens):
    how, given = Attend(scale=0.7, **SETTINGS[name]), heads(1, 2, tokens)
    found = attend(*(each.copy() for each in given), how, Pass(2, tokens), 0)
    np.testing.assert_allclose(found.reshape(2, tokens, HEADS, VALUES), defined(*given, how), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", [name for name, how in SETTINGS.items() if how.get("causal", True)])
def test_attention_with_a_cache_is_that_of_all_tokens_at_once(name):
    how, (q, k, v), cache = Attend(scale=0.7, **SETTINGS[name]), heads(2, 1, 20), Cache(1)
    parts = []
    for first, last in ((0, 1), (1, 9), (9, 10), (10, 20)):
        run = Pass(1, last - first, start=first, cache=cache)
        parts.append(attend(q[:, first:last], k[:, first:last], v[:, first:last], how, run, 0))
        cache.length = last
    found = np.concatenate(parts).reshape(1, 20, HEADS, VALUES)
    np.testing.assert_allclose(found, defined(q, k, v, how), rtol=0, atol=2e-5)
