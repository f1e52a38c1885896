import numpy as np
import pandas as pd
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.comparing import hypotheses
from equipoise.engine.metrics.estimates import comparisons, multiplicity
from equipoise.engine.metrics.estimates.mcnemar import mcnemar
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.frames.cells import Rows
from equipoise.engine.metrics.resampling import permutation
from equipoise.engine.metrics.table.table import Schema, Table, validate
from tests.engine.metrics.resampling.test_permutation import slow_statistic

SITES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def table():
    """400 patients with one or two images at four sites or none known; site d is served worse by the first model alone."""
    rng = np.random.default_rng(2)
    patient = np.repeat(np.arange(400), rng.integers(1, 3, 400))
    n = len(patient)
    site = rng.choice([*SITES, "unknown"], 400, p=[0.4, 0.25, 0.15, 0.15, 0.05])[patient]
    truth, lean = (rng.random(400) < 0.5)[patient], 0.7 * rng.normal(size=400)[patient]
    scores = {
        name: 1 / (1 + np.exp(-(2 * truth - 1 + lean + rng.normal(size=n) - worse * truth * (site == "d"))))
        for name, worse in (("first", 2.0), ("second", 0.3))
    }
    schema = Schema(
        "classification", "disease", ("absent", "present"), "present", {"site": [*SITES, "unknown"], "sex": ["F", "M"]},
        ("first", "second"), {name: (name,) for name in scores},
    )  # fmt: skip
    values = pd.DataFrame(scores).assign(
        site=site, sex=rng.choice(["F", "M"], 400)[patient], target=truth.astype(int), scan_id=[f"s{i}" for i in range(n)],
        subject_id=[f"p{i}" for i in patient], cohort="x", split="test", threshold=0.5, threshold_split="validation",
        checkpoint_step=1, checkpoint_fingerprint="f", config_fingerprint="g",
    )  # fmt: skip
    return Table(validate(values, schema, "t"), schema)


@pytest.fixture(scope="module")
def frames(table):
    return frame.evaluate_models(table, metrics=("sensitivity", "auroc", "brier", "ece"), resamples=400)


def test_against_a_reference_is_the_frame_adjusted_for_all(table, frames):
    records = hypotheses.compare_groups(table, ("sensitivity", "auroc"), "site", reference="b")
    assert list(records) == [f"difference:{m}:{s}-b" for m in ("sensitivity", "auroc") for s in "acd"]
    groups = frames["first"].groups["site"]
    for name, one in records.items():
        metric, level = name.split(":")[1], one.levels[0]
        pair = groups[level][metric], groups["b"][metric]
        assert (one.value, one.low, one.high) == pytest.approx(comparisons.difference(*pair))
        assert one.p == comparisons.p_value(*pair)[0]
        assert one.test == "inverted MOVER interval; p adjusted by Holm"
    assert [one.p_adjusted for one in records.values()] == multiplicity.holm(
        [one.p for one in records.values()]
    )
    loose = hypotheses.compare_groups(table, ("sensitivity", "auroc"), "site", reference="b", adjust="bh")
    assert [d.p_adjusted for d in loose.values()] == multiplicity.benjamini_hochberg(
        [d.p for d in records.values()]
    )
    assert records["difference:sensitivity:d-b"].p_adjusted < 0.05


def test_the_rest_is_everyone_else_of_known_group(table, frames):
    rows = table.frame
    called = (rows["first"] >= 0.5) & (rows["target"] == 1)
    disparities = frames["first"].disparities["site"]
    for level in SITES:
        inside = (rows["target"] == 1) & (rows["site"] == level)
        others = (rows["target"] == 1) & rows["site"].isin(set(SITES) - {level})
        gap = called[inside].mean() - called[others].mean()
        assert disparities[f"to_rest:sensitivity:{level}"].value == pytest.approx(gap)
        assert frames["first"].rests["site"][level]["sensitivity"].n == others.sum()
    names = [f"to_rest:sensitivity:{level}" for level in SITES]
    assert [disparities[k].p_adjusted for k in names] == multiplicity.holm([disparities[k].p for k in names])
    assert disparities["to_rest:sensitivity:d"].p_adjusted < 0.01
    assert (
        "to_rest:auroc:a" in disparities and "to_rest:brier:a" not in disparities
    )  # resamples are asked for
    assert not any(name.startswith("to_rest:") for name in frames["first"].disparities["sex"])
    two = frames["first"]
    assert two.rests["sex"]["F"]["brier"] is two.groups["sex"]["M"]["brier"]


def test_the_rest_of_a_bootstrapped_score(table):
    records = hypotheses.compare_groups(table, ["brier"], "site", against="rest", draws=400)
    rows = table.frame
    error = (rows["first"] - rows["target"]) ** 2
    gap = error[rows["site"] == "d"].mean() - error[rows["site"].isin(SITES[:3])].mean()
    assert list(records) == [f"to_rest:brier:{level}" for level in SITES]
    one = records["to_rest:brier:d"]
    assert one.value == pytest.approx(gap) and one.low < gap < one.high and one.p < 0.05


def test_permutation_gives_its_own_p_and_the_same_interval(table):
    mover = hypotheses.compare_groups(table, ["sensitivity"], "site")
    records = hypotheses.compare_groups(
        table, ["sensitivity"], "site", method="permutation", draws=500, seed=3
    )
    rows = Rows(table)
    code = pd.Index(SITES).get_indexer(rows.frame["site"])
    for name, one in records.items():
        assert (one.low, one.high, one.null) == (mover[name].low, mover[name].high, mover[name].null)
        assert one.p == pytest.approx(mover[name].p, abs=0.04)
        number = SITES.index(one.levels[0])
        own = np.where(np.isin(code, [0, number]), code, -1)  # the two groups' own patients
        drawn = permutation.permute(
            rows.columns("first"),
            ["sensitivity"],
            rows.code,
            own,
            [((number,), (0,))],
            permutations=500,
            seed=3,
        )
        assert one.p == multiplicity.reached(abs(drawn.observed), abs(drawn.permuted))[0]
    assert records["difference:sensitivity:d-a"].test.startswith(
        "studentised permutation of whole patients, 500 draws"
    )


def test_pairs_stay_with_their_metrics(table):
    settings = {"method": "permutation", "draws": 200}
    both = hypotheses.compare_groups(table, ["sensitivity", "fpr"], "site", **settings)
    for metric in ("sensitivity", "fpr"):
        alone = hypotheses.compare_groups(table, [metric], "site", **settings)
        assert {k: d.p for k, d in both.items() if f":{metric}:" in k} == {k: d.p for k, d in alone.items()}


def test_max_t_over_levels_and_metrics(table):
    settings = {"against": "rest", "method": "permutation", "draws": 500}
    metrics = ["sensitivity", "fnr", "auroc"]
    joint = hypotheses.compare_groups(table, metrics, "site", adjust="max_t", **settings)
    holm = hypotheses.compare_groups(table, metrics, "site", adjust="holm", **settings)
    assert {k: d.p for k, d in joint.items()} == {k: d.p for k, d in holm.items()}
    for name, one in joint.items():  # sensitivity and FNR are one statistic: Holm pays twice for it
        assert one.p <= one.p_adjusted <= holm[name].p_adjusted + 0.02
    assert joint["to_rest:sensitivity:d"].p_adjusted == joint["to_rest:fnr:d"].p_adjusted < 0.02
    middle = [k for k, d in joint.items() if 0.01 < d.p < 0.3]
    assert middle and all(joint[k].p_adjusted < holm[k].p_adjusted for k in middle)


def test_two_groups_are_one_comparison(table):
    records = hypotheses.compare_groups(table, ["fpr"], "sex", against="rest")
    assert list(records) == ["to_rest:fpr:M"]
    other = hypotheses.compare_groups(table, ["fpr"], "sex")["difference:fpr:M-F"]
    one = records["to_rest:fpr:M"]
    assert (one.value, one.p, one.p_adjusted) == (other.value, other.p, other.p)
    assert hypotheses.compare_groups(table, ["fpr"], "site*sex", against="rest").keys() >= {"to_rest:fpr:d*M"}


def test_a_group_that_cannot_be_tested_says_why(table):
    rows = table.frame[(table.frame["site"] != "c") | (table.frame["target"] == 0)]
    small = Table(rows, table.schema)
    for method in ("mover", "permutation"):
        records = hypotheses.compare_groups(small, ["sensitivity"], "site", method=method, draws=100)
        one = records["difference:sensitivity:c-a"]
        assert np.isnan([one.value, one.p, one.p_adjusted]).all() and "positive" in one.reason
        assert records["difference:sensitivity:b-a"].p > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"against": "all"}, "against='all'"), ({"method": "t"}, "method='t'"), ({"adjust": "fdr"}, "adjust='fdr'"),
     ({"adjust": "max_t"}, "add method='permutation'"), ({"metrics": ["ece"]}, "chance alone changes it"), ({"group": "race"}, "no attribute 'race'"),
     ({"reference": "z"}, "no level of 'site'")],
)  # fmt: skip
def test_wrong_questions_are_refused(table, settings, message):
    with pytest.raises(UserError, match=message):
        hypotheses.compare_groups(**({"table": table, "metrics": ["fpr"], "group": "site"} | settings))


def test_calls_are_compared_by_mcnemar(table):
    records = hypotheses.compare_calls(table, "first", "second", "sensitivity", "site")
    assert list(records) == ["", *SITES]
    rows = table.frame[(table.frame["target"] == 1) & (table.frame["site"] == "d")]
    peer = mcnemar(rows["first"] >= 0.5, rows["second"] >= 0.5, rows["subject_id"].to_numpy())
    one = records["d"]
    assert (one.value, one.p) == (pytest.approx(peer.value), pytest.approx(peer.p))
    assert one.p_adjusted == pytest.approx(4 * one.p) and one.low > 0
    for metric, message in (("ppv", "counts different images"), ("brier", "is not a share")):
        with pytest.raises(UserError, match=message):
            hypotheses.compare_calls(table, "first", "second", metric)


def test_every_task_can_be_permuted(rng):
    """Three classes: an average of ranks by the jackknife, one class by its formula, grades by their sums."""
    n = 300
    truth, group = rng.integers(0, 3, n), np.repeat([0, 1], n // 2)
    scores = rng.dirichlet(np.ones(3), n) * 0.6 + 0.4 * np.eye(3)[truth]
    columns = {"truth": truth, "scores": scores, "called": scores.argmax(1)}
    columns |= registry.components(columns)
    names = ["auroc:macro", "auroc:B", "f1:macro", "quadratic_weighted_kappa", "sensitivity:C"]
    permuted = permutation.permute(
        columns, names, np.arange(n), group, [((1,), (0,))], permutations=64, classes=("A", "B", "C")
    )
    assert np.isfinite(permuted.permuted).all() and (abs(permuted.permuted.std(axis=1) - 1) < 0.3).all()
    one = {"truth": truth == 1, "score": scores[:, 1]}
    assert permuted.observed[1] == pytest.approx(
        slow_statistic("auroc", one, np.arange(n), group, ((1,), (0,)))
    )
