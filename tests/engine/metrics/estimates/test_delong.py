import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import delong
from tests import oracles

TOY_TRUTH = np.array([1] * 6 + [0] * 7, bool)
TOY = [9.0, 8.0, 7.0, 7.0, 5.0, 3.0, 6.0, 5.0, 4.0, 3.0, 2.0, 2.0, 1.0], [7.0, 9.0, 4.0, 6.0, 3.0, 5.0, 8.0, 5.0, 4.0, 6.0, 2.0, 1.0, 3.0]  # fmt: skip


def test_paired_equals_published_arithmetic():
    test = delong.paired(TOY_TRUTH, *map(np.array, TOY))
    assert (test.first, test.second) == pytest.approx((0.8809523809523809, 0.6904761904761905), abs=1e-14)
    expected = [[0.009627739984882842, 0.008276643990929707], [0.008276643990929707, 0.023866213151927437]]
    assert test.covariance == pytest.approx(np.array(expected), abs=1e-15)
    assert (test.z, test.p) == pytest.approx((1.46344183996585, 0.14334651703627826), rel=1e-10)
    data = load_breast_cancer()
    columns = [
        data.data[:, list(data.feature_names).index(f"mean {name}")] for name in ("texture", "smoothness")
    ]
    test = delong.paired(data.target == 0, *columns)
    assert test.covariance[0, 1] == pytest.approx(-7.183488257780006e-05, rel=1e-9)
    assert (test.z, test.p) == pytest.approx((1.7133449373159102, 0.08664909979344877), rel=1e-9)
    assert test.value - test.low == pytest.approx(test.high - test.value)


def test_within_patients(rng):
    truth, first, second = rng.random(60) < 0.4, rng.normal(size=60), rng.normal(size=60)
    once = delong.paired(truth, first + truth, second + truth)
    tripled = [np.repeat(x, 3) for x in (truth, first + truth, second + truth, np.arange(60))]
    assert delong.paired(*tripled).covariance == pytest.approx(once.covariance, rel=1e-10)
    assert delong.paired(*tripled[:3]).covariance[0, 0] < 0.5 * once.covariance[0, 0]


def test_unpaired_adds_variances_and_refuses_shared_patients(rng):
    groups = []
    for size, start in ((50, 0), (70, 100)):
        truth = np.arange(size) % 3 == 0
        groups.append((truth, truth + rng.normal(size=size), np.arange(start, start + size)))
    test = delong.unpaired(*groups)
    variances = [oracles.obuchowski_variance(*map(list, g)) for g in groups]
    assert np.diag(test.covariance) == pytest.approx(variances, rel=1e-10) and test.covariance[0, 1] == 0
    assert test.z == pytest.approx(test.value / sum(variances) ** 0.5)
    truth, score, subject = groups[1]
    with pytest.raises(UserError, match="20 patients are in both groups"):
        delong.unpaired(groups[0], (truth, score, subject - 70))


def test_without_both_classes_is_nan():
    test = delong.paired(np.ones(4, bool), np.arange(4.0), np.arange(4.0))
    assert np.isnan([test.value, test.z, test.p]).all()
