import numpy as np

import quantreg
from my_project.importance import score_importance

RNG = np.random.default_rng(1)
WEIGHTS = RNG.standard_normal((8, 512), dtype=np.float32)
COLUMNS = RNG.random(512, dtype=np.float32)
SCORES = score_importance(quantreg.types["Q4_K"], None, WEIGHTS, COLUMNS)


def test_the_scores_are_finite_and_not_negative():
    assert SCORES.shape in (WEIGHTS.shape, COLUMNS.shape)
    assert np.isfinite(SCORES).all()
    assert (SCORES >= 0).all()


def test_quantize_uses_the_scores():
    found = quantreg.quantize(WEIGHTS, "Q4_K", COLUMNS)
    np.testing.assert_array_equal(found, quantreg.quantize(WEIGHTS, "Q4_K", SCORES))
