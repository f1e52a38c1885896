import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import special, stats
from statsmodels.stats.anova import anova_lm

from equipoise.engine.metrics.estimates import comparisons, intervals, percentiles, seeds
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.resampling import bootstrap as resample


def mean_of(values, code=None):
    """The mean of one number of each patient as an estimate."""
    n = len(values)
    value, se = float(values.mean()), float(values.std(ddof=1) / np.sqrt(n))

    def limits(confidence):
        half = special.ndtri(0.5 + confidence / 2) * se
        return value - half, value + half

    influence = np.arange(n), (values - value) / n
    return Estimate(value, n, n, n, se, "mean", limits, influence)


def layout(rng, runs=6, n=40):
    return rng.normal(0, 1, (runs, 1)) + rng.normal(0, 2, n) + rng.normal(0, 1.5, (runs, n))


def test_the_split_of_variance_is_that_of_a_two_way_analysis_of_variance(rng):
    y = layout(rng)
    runs, n = y.shape
    mean = seeds.over_seeds([mean_of(row) for row in y])
    rows = pd.DataFrame(
        {"y": y.ravel(), "seed": np.repeat(np.arange(runs), n), "who": np.tile(np.arange(n), runs)}
    )
    table = anova_lm(smf.ols("y ~ C(seed) + C(who)", rows).fit())
    ms_seed, ms_who, ms_rest = table["mean_sq"]
    assert mean.variance_both == pytest.approx(ms_rest / n)
    assert mean.variance_seed == pytest.approx((ms_seed - ms_rest) / n)
    assert mean.variance_patients == pytest.approx((ms_who - ms_rest) / (runs * n))
    assert mean.estimate.se**2 == pytest.approx((ms_seed + ms_who - ms_rest) / (runs * n))
    assert mean.seed_sd == pytest.approx(y.mean(axis=1).std(ddof=1))


def test_the_split_of_a_bootstrap_is_that_of_influences(rng):
    y = layout(rng, 5, 120)
    counts = resample.draw(120, 0, 4000, 3)[:-1].astype(float)
    replicates = y @ counts / 120
    drawn = [
        percentiles.bootstrap(float(v.mean()), r, 120, 120, 120) for v, r in zip(y, replicates, strict=True)
    ]
    ours, theirs = seeds.over_seeds(drawn), seeds.over_seeds([mean_of(v) for v in y])
    for name in ("variance_seed", "variance_patients", "variance_both"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=0.1)
    assert ours.estimate.limits(0.95) == pytest.approx(theirs.estimate.limits(0.95), abs=0.05)


def test_without_a_patients_part_the_interval_is_students(rng):
    values = rng.normal(0, 1, 5)
    runs = [mean_of(np.full(50, v)) for v in values]
    mean = seeds.over_seeds(runs)
    half = stats.t.ppf(0.975, 4) * values.std(ddof=1) / np.sqrt(5)
    assert mean.estimate.limits(0.95) == pytest.approx((values.mean() - half, values.mean() + half))
    assert mean.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_equal_runs_keep_the_patients_own_limits(rng):
    code = np.arange(60) // 2
    one = intervals.proportion(rng.random(60) < 0.8, code)
    mean = seeds.over_seeds([one] * 4)
    assert mean.seed_sd == 0 and mean.estimate.limits(0.95) == pytest.approx(one.limits(0.95))
    always = intervals.proportion(np.ones(60, bool), code)  # no run moves: their correlation is unknown
    assert seeds.over_seeds([always] * 4).estimate.limits(0.9) == pytest.approx(always.limits(0.9))


def test_a_combination_of_two_is_the_difference_of_two(rng):
    a, b = (intervals.proportion(rng.random(50) < p, np.arange(50)) for p in (0.8, 0.6))
    combined = seeds.combination((a, b), (1, -1))
    assert (combined.value, *combined.limits(0.9)) == pytest.approx(comparisons.difference(a, b, 0.9))
    third = intervals.proportion(rng.random(50) < 0.7, np.arange(50))
    total = seeds.combination((a, b, third), (1, -1, 2))
    assert total.value == pytest.approx(a.value - b.value + 2 * third.value)
    assert total.se**2 == pytest.approx(
        a.se**2 + b.se**2 + 4 * third.se**2 - 2 * intervals.correlation(a, b) * a.se * b.se
        + 4 * intervals.correlation(a, third) * a.se * third.se - 4 * intervals.correlation(b, third) * b.se * third.se
    )  # fmt: skip


def test_one_seed_says_nothing_of_seeds(rng):
    mean = seeds.over_seeds([mean_of(rng.normal(0, 1, 30))])
    assert np.isnan(mean.seed_sd) and np.isnan(mean.estimate.limits(0.95)).all()
    assert mean.estimate.reason == seeds.ONE_SEED and np.isnan(mean.p)
    assert mean.sample_sd > 0 and np.isfinite(mean.sample.limits(0.95)).all()


def test_a_run_without_a_value_is_not_skipped(rng):
    missing = intervals.undefined("no positive call", 30, 30, 0)
    mean = seeds.over_seeds([mean_of(rng.normal(0, 1, 30)), missing, missing])
    assert np.isnan(mean.estimate.value) and mean.estimate.reason == "undefined in 2 of 3: no positive call"


def test_the_interval_excludes_0_exactly_where_p_is_below_5_percent(rng):
    for _ in range(200):
        mean = seeds.over_seeds([mean_of(v) for v in layout(rng, 4, 30) / 3 + rng.normal(0, 1.2)])
        low, high = mean.estimate.limits(0.95)
        assert (mean.p < 0.05) == (low > 0 or high < 0)


def test_limits_stay_within_bounds(rng):
    runs = [intervals.proportion(rng.random(40) < p, np.arange(40)) for p in (0.99, 0.7, 0.99)]
    low, high = seeds.over_seeds(runs, (0, 1)).estimate.limits(0.95)
    assert 0 <= low < high <= 1


# Coverage. The truth is a closed form: seeds, patients and what is of both are normal.

SEED, PATIENT, BOTH = 0.25, 0.8, 0.6
MEANS = (1.0, 0.7)


def truth(kind, mean):
    """Of the mean over all seeds and patients."""
    variance = SEED**2 + (1 if kind == "accuracy" else 2) * (PATIENT**2 + BOTH**2)
    return float(special.ndtr(mean / np.sqrt(variance)))


class Study:
    """Runs of two methods with the same seeds on the same patients, of three groups that are served alike."""

    def __init__(self, rng, runs, n):
        self.code = np.repeat(np.arange(n), rng.integers(1, 4, n))
        self.sick = (rng.random(n) < 0.4)[self.code]
        self.group = rng.choice(3, n, p=[0.5, 0.3, 0.2])[self.code]
        patient = rng.normal(0, PATIENT, n)[self.code]
        common = rng.normal(0, SEED * np.sqrt(0.5), runs)  # half of what a seed does, it does to both methods
        self.effect = [mean + common + rng.normal(0, SEED * np.sqrt(0.5), runs) for mean in MEANS]
        self.noise = [patient + rng.normal(0, BOTH, (runs, len(patient))) for _ in MEANS]

    def runs(self, kind, method, group=None):
        """Estimates of each run."""
        rows = np.ones(len(self.code), bool) if group is None else self.group == group
        pairs = zip(self.effect[method], self.noise[method], strict=True)
        if kind == "accuracy":
            return [
                intervals.proportion(effect + noise[rows] > 0, self.code[rows]) for effect, noise in pairs
            ]
        return [
            intervals.area(self.sick[rows], (effect * self.sick + noise)[rows], self.code[rows])
            for effect, noise in pairs
        ]


def crossed_percentiles(study, rng, draws=200):
    """Limits of the mean accuracy by drawing seeds and patients: what is commonly done."""
    n, runs = study.code.max() + 1, len(study.effect[0])
    right = np.array(
        [np.bincount(study.code, e + x > 0, n) for e, x in zip(study.effect[0], study.noise[0], strict=True)]
    )
    who = rng.multinomial(n, np.full(n, 1 / n), draws)
    which = rng.multinomial(runs, np.full(runs, 1 / runs), draws)
    drawn = ((which @ right) * who).sum(1) / runs / (who @ np.bincount(study.code, minlength=n))
    return np.quantile(drawn, (0.025, 0.975))


def coverage(kind, runs, n, sets):
    """Share of data sets in which 95 % limits hold what they are of."""
    hits = dict.fromkeys(("mean", "difference", "worst group", "range", "crossed percentiles"), 0)
    first, second = (truth(kind, mean) for mean in MEANS)
    for number in range(sets):
        rng = np.random.default_rng([number, runs])
        study = Study(rng, runs, n)
        a, b = study.runs(kind, 0), study.runs(kind, 1)
        apart = [seeds.combination(pair, (1, -1)) for pair in zip(a, b, strict=True)]
        groups = [study.runs(kind, 0, group) for group in range(3)]
        limits = {
            "mean": (first, *seeds.over_seeds(a, (0, 1)).estimate.limits(0.95)),
            "difference": (first - second, *seeds.over_seeds(apart).estimate.limits(0.95)),
            "worst group": (
                first,
                *comparisons.worst_group([seeds.over_seeds(g, (0, 1)).estimate for g in groups], True)[1:],
            ),
            "range": (0, *seeds.largest_difference(groups)[1:]),
        }
        if kind == "accuracy":
            limits["crossed percentiles"] = (first, *crossed_percentiles(study, rng))
        for name, (true, low, high) in limits.items():
            hits[name] += low <= true <= high
    return {name: count / sets for name, count in hits.items()}


def test_a_small_simulation_covers():
    covered = coverage("accuracy", 6, 100, 100)  # Monte-Carlo error 2.2 points
    assert covered["mean"] > 0.88 and covered["difference"] > 0.88
    assert covered["worst group"] > 0.9 and covered["range"] > 0.9
    assert covered["crossed percentiles"] < covered["mean"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["accuracy", "auroc"])
@pytest.mark.parametrize("runs", [6, 10])
def test_the_intervals_cover(kind, runs):
    covered = coverage(kind, runs, 300, 2000)  # Monte-Carlo error 0.5 points
    assert 0.93 <= covered["mean"] <= 0.97 and 0.93 <= covered["difference"] <= 0.97
    assert covered["worst group"] >= 0.93 and covered["range"] >= 0.93
