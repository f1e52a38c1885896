import numpy as np
import pytest

from equipoise.engine.metrics.estimates import chance, intervals, percentiles


def proportion(success):
    code, _ = intervals.subject_codes([str(i) for i in range(len(success))])
    return intervals.proportion(np.asarray(success, bool), code)


def test_replicates_of_equal_groups_by_hand():
    draws = np.array([[0.7, 0.9, np.nan, 0.8], [0.4, 0.5, 0.6, 0.5]])
    estimates = [
        percentiles.bootstrap(v, d, 9, patients, 3)
        for v, d, patients in ((0.8, draws[0], 5), (0.5, draws[1], 2))
    ]
    equal = chance.equal_replicates(estimates, draws, 0.6)
    deviations = np.array([[-0.1, 0.1, np.nan, 0], [-0.1, 0, 0.1, 0]]) * np.sqrt([[5 / 4], [2 / 1]])
    np.testing.assert_allclose(equal, 0.6 + deviations)
    ranges = np.ptp(equal, axis=0)  # .030, .112, nan, 0
    assert chance.band(ranges)[0] == pytest.approx((0.1 * 2**0.5 - 0.1 * 1.25**0.5 + 0.1 * 1.25**0.5) / 3)
    assert chance.range_p([0.8, 0.77], equal) == (1 + 1) / (3 + 1)
    assert np.isnan(chance.band(np.full(3, np.nan))).all() and np.isnan(
        chance.range_p([0, 1], np.full((2, 3), np.nan))
    )


def test_a_share_of_one_varies_by_chance_as_its_interval_says():
    whole, half = proportion(np.ones(20, bool)), proportion(np.arange(20) < 10)
    draws = np.stack([np.ones(1000), 0.5 + 0.1 * np.tile([-1, 1], 500)])
    equal = chance.equal_replicates([whole, half], draws, 0.7)
    assert equal[0].mean() == pytest.approx(0.7) and equal[0].std() == pytest.approx(whole.se, rel=0.01)
    assert abs(np.corrcoef(equal)[0, 1]) < 0.1
