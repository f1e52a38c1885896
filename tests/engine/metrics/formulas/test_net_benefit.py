import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import net_benefit as decision
from equipoise.engine.metrics.formulas import registry

TRUTH = np.array([1, 1, 0, 0, 0], bool)
SCORE = np.array([0.9, 0.1, 0.2, 0.4, 0.05])
TABLE = {"truth": TRUTH, "score": SCORE, "called": SCORE >= 0.5}


def test_by_hand():
    # At .2 three are treated: one rightly, two wrongly, each of whom weighs a quarter.
    assert registry.compute("net_benefit_0.2", TABLE) == pytest.approx(1 / 5 - 2 / 5 / 4)
    found = decision.curve(TRUTH, SCORE, [0, 0.2, 0.95])
    np.testing.assert_allclose(found.model, [2 / 5, 1 / 5 - 2 / 5 / 4, 0])
    np.testing.assert_allclose(found.everyone, [2 / 5, 2 / 5 - 3 / 5 / 4, 2 / 5 - 3 / 5 * 19])


def test_treating_everyone_and_no_one():
    thresholds = np.linspace(0.01, 0.9, 20)
    all_treated = decision.curve(TRUTH, np.ones(5), thresholds)
    np.testing.assert_allclose(all_treated.model, all_treated.everyone)
    assert (decision.curve(TRUTH, np.zeros(5), thresholds).model == 0).all()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.7, 1.0]), st.integers(0, 3)), min_size=1, max_size=30),
    st.sampled_from([0.1, 0.25, 0.5, 0.7]),
)  # fmt: skip
def test_curve_and_metric_count_the_same(rows, threshold):
    truth, score, weight = (np.array(x) for x in zip(*rows, strict=True))
    weight = weight.astype(float)
    table = {"truth": truth, "score": score, "called": score >= 0.5}
    found = registry.compute(f"net_benefit_{threshold}", table, weight)
    curve = decision.curve(truth, score, [threshold], weight)
    assert curve.model[0] == pytest.approx(found, nan_ok=True)
    if weight.sum():
        treated = score >= threshold
        right, wrong = weight[truth & treated].sum(), weight[~truth & treated].sum()
        assert found == pytest.approx((right - wrong * threshold / (1 - threshold)) / weight.sum())
    else:
        assert math.isnan(found)


def test_jax_gives_what_numpy_gives():
    metric, weight = (
        registry.get("net_benefit_0.1"),
        np.array([[1.0, 2, 0], [0, 1, 0], [1, 1, 0], [3, 0, 0], [1, 1, 0]]),
    )
    prepared = metric.prepare(TABLE)
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(metric.weighted, in_axes=(None, 1)))(prepared, weight)
    np.testing.assert_allclose(found, [metric.weighted(prepared, w) for w in weight.T])


@pytest.mark.parametrize("name", ["net_benefit_0", "net_benefit_1", "net_benefit_30"])
def test_a_threshold_is_a_probability(name):
    with pytest.raises(UserError, match="between 0 and 1"):
        registry.get(name)
    with pytest.raises(UserError, match="below 1"):
        decision.curve(TRUTH, SCORE, [1.0])
