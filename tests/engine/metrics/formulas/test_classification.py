import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import registry
from tests import oracles

# Threshold 0.5: TP 3 (0.9, 0.8, 0.5), FN 1 (0.4), FP 2 (0.6, 0.7), TN 2 (0.1, 0.2).
TRUTH = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
SCORE = np.array([0.9, 0.8, 0.5, 0.4, 0.6, 0.7, 0.1, 0.2])
BY_HAND = {
    "accuracy": 5 / 8,
    "balanced_accuracy": (3 / 4 + 2 / 4) / 2,
    "sensitivity": 3 / 4,
    "specificity": 2 / 4,
    "fpr": 2 / 4,
    "fnr": 1 / 4,
    "underdiagnosis_rate": 1 / 4,
    "ppv": 3 / 5,
    "npv": 2 / 3,
    "f1": 6 / 9,
    "mcc": (3 * 2 - 2 * 1) / math.sqrt(5 * 4 * 4 * 3),
    "selection_rate": 5 / 8,
    "auroc": 12 / 16,
    "auprc": (1 + 1 + 3 / 5 + 4 / 6) / 4,
    "brier": (0.01 + 0.04 + 0.25 + 0.36 + 0.36 + 0.49 + 0.01 + 0.04) / 8,
    "log_loss": -math.log(0.9 * 0.8 * 0.5 * 0.4 * 0.4 * 0.3 * 0.9 * 0.8) / 8,
    "sensitivity_at_specificity_0.90": 2 / 4,
    "sensitivity_at_specificity_0.5": 4 / 4,
    "specificity_at_sensitivity_0.90": 2 / 4,
    "specificity_at_sensitivity_0.5": 4 / 4,
    "ppv_at_prevalence_0.10": 0.75 * 0.1 / (0.75 * 0.1 + 0.5 * 0.9),
    "npv_at_prevalence_0.10": 0.5 * 0.9 / (0.5 * 0.9 + 0.25 * 0.1),
}
RANKED = ("auroc", "auprc", "sensitivity_at_specificity_0.90", "specificity_at_sensitivity_0.90")
SUMMED = tuple(name for name in BY_HAND if name not in RANKED and "_at_s" not in name)


def table(truth, score, threshold=0.5):
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    return {"truth": truth, "score": score, "called": score >= threshold}


def repeated(columns, weight):
    return {name: np.repeat(column, weight) for name, column in columns.items()}


@st.composite
def tables(draw, smallest=1):
    """Few distinct scores, so that most are ties; 0 and 1 among them; often of one class or one score."""
    n = draw(st.integers(smallest, 30))
    levels = draw(st.sampled_from([1, 2, 5, 50]))
    score = draw(st.lists(st.integers(0, levels), min_size=n, max_size=n))
    truth = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return table(truth, np.array(score) / levels, draw(st.sampled_from([0, 0.4, 0.5, 1])))


weighted_tables = tables().flatmap(
    lambda t: st.tuples(
        st.just(t), st.lists(st.integers(0, 3), min_size=len(t["truth"]), max_size=len(t["truth"]))
    )
)


def at_fixed(truth, score, least, swap):
    """Largest rate of one class among all thresholds at which the other's reaches ``least``, threshold by threshold."""
    best = math.nan
    for cut in [*score, math.inf]:
        called = score >= cut
        sensitivity, specificity = called[truth].mean(), (~called)[~truth].mean()
        kept, other = (sensitivity, specificity) if swap else (specificity, sensitivity)
        if kept >= least - 1e-12:
            best = other if math.isnan(best) else max(best, other)
    return best


def peers(t):
    """Scikit-learn's value of each metric, where it has one."""
    truth, score, called = t["truth"], t["score"], t["called"]
    both, positive, negative = truth.any() and not truth.all(), truth.any(), not truth.all()
    found = {
        "accuracy": peer.accuracy_score(truth, called),
        "brier": peer.brier_score_loss(truth, score),
        "log_loss": peer.log_loss(truth, score, labels=[False, True]),
        "selection_rate": called.mean(),
    }
    rate = lambda a, b, label: peer.recall_score(a, b, pos_label=label)  # noqa: E731
    if positive:
        found |= {"sensitivity": rate(truth, called, True), "fnr": 1 - rate(truth, called, True)}
        found |= {"auprc": peer.average_precision_score(truth, score)}
    if negative:
        found |= {"specificity": rate(truth, called, False), "fpr": 1 - rate(truth, called, False)}
    if called.any():
        found["ppv"] = peer.precision_score(truth, called)
    if not called.all():
        found["npv"] = peer.precision_score(truth, called, pos_label=False)
    if positive or called.any():
        found["f1"] = peer.f1_score(truth, called)
    if both:
        found |= {
            "auroc": peer.roc_auc_score(truth, score),
            "balanced_accuracy": peer.balanced_accuracy_score(truth, called),
            "sensitivity_at_specificity_0.90": at_fixed(truth, score, 0.9, False),
            "specificity_at_sensitivity_0.90": at_fixed(truth, score, 0.9, True),
        }
        if called.any() and not called.all():
            found["mcc"] = peer.matthews_corrcoef(truth, called)
    return found


@pytest.mark.parametrize("name", BY_HAND)
def test_every_metric_by_hand(name):
    assert registry.compute(name, table(TRUTH, SCORE)) == pytest.approx(BY_HAND[name], abs=1e-12)


@settings(deadline=None, max_examples=150)
@given(tables())
def test_every_metric_equals_its_peer_or_is_undefined(t):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of what it calls 0 and we call undefined
        expected = peers(t)
    for name in {*BY_HAND} - {"underdiagnosis_rate"}:
        if "prevalence" in name or name.endswith("_0.5"):
            continue
        value = registry.compute(name, t)
        assert value == pytest.approx(expected.get(name, math.nan), abs=1e-9, nan_ok=True), name


@settings(deadline=None, max_examples=60)
@given(weighted_tables)
def test_whole_weights_repeat_rows_and_zero_removes_them(case):
    t, weight = case
    for name in BY_HAND:
        found = registry.compute(name, t, np.array(weight, float))
        wanted = registry.compute(name, repeated(t, weight))
        assert found == pytest.approx(wanted, abs=1e-9, nan_ok=True), name


@settings(deadline=None, max_examples=60)
@given(tables())
def test_rates_of_one_class_add_to_one(t):
    rates = {name: registry.compute(name, t) for name in ("sensitivity", "fnr", "specificity", "fpr")}
    for one, other, there in (
        ("sensitivity", "fnr", t["truth"].any()),
        ("specificity", "fpr", not t["truth"].all()),
    ):
        assert rates[one] + rates[other] == pytest.approx(1 if there else math.nan, abs=1e-12, nan_ok=True)


@settings(deadline=None, max_examples=60)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_bit_of_a_rank(t, random):
    order = list(range(len(t["truth"])))
    random.shuffle(order)
    for name in RANKED:
        again = registry.compute(name, {k: v[order] for k, v in t.items()})
        assert again == pytest.approx(registry.compute(name, t), abs=1e-15, nan_ok=True)


def test_auroc_counts_ties_half(rng):
    t = table(rng.random(60) < 0.4, rng.integers(0, 5, 60) / 4)
    assert registry.compute("auroc", t) == pytest.approx(
        oracles.auroc_by_pairs(t["truth"], t["score"]), abs=1e-12
    )


def test_auroc_of_many_rows_equals_mid_ranks(rng):
    t = table(rng.random(50_000) < 0.1, rng.random(50_000).round(3))
    assert registry.compute("auroc", t) == pytest.approx(
        oracles.auroc_by_ranks(t["truth"], t["score"]), abs=1e-13
    )


@pytest.mark.parametrize(
    ("name", "truth", "score"),
    [
        ("sensitivity", [0, 0], [0.1, 0.9]), ("fnr", [0, 0], [0.1, 0.9]), ("specificity", [1, 1], [0.1, 0.9]),
        ("fpr", [1, 1], [0.1, 0.9]), ("ppv", [1, 0], [0.1, 0.1]), ("npv", [1, 0], [0.9, 0.9]), ("auroc", [1, 1], [0.1, 0.9]),
        ("auprc", [0, 0], [0.1, 0.9]), ("balanced_accuracy", [1, 1], [0.1, 0.9]), ("f1", [0, 0], [0.1, 0.1]),
        ("mcc", [0, 1], [0.1, 0.1]), ("accuracy", [], []), ("brier", [], []), ("log_loss", [], []), ("selection_rate", [], []),
        ("auroc", [], []), ("auprc", [], []), ("mcc", [], []), ("sensitivity_at_specificity_0.90", [], []),
        ("sensitivity_at_specificity_0.90", [1, 1], [0.1, 0.9]), ("specificity_at_sensitivity_0.90", [0, 0], [0.1, 0.9]),
        ("ppv_at_prevalence_0.10", [1, 0], [0.1, 0.1]), ("npv_at_prevalence_0.10", [1, 1], [0.1, 0.9]),
    ],
)  # fmt: skip
def test_absent_is_not_zero(name, truth, score):
    assert math.isnan(registry.compute(name, table(truth, score)))


def test_a_rate_reached_exactly_is_reached():
    truth, score = np.arange(200) < 100, np.arange(200)[::-1] % 100 / 100
    t = table(truth, score)
    # Of 100 negatives 55 lie below 0.55, where 45 positives do not: .55 is reached although .55 · 100 is above 55 in float64.
    assert 0.55 * 100 > 55
    assert registry.compute("sensitivity_at_specificity_0.55", t) == 0.45
    assert registry.compute("specificity_at_sensitivity_0.55", t) == 0.45


def test_predictive_values_at_the_prevalence_of_the_table_are_the_tables_own():
    t = table(TRUTH, SCORE)
    assert registry.compute("ppv_at_prevalence_0.5", t) == pytest.approx(registry.compute("ppv", t))
    assert registry.compute("npv_at_prevalence_0.5", t) == pytest.approx(registry.compute("npv", t))
    twice = repeated(t, 1 + 2 * ~t["truth"])
    assert registry.compute("ppv", twice) != registry.compute("ppv", t)
    assert registry.compute("ppv_at_prevalence_0.5", twice) == pytest.approx(registry.compute("ppv", t))


def test_prevalence_alone_moves_the_metrics_that_say_so():
    t = table(TRUTH, SCORE)
    rarer = repeated(t, 1 + 2 * ~t["truth"])
    for name in registry.names("binary"):
        if name in BY_HAND:
            moved = abs(registry.compute(name, rarer) - registry.compute(name, t)) > 1e-12
            assert moved == registry.get(name).depends_on_prevalence, name


@pytest.mark.parametrize("name", RANKED)
def test_ranks_in_jax_equal_numpy_for_many_weights_at_once(name, rng):
    t = table(rng.random(40) < 0.4, rng.integers(0, 7, 40) / 7)
    weights = rng.integers(0, 3, (40, 6)).astype(float)
    weights[t["truth"], 5] = 0
    metric = registry.get(name)
    prepared = metric.prepare(t)
    order = prepared.pop("row")
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(metric.weighted, (None, 1)))(prepared, jnp.asarray(weights[order]))
        assert found.dtype == jnp.float64
    expected = [registry.compute(name, t, weight) for weight in weights.T]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    assert math.isnan(expected[-1])


@pytest.mark.parametrize("name", RANKED)
def test_prepared_rows_may_be_cut_and_padded(name, rng):
    t = table(rng.random(40) < 0.4, rng.integers(0, 7, 40) / 7)
    metric = registry.get(name)
    prepared = metric.prepare(t)
    order = prepared.pop("row")
    inside = np.sort(rng.permutation(40)[:25])
    place = np.flatnonzero(np.isin(order, inside))
    place = np.append(place, [place[-1]] * 5)
    weight = np.append(np.ones(25), np.zeros(5))
    found = metric.weighted({k: v[place] for k, v in prepared.items()}, weight)
    assert found == pytest.approx(registry.compute(name, {k: v[inside] for k, v in t.items()}), abs=1e-14)


@pytest.mark.parametrize("name", SUMMED)
def test_sums_in_jax_equal_numpy_in_any_shape(name, rng):
    metric, parts = registry.get(name), registry.components(table(TRUTH, SCORE))
    weights = rng.integers(0, 2, (3, 4, 8)).astype(float)
    weights[0, 0] = 0
    sums = {part: weights @ parts[part] for part in metric.components}
    found = metric.of_sums(sums)
    assert found.shape == (3, 4) and math.isnan(found[0, 0])
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(metric.of_sums)(sums), found, atol=1e-14)


def test_a_proportion_of_one_image_is_one_zero_or_nothing():
    parts = registry.components(table(TRUTH, SCORE))
    proportions = [registry.get(n) for n in SUMMED if registry.get(n).kind == "proportion"]
    assert {m.name for m in proportions} == {
        "accuracy", "sensitivity", "specificity", "fpr", "fnr", "ppv", "npv", "selection_rate", "underdiagnosis_rate"
    }  # fmt: skip
    for metric in proportions:
        each = metric.of_sums({part: parts[part] for part in metric.components})
        assert set(each[np.isfinite(each)]) <= {0, 1}
        assert np.nanmean(each) == pytest.approx(BY_HAND[metric.name])


@pytest.mark.parametrize("number", ["0", "1", "1.5", "90"])
def test_shares_outside_zero_and_one_are_refused(number):
    for stem in (
        "sensitivity_at_specificity",
        "specificity_at_sensitivity",
        "ppv_at_prevalence",
        "npv_at_prevalence",
    ):
        with pytest.raises(UserError, match="between 0 and 1"):
            registry.get(f"{stem}_{number}")
