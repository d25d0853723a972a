"""The gated delta net in chunks of tokens computes what it computes token by token."""

import numpy as np
import pytest
from quantreg_language import kimi
from quantreg_language.delta_net import CHUNK, convolve, delta_rule

from quantreg.inference.passes import Pass


def inputs(tokens, sequences=2, heads=5, length=8, fade=1.0):
    rng = np.random.Generator(np.random.PCG64(tokens))
    q, k, v = (rng.standard_normal((sequences, tokens, heads, length)).astype(np.float32) for _ in range(3))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    fades = -fade * rng.random((sequences, tokens, heads)).astype(np.float32)
    return q, k, v, fades, rng.random((sequences, tokens, heads)).astype(np.float32)


def token_by_token(q, k, v, fade, beta, memory):
    q, k, v, fade, beta = (each.astype(np.float64) for each in (q, k, v, fade, beta))
    found = []
    for t in range(q.shape[1]):
        memory = memory * np.exp(fade[:, t])[..., None, None]
        known = np.einsum("shi,shij->shj", k[:, t], memory)
        memory = memory + np.einsum("shi,shj->shij", k[:, t], beta[:, t, :, None] * (v[:, t] - known))
        found.append(np.einsum("shi,shij->shj", q[:, t], memory) / q.shape[-1] ** 0.5)
    return np.stack(found, axis=1), memory


@pytest.mark.parametrize("fade", [0.0, 0.02, 1.0, 50.0])
@pytest.mark.parametrize("tokens", [1, CHUNK - 1, CHUNK, 2 * CHUNK + 7])
def test_chunks_compute_what_single_tokens_compute(tokens, fade):
    given = inputs(tokens, fade=fade)
    found, memory = delta_rule(*given, None, Pass(2, tokens))
    expected, last = token_by_token(*given, np.zeros((2, 5, 8, 8)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(memory, last, atol=1e-4)


def test_the_memory_carries_on():
    given = inputs(100)
    expected, last = delta_rule(*given, None, Pass(2, 100))
    memory, found = None, []
    for first, end in ((0, 1), (1, 70), (70, 100)):
        before = None if memory is None else memory.copy()
        part, new = delta_rule(*(each[:, first:end] for each in given), memory, Pass(2, end - first))
        assert memory is None or np.array_equal(memory, before)
        memory = new
        found.append(part)
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-5)
    np.testing.assert_allclose(memory, last, atol=1e-5)


def test_a_convolution_sees_the_tokens_before():
    rng = np.random.Generator(np.random.PCG64(1))
    x, kernel = rng.standard_normal((2, 9, 3)).astype(np.float32), rng.standard_normal((3, 4)).astype(np.float32)
    padded = np.concatenate((np.zeros((2, 3, 3)), x), axis=1)
    expected = np.stack([np.einsum("sic,ci->sc", padded[:, t : t + 4], kernel) for t in range(9)], axis=1)
    whole, tail = convolve(x, kernel, None)
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    first, middle = convolve(x[:, :2], kernel, None)
    second, last = convolve(x[:, 2:], kernel, middle)
    np.testing.assert_array_equal(np.concatenate((first, second), axis=1), whole)
    np.testing.assert_array_equal(last, tail)


@pytest.mark.parametrize("fade", [0.02, 1.0, 50.0])
@pytest.mark.parametrize("tokens", [1, kimi.CHUNK, 2 * kimi.CHUNK + 5])
def test_each_value_of_a_key_may_fade_at_a_rate_of_its_own(tokens, fade):
    q, k, v, _, beta = inputs(tokens)
    fades = -fade * np.random.Generator(np.random.PCG64(2)).random(k.shape).astype(np.float32)
    found, last = kimi.delta_rule(q, k, v, fades, beta, None, Pass(2, tokens))
    memory = np.zeros((2, 5, 8, 8))
    for t in range(tokens):
        memory = memory * np.exp(fades[:, t].astype(np.float64))[..., None]
        known = np.einsum("shi,shij->shj", k[:, t], memory)
        memory = memory + np.einsum("shi,shj->shij", k[:, t], beta[:, t, :, None] * (v[:, t] - known))
        np.testing.assert_allclose(found[:, t], np.einsum("shi,shij->shj", q[:, t], memory) / 8**0.5, atol=1e-4)
    np.testing.assert_allclose(last, memory, atol=1e-4)
