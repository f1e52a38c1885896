import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression

from equipoise.engine.metrics.estimates import logistic


def test_logistic_regression_is_that_of_statsmodels_and_scikit_learn(rng):
    design = np.column_stack([np.ones(300), rng.normal(size=(300, 2)), rng.random(300) < 0.3])
    outcome = (rng.random(300) < 1 / (1 + np.exp(-design @ [0.3, 1.0, -0.5, 2.0]))).astype(float)
    weights = rng.integers(0, 4, (300, 5)).astype(float)
    coefficients = logistic.fit(design, outcome, weights)
    for lane, weight in enumerate(weights.T):
        peer = sm.GLM(outcome, design, sm.families.Binomial(), freq_weights=weight).fit(tol=1e-12)
        assert coefficients[:, lane] == pytest.approx(peer.params, abs=1e-7)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    peer.fit(design, outcome, weights[:, 0])
    assert coefficients[:, 0] == pytest.approx(peer.coef_[0], abs=1e-4)


def test_logistic_regression_without_rows_or_with_a_telling_column():
    design = np.array([[1.0, 0], [1, 0], [1, 1], [1, 1]])
    outcome = np.array([0.0, 1, 1, 1])
    weights = np.array([[1.0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]).T
    coefficients = logistic.fit(design, outcome, weights)
    chance = 1 / (1 + np.exp(-design @ coefficients))
    assert chance[:, 0] == pytest.approx([0.5, 0.5, 1, 1], abs=1e-8)
    assert np.isnan(coefficients[:, 1]).all()
    assert coefficients[:, 2] == pytest.approx([0, 0], abs=1e-12)
