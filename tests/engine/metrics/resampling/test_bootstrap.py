import jax
import numpy as np
import pytest
from scipy import stats

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import percentiles
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.resampling import weighing
from tests import oracles

METRICS = ("sensitivity", "accuracy", "f1", "brier", "auroc", "auprc")


def columns_of(truth, score, threshold=0.5):
    truth, score = np.asarray(truth, bool), np.asarray(score, float)
    columns = {"truth": truth, "score": score, "called": score >= threshold}
    return columns | registry.components(columns)


def draw_table(rng, patients, images, decimals=16):
    """(columns, patient of each row, group of each row): patients' images agree in class and lean together."""
    code = np.repeat(np.arange(patients), images)
    truth = np.repeat(rng.random(patients) < 0.4, images)
    group = np.repeat(rng.integers(0, 3, patients), images)
    logit = truth * 1.2 + np.repeat(rng.normal(size=patients), images) + rng.normal(size=len(code)) - 0.6
    return columns_of(truth, (1 / (1 + np.exp(-logit))).round(decimals)), code, group


def run(columns, code, group, metrics=METRICS, resamples=150, seed=3, patients=None):
    patients = code.max() + 1 if patients is None else patients
    groupings = [(np.zeros(len(code), int), 1), (group, 3)]
    return resample.Bootstrap({"m": columns}, metrics, code, patients, groupings, resamples, seed)


def rows_of(columns, rows):
    return {name: column[rows] for name, column in columns.items()}


@pytest.mark.parametrize("decimals", [16, 1])  # the latter ties scores across classes
def test_replicates_equal_an_explicit_resampling_of_the_same_draws(rng, decimals):
    columns, code, group = draw_table(rng, 60, 2, decimals)
    found = run(columns, code, group)
    counts = resample.draw(60, 0, 150, 3)
    assert found.replicates["m", "auroc"].shape == (4, 150)
    for number, rows in enumerate([slice(None), *(group == g for g in range(3))]):
        inside, who = rows_of(columns, rows), code[rows]
        for name in METRICS:
            assert found.values["m", name][number] == pytest.approx(registry.compute(name, inside), abs=1e-12)
            twin = oracles.bootstrap(
                lambda x, name=name: registry.compute(name, x), inside, who, counts[:-1, ::10]
            )
            assert found.replicates["m", name][number, ::10] == pytest.approx(twin, abs=1e-10), name


@pytest.mark.parametrize(
    "name", ["auprc", "calibration_intercept", "calibration_slope", "sensitivity_at_specificity_0.90", "specificity_at_sensitivity_0.80"]
)  # fmt: skip
def test_bins_of_large_sets_change_no_limit(rng, name, monkeypatch):
    """Rows of neighbouring scores that are weighed together: the value is exact, replicates and limits hardly move."""
    columns, code, group = draw_table(rng, 3000, 2)
    binned = run(columns, code, group, (name,), resamples=300)
    monkeypatch.setattr(weighing, "_LARGE", len(code))
    exact = run(columns, code, group, (name,), resamples=300)
    assert binned.values["m", name] == pytest.approx(exact.values["m", name], abs=1e-9)
    a, b = binned.replicates["m", name][0], exact.replicates["m", name][0]
    assert np.std(a - b) < 0.06 * b.std() and abs((a - b).mean()) < 0.02 * b.std()
    assert a.std() == pytest.approx(b.std(), rel=0.01)


def test_bins_never_part_equal_scores(rng):
    columns, code, group = draw_table(rng, 3000, 2, decimals=2)  # 101 scores at most: bins hold whole scores
    for name in ("auprc", "calibration_slope"):
        binned = run(columns, code, group, (name,), resamples=20)
        counts = resample.draw(3000, 0, 20, 3)[:-1]
        for lane in (0, 7, 19):
            twin = registry.compute(name, columns, counts[code, lane].astype(float))
            assert binned.replicates["m", name][0, lane] == pytest.approx(twin, abs=1e-9), name


def test_drawing_profiles_is_drawing_patients(rng):
    columns, code, group = draw_table(rng, 1500, 1)
    metrics = ("sensitivity", "accuracy", "f1")
    found = run(columns, code, group, metrics, resamples=2000)
    assert len(found._sums[0][1].profiles) == 12  # 3 groups x called or not x positive or not
    totals = resample.draw(1500, 0, 2000, 9)[:-1].T.astype(float)
    for number, rows in enumerate([slice(None), *(group == g for g in range(3))]):
        for name in metrics:
            parts = {c: totals[:, code[rows]] @ columns[c][rows] for c in registry.get(name).components}
            assert (
                stats.ks_2samp(registry.get(name).of_sums(parts), found.replicates["m", name][number]).pvalue
                > 1e-3
            )
    gap = found.replicates["m", "accuracy"]
    assert np.corrcoef(gap[1], gap[2])[0, 1] == pytest.approx(0, abs=0.08)
    assert np.corrcoef(gap[0], gap[1])[0, 1] > 0.4  # everyone holds the group: one draw serves both


def test_replicates_ignore_row_order_the_chunk_and_their_number(rng, monkeypatch):
    columns, code, group = draw_table(rng, 80, 2)
    whole = run(columns, code, group, resamples=200)
    mixed = rng.permutation(len(code))
    again = run(rows_of(columns, mixed), code[mixed], group[mixed], resamples=200)
    for key, values in whole.replicates.items():
        assert again.replicates[key] == pytest.approx(values, abs=1e-12, nan_ok=True), key
    monkeypatch.setattr(resample, "LANES", 64)
    chunked = run(columns, code, group, resamples=70)
    for key, values in whole.replicates.items():
        assert chunked.replicates[key] == pytest.approx(values[:, :70], abs=1e-14, nan_ok=True), key
    assert not np.array_equal(
        run(columns, code, group, seed=4).replicates["m", "auroc"], whole.replicates["m", "auroc"][:, :150]
    )


def test_draws_are_whole_samples_of_patients():
    counts = resample.draw(50, 0, 3000, 0)
    assert counts.shape == (51, 3000) and (counts[-1] == 0).all() and (counts.sum(axis=0) == 50).all()
    assert np.array_equal(counts[:, 100:130], resample.draw(50, 100, 30, 0))
    assert counts[:-1].mean(axis=1) == pytest.approx(np.ones(50), abs=0.1)
    assert counts[:-1].var() == pytest.approx(1 - 1 / 50, rel=0.03)  # binomial(50, 1/50)


def test_images_of_one_patient_widen_the_interval(rng):
    columns, code, group = draw_table(rng, 150, 4)
    clustered = run(columns, code, group, resamples=400)
    apart = run(columns, np.arange(len(code)), group, resamples=400)
    for name in METRICS:
        assert clustered.replicates["m", name][0].std() > 1.3 * apart.replicates["m", name][0].std(), name


def test_models_share_their_draws(rng):
    columns, code, group = draw_table(rng, 400, 1)
    better = columns_of(columns["truth"], np.clip(columns["score"] + 0.02 * (rng.random(400) - 0.5), 0, 1))
    both = resample.Bootstrap(
        {"a": columns, "b": better}, ("auroc", "brier", "sensitivity"), code, 400, [(group, 3)], 300, 0
    )
    for name in ("auroc", "brier", "sensitivity"):
        a, b = both.replicates["a", name][0], both.replicates["b", name][0]
        assert (a - b).std() < 0.4 * a.std(), name


def test_a_missing_group_is_nan_and_counted(rng):
    columns, code, _ = draw_table(rng, 30, 1)
    group = np.where(code == 7, 1, 0)
    group[code == 8] = 2
    found = run(columns, code, group, ("accuracy", "brier"), resamples=1000)
    for name in ("accuracy", "brier"):
        valid = np.isfinite(found.replicates["m", name]).sum(axis=1)
        assert valid[0] == 1000 and valid[2] == pytest.approx(1000 * (1 - (1 - 1 / 30) ** 30), abs=60)
    estimate = percentiles.bootstrap(0.2, found.replicates["m", "brier"][2], 1, 2, 1, "no image")
    assert estimate.b_valid == valid[2] and "resamples are undefined (no image)" in estimate.reason
    assert np.isnan(estimate.limits(0.95)).all()


def test_an_empty_group_and_one_class_are_nan(rng):
    columns, code, _ = draw_table(rng, 40, 1)
    group = np.where(columns["truth"], 0, 1)
    found = run(columns, code, group)
    assert (
        np.isnan(found.values["m", "auroc"][1:]).all() and np.isnan(found.replicates["m", "auroc"][1:]).all()
    )
    assert np.isnan(found.values["m", "accuracy"][3]) and np.isnan(found.values["m", "sensitivity"][2])
    assert np.isfinite(found.values["m", "accuracy"][:3]).all()


@pytest.mark.parametrize("name", ["brier", "auroc", "sensitivity"])
def test_left_out_values_equal_an_explicit_jackknife(rng, name):
    patients = 70 if name != "sensitivity" else 300
    columns, code, group = draw_table(rng, patients, 1 if name == "sensitivity" else 2)
    found = run(columns, code, group, (name,), resamples=10)
    for number, rows in ((0, slice(None)), (2, group == 1)):
        values, count = found.leave_one_out(("m", name), number)
        inside, who = rows_of(columns, rows), code[rows]
        twin = [registry.compute(name, rows_of(inside, who != p)) for p in range(patients)]
        assert count.sum() == patients
        assert np.sort(np.repeat(values, count)) == pytest.approx(np.sort(twin), abs=1e-12)


def test_bca_equals_scipy(rng):
    truth, score = rng.random(120) < 0.3, rng.random(120) ** 3
    columns, code = columns_of(truth, score), np.arange(120)
    found = run(columns, code, np.zeros(120, int), ("brier",), resamples=4000)
    value = found.values["m", "brier"][0]
    left_out = found.leave_one_out(("m", "brier"), 0)
    for method, left in (("percentile", None), ("BCa", left_out)):
        peer = stats.bootstrap(
            (columns["squared_error"],),
            np.mean,
            n_resamples=4000,
            method=method,
            rng=np.random.default_rng(1),
        ).confidence_interval
        ours = percentiles.limits_of(value, found.replicates["m", "brier"][0], 0.95, left)
        assert ours == pytest.approx((peer.low, peer.high), abs=0.08 * (peer.high - peer.low)), method
        # The same replicates give the same limits.
        own = stats.bootstrap(
            (columns["squared_error"],), np.mean, n_resamples=0, method=method, rng=np.random.default_rng(1),
            bootstrap_result=type("Result", (), {"bootstrap_distribution": found.replicates["m", "brier"][0]})(),
        ).confidence_interval  # fmt: skip
        assert ours == pytest.approx((own.low, own.high), abs=1e-9), method


def test_bca_of_equal_values_left_out_is_the_bias_corrected_percentile(rng):
    replicates = rng.normal(0.1, 1, 4000)
    limits = percentiles.limits_of(0.0, replicates, 0.9, (np.ones(10), np.ones(10)))
    shift = stats.norm.ppf((replicates < 0).mean())
    assert limits == pytest.approx(
        np.quantile(replicates, stats.norm.cdf(2 * shift + stats.norm.ppf([0.05, 0.95])))
    )
    assert np.isnan(percentiles.limits_of(0.0, replicates, 0.9, (np.array([np.nan, 1]), np.ones(2)))).all()


def test_tails_beyond_the_replicates_are_normal(rng):
    replicates = rng.normal(size=100)
    low, high = percentiles.limits_of(0.0, replicates, 0.999)
    assert high == pytest.approx(3.29 * replicates.std(), rel=1e-2) and low == pytest.approx(-high)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("worst_group:auroc", "comparisons.worst_group"),
        ("max_min:sensitivity", "comparisons.max_min"),
        ("range", "comparisons.max_min"),
        ("max_over_min:fpr", "comparisons.min_over_max"),
        ("sd:auroc", "comparisons.sd"),
        ("equity_scaled_sum:auroc", "comparisons.equity_scaled_sum"),
    ],
)
def test_extremes_are_refused_with_the_construction_that_covers(name, remedy):
    with pytest.raises(UserError, match="no bootstrap interval") as refused:
        resample.require_smooth(name)
    assert remedy in str(refused.value)


def test_an_unknown_metric_is_refused(rng):
    columns, code, group = draw_table(rng, 5, 1)
    with pytest.raises(UserError, match="Did you mean 'auroc'"):
        run(columns, code, group, ("aurocc",))


def test_the_precision_of_the_session_is_left_alone(rng):
    columns, code, group = draw_table(rng, 20, 1)
    run(columns, code, group, resamples=10)
    assert jax.numpy.zeros(1).dtype == np.float32


def test_interval_of_a_gap_covers(rng):
    """Percentile limits of a gap in Brier scores between two groups of patients with two images each."""
    covered = 0
    for _ in range(150):
        truth = np.repeat(rng.random(300) < 0.4, 2)
        group = np.repeat(np.arange(300) < 100, 2).astype(int)
        lean = np.repeat(rng.normal(size=300), 2)
        score = 1 / (1 + np.exp(-(1.5 * truth - 0.7 + 0.5 * lean + (1 + group) * 0.5 * rng.normal(size=600))))
        columns, code = columns_of(truth, score), np.repeat(np.arange(300), 2)
        found = resample.Bootstrap({"m": columns}, ["brier"], code, 300, [(group, 2)], 400, 0)
        gaps = np.subtract(*found.replicates["m", "brier"][::-1])
        low, high = np.quantile(gaps, [0.025, 0.975])
        covered += low <= _TRUE_GAP <= high
    assert 0.89 <= covered / 150 <= 0.99


def _brier(noise, points=200):
    """Expected Brier score of the model above, by Gauss-Hermite quadrature over lean and noise together."""
    z, weight = np.polynomial.hermite_e.hermegauss(points)
    mean = 0.0
    for outcome, share in ((1, 0.4), (0, 0.6)):
        score = 1 / (1 + np.exp(-(1.5 * outcome - 0.7 + np.hypot(0.5, noise) * z)))
        mean += share * (weight * (score - outcome) ** 2).sum() / weight.sum()
    return mean


_TRUE_GAP = _brier(1.0) - _brier(0.5)
