"""State spaces in chunks of tokens compute what they compute token by token."""

import numpy as np
import pytest
from quantreg_language.delta_net import CHUNK
from quantreg_language.mamba import scan_channels, scan_heads

from quantreg.inference.passes import Pass

HEADS, LENGTH, GROUPS, SIZE = 6, 5, 2, 7


def random(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def by_heads(tokens, fade):
    return (
        random(1, 2, tokens, HEADS, LENGTH),
        np.abs(random(2, 2, tokens, HEADS)),
        -fade * np.abs(random(3, HEADS)),
        random(4, 2, tokens, GROUPS, SIZE),
        random(5, 2, tokens, GROUPS, SIZE),
    )


def token_by_token(x, step, rate, into, out_of, state):
    found = []
    for t in range(x.shape[1]):
        b, c = (np.repeat(each[:, t], HEADS // GROUPS, axis=1).astype(np.float64) for each in (into, out_of))
        state = state * np.exp(step[:, t] * rate)[..., None, None]
        state = state + np.einsum("shn,shp->shnp", b, step[:, t, :, None] * x[:, t])
        found.append(np.einsum("shn,shnp->shp", c, state))
    return np.stack(found, axis=1), state


@pytest.mark.parametrize("fade", [0.01, 1.0, 80.0])
@pytest.mark.parametrize("tokens", [1, CHUNK, CHUNK + 9])
def test_chunks_compute_what_single_tokens_compute(tokens, fade):
    given = by_heads(tokens, fade)
    found, last = scan_heads(*given, None, Pass(2, tokens))
    expected, state = token_by_token(*given, np.zeros((2, HEADS, SIZE, LENGTH)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(last, state, rtol=1e-4, atol=1e-4 * np.abs(state).max())


def test_the_states_of_heads_carry_on():
    x, step, rate, into, out_of = by_heads(90, 1.0)
    expected, last = scan_heads(x, step, rate, into, out_of, None, Pass(2, 90))
    state, found = None, []
    for first, end in ((0, 3), (3, 80), (80, 90)):
        before = None if state is None else state.copy()
        parts = (each[:, first:end] for each in (into, out_of))
        part, new = scan_heads(x[:, first:end], step[:, first:end], rate, *parts, state, Pass(2, end - first))
        assert state is None or np.array_equal(state, before)
        state = new
        found.append(part)
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-4)
    np.testing.assert_allclose(state, last, atol=1e-4)


def test_each_value_of_the_state_of_a_channel_fades_at_a_rate_of_its_own():
    channels, tokens = 1030, 5  # more channels than one piece of work has
    x, step, rate = random(1, 2, tokens, channels), np.abs(random(2, 2, tokens, channels)), -random(3, channels, SIZE)
    into, out_of = random(4, 2, tokens, SIZE), random(5, 2, tokens, SIZE)
    found, last = scan_channels(x, step, rate, into, out_of, None, Pass(2, tokens))
    state = np.zeros((2, channels, SIZE))
    for t in range(tokens):
        state = state * np.exp(step[:, t, :, None] * rate) + (step * x)[:, t, :, None] * into[:, t, None]
        expected = np.einsum("scn,sn->sc", state, out_of[:, t])
        np.testing.assert_allclose(found[:, t], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(last, state, rtol=1e-4, atol=1e-4 * np.abs(state).max())
