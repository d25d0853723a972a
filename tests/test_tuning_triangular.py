"""The factor of an inverse, in strips."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from quantreg.tuning import triangular
from quantreg.tuning.feedback import factor
from quantreg.tuning.triangular import inverse_factor


def covariance(n, seed=0):
    x = np.random.default_rng(seed).standard_normal((n + 20, n))
    return x.T @ x


@pytest.mark.parametrize("n", [1, 7, 16, 17, 100])
def test_it_is_upper_triangular_and_multiplies_to_the_inverse(n, monkeypatch):
    monkeypatch.setattr(triangular, "STRIP", 16)
    a = covariance(n)
    upper = inverse_factor(a.copy())
    assert (np.tril(upper, -1) == 0).all()
    assert (np.diagonal(upper) > 0).all()
    assert np.allclose(upper.T @ upper, np.linalg.inv(a), rtol=1e-9, atol=1e-12)


def test_only_the_upper_triangle_is_read(monkeypatch):
    monkeypatch.setattr(triangular, "STRIP", 16)
    a = covariance(50)
    half = np.triu(a)
    half[np.tril_indices(50, -1)] = np.nan
    assert (inverse_factor(half) == inverse_factor(a.copy())).all()


def test_the_result_does_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(triangular, "STRIP", 16)
    with ThreadPoolExecutor(3) as pool:
        found = inverse_factor(covariance(90), lambda work, items: list(pool.map(work, items)))
    assert (found == inverse_factor(covariance(90))).all()


@pytest.mark.parametrize("place", [0, 20, 49])
def test_a_matrix_that_is_not_positive_definite_is_refused_wherever_it_fails(place, monkeypatch):
    monkeypatch.setattr(triangular, "STRIP", 16)
    a = covariance(50)
    a[place, place] = -1
    with pytest.raises(np.linalg.LinAlgError):
        inverse_factor(a)


def test_more_damping_is_added_to_h_itself_and_not_to_what_the_failure_left():
    h = covariance(40).astype(np.float32)
    values, vectors = np.linalg.eigh(h)
    values[0] = -0.05 * values.mean()  # more than the first damping can mend
    h = ((vectors * values) @ vectors.T).astype(np.float32)
    found = factor(h)
    assert found.reason is None
    added = (0.01 + 0.1) * np.diagonal(h).astype(np.float64).mean()
    expected = np.linalg.inv(h.astype(np.float64) + added * np.eye(40))
    assert np.allclose(found.upper.astype(np.float64).T @ found.upper, expected, rtol=1e-3, atol=1e-4 * expected.max())
