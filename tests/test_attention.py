"""Attention in blocks of queries finds what it finds query by query."""

import numpy as np
import pytest

from quantreg.inference.attention import QUERIES, Attend, attend
from quantreg.inference.cache import Cache
from quantreg.inference.passes import Pass

HEADS, KV_HEADS, KEY, VALUE = 4, 2, 8, 6


def arrays(tokens, sequences=1):
    rng = np.random.Generator(np.random.PCG64(tokens))
    shapes = (HEADS, KEY), (KV_HEADS, KEY), (KV_HEADS, VALUE)
    return [rng.standard_normal((sequences, tokens, *shape)).astype(np.float32) for shape in shapes]


def one_by_one(q, k, v, how, seen):
    """The same in float64, with a function (query, key) that says whether the query sees the key."""
    sequences, tokens = q.shape[:2]
    out = np.empty((sequences, tokens, HEADS, VALUE))
    for s in range(sequences):
        for head in range(HEADS):
            keys, values = (each[s, :, head * KV_HEADS // HEADS].astype(np.float64) for each in (k, v))
            for at in range(tokens):
                places = np.array([other for other in range(tokens) if seen(at, other)])
                scores = keys[places] @ q[s, at, head] * how.scale
                if how.softcap:
                    scores = how.softcap * np.tanh(scores / how.softcap)
                if how.slopes is not None:
                    scores = scores - how.slopes[head] * abs(places - at)
                weights = np.exp(scores)
                total = weights.sum() + (0 if how.sinks is None else np.exp(float(how.sinks[head])))
                out[s, at, head] = weights @ values[places] / total
    return out.reshape(sequences * tokens, -1)


CASES = {
    "all before": ({}, lambda at, key: key <= at),
    "a window": ({"window": 5}, lambda at, key: at - 5 < key <= at),
    "a window longer than a block": ({"window": QUERIES + 3}, lambda at, key: at - QUERIES - 3 < key <= at),
    "chunks": ({"window": 12, "chunked": True}, lambda at, key: at // 12 * 12 <= key <= at),
    "both sides": ({"causal": False}, lambda at, key: True),
    "a window to both sides": ({"causal": False, "window": 6}, lambda at, key: abs(at - key) <= 3),
    "sinks": ({"sinks": np.array([-1, 0, 2, 5], np.float32)}, lambda at, key: key <= at),
    "a cap": ({"softcap": 2.0}, lambda at, key: key <= at),
    "slopes": ({"slopes": np.array([0.5, 0.1, 0.02, 1], np.float32)}, lambda at, key: key <= at),
    "slopes to both sides": (
        {"slopes": np.array([0.5, 0.1, 0.02, 1], np.float32), "causal": False},
        lambda at, key: True,
    ),
}


@pytest.mark.parametrize("tokens", [1, 30, QUERIES + 20])
@pytest.mark.parametrize("case", CASES)
def test_blocks_of_queries_find_what_single_queries_find(case, tokens):
    differences, seen = CASES[case]
    how = Attend(scale=0.7, **differences)
    q, k, v = arrays(tokens, sequences=2)
    found = attend(q, k, v, how, Pass(2, tokens), 0)
    np.testing.assert_allclose(found, one_by_one(q, k, v, how, seen), atol=2e-5)


@pytest.mark.parametrize("case", [case for case, (how, _) in CASES.items() if how.get("causal", True)])
def test_a_cache_brings_the_keys_of_earlier_tokens(case):
    differences, seen = CASES[case]
    how = Attend(scale=0.7, **differences)
    q, k, v = arrays(40)
    cache, found = Cache(1), []
    for first, last in ((0, 13), (13, 14), (14, 40)):
        run = Pass(1, last - first, start=first, cache=cache)
        found.append(attend(*(each[:, first:last] for each in (q, k, v)), how, run, 0))
        cache.length = last
    np.testing.assert_allclose(np.concatenate(found), one_by_one(q, k, v, how, seen), atol=2e-5)
