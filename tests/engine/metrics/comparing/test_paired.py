import math

import numpy as np
import pytest
from scipy import special

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.comparing import paired
from equipoise.engine.metrics.estimates import comparisons, delong, intervals, multiplicity, percentiles
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.table.table import Schema, Table, validate
from tests.engine.report import fake_run


@pytest.fixture(scope="module")
def table():
    n, generator = 400, np.random.default_rng(3)
    values = fake_run.predictions(n, 4).reset_index(drop=True)
    values["other"] = np.clip(values["score"] + generator.normal(0, 0.15, n), 0, 1)
    values["subject_id"] = [f"p{i // 2 if i < 100 else i}" for i in range(n)]
    values["site"] = generator.choice(["A", "B", "C"], n)
    schema = Schema(
        "classification", "y", fake_run.SCHEMA.classes, fake_run.SCHEMA.positive, {"site": ["A", "B", "C"]},
        ("score", "other"), {"old": ("score",), "new": ("other",)},
    )  # fmt: skip
    return Table(validate(values, schema, "t"), schema)


@pytest.fixture(scope="module")
def compared(table):
    metrics = ("sensitivity", "accuracy", "auroc", "brier")
    frames = frame.evaluate_models(table, metrics=metrics, groups=("site",), resamples=400)
    return frames, paired.compare(table, frames, ("old", "new"), metrics)


def one(comparison, kind, metric, levels=()):
    return next(c for c in comparison.changes if (c.kind, c.metric, c.levels) == (kind, metric, levels))


def test_the_se_of_a_paired_share_is_that_of_discordant_pairs():
    generator = np.random.default_rng(0)
    first, second = generator.random(300) < 0.7, generator.random(300) < 0.7
    second = np.where(generator.random(300) < 0.6, first, second)
    code = np.arange(300)
    change = comparisons.gap(intervals.proportion(second, code), intervals.proportion(first, code))
    gained, lost = (~first & second).sum(), (first & ~second).sum()
    assert change.value == pytest.approx((gained - lost) / 300)
    by_hand = math.sqrt(gained + lost - (gained - lost) ** 2 / 300) / 300
    assert change.se == pytest.approx(by_hand, rel=0.003)  # 300/299 in the clustered variance
    assert (change.influence[1] ** 2).sum() == pytest.approx(by_hand**2, rel=1e-9)


def test_the_interval_of_a_paired_share_is_close_to_newcombes():
    generator = np.random.default_rng(1)
    first, second = generator.random(120) < 0.8, generator.random(120) < 0.8
    code = np.arange(120)
    change = comparisons.gap(intervals.proportion(second, code), intervals.proportion(first, code))
    known = intervals.paired_change(first, second)
    assert change.limits(0.95) == pytest.approx((known.low, known.high), abs=0.003)


def test_auroc_is_delongs_paired_test(table, compared):
    truth = table.columns("old")["truth"]
    scores = [table.columns(m)["score"] for m in ("new", "old")]
    test = delong.paired(truth, *scores, table.frame["subject_id"].to_numpy())
    change = one(compared[1], "overall", "auroc")
    assert (change.value, change.low, change.high, change.p) == pytest.approx(
        (test.value, test.low, test.high, test.p)
    )
    inside = (table.frame["site"] == "B").to_numpy()
    test = delong.paired(
        truth[inside], *(s[inside] for s in scores), table.frame["subject_id"][inside].to_numpy()
    )
    change = one(compared[1], "group", "auroc", ("B",))
    assert (change.value, change.low, change.p) == pytest.approx((test.value, test.low, test.p))


def test_a_bootstrapped_score_takes_the_replicates_of_the_difference(compared):
    frames, comparison = compared
    new, old = (frames[m].overall["brier"] for m in ("new", "old"))
    change = one(comparison, "overall", "brier")
    draws = new.replicates - old.replicates
    assert (change.low, change.high) == percentiles.limits_of(change.value, draws, freedom=new.freedom)
    assert abs(change.low - np.quantile(draws, 0.025)) < 0.2 * draws.std()  # percentiles, a little expanded
    cells = {k: [frames[m].groups["site"][k]["brier"] for m in ("new", "old")] for k in "BA"}
    b, a = (cells[k][0].replicates - cells[k][1].replicates for k in "BA")
    gap = one(comparison, "gap", "brier", ("B", "A"))
    freedom = min(e.freedom for pair in cells.values() for e in pair)
    assert (gap.low, gap.high) == percentiles.limits_of(gap.value, b - a, freedom=freedom)


@pytest.mark.parametrize("metric", ["sensitivity", "accuracy", "auroc", "brier"])
def test_a_change_of_a_gap_is_the_gap_of_changes(compared, metric):
    comparison = compared[1]
    gap = one(comparison, "gap", metric, ("B", "A"))
    changes = [one(comparison, "group", metric, (k,)) for k in "BA"]
    assert gap.value == pytest.approx(changes[0].value - changes[1].value)
    assert gap.second - gap.first == pytest.approx(gap.value)
    assert gap.low < gap.value < gap.high and (gap.p < 0.05) == (gap.low > 0 or gap.high < 0)


def test_holm_is_over_all_scores_and_groups_of_a_kind(compared):
    for kind, number in (("overall", 4), ("group", 12), ("gap", 8)):
        mine = [c for c in compared[1].changes if c.kind == kind]
        assert len(mine) == number
        assert [c.p_adjusted for c in mine] == pytest.approx(multiplicity.holm([c.p for c in mine]))


def test_a_model_against_itself_shows_no_difference(table):
    twin = Table(table.frame.assign(other=table.frame["score"]), table.schema)
    metrics = ("sensitivity", "auroc", "brier")
    frames = frame.evaluate_models(twin, metrics=metrics, groups=("site",), resamples=100)
    comparison = paired.compare(twin, frames, ("old", "new"), metrics)
    assert all(c.value == 0 for c in comparison.changes if c.kind != "gap")
    assert all(c.value == pytest.approx(0, abs=1e-12) for c in comparison.changes)
    assert all(c.p_adjusted == 1 or math.isnan(c.p) for c in comparison.changes)
    assert "rank these images alike" in one(comparison, "overall", "auroc").reason


@pytest.mark.parametrize(
    "wanted, message", [(("old",), "name two"), (("old", "old"), "name two"), (("old", "nwe"), "'new'")]
)
def test_two_models_must_be_named(table, wanted, message):
    with pytest.raises(UserError, match=message):
        paired.names(table, wanted)


@pytest.mark.slow
def test_intervals_of_paired_differences_cover():
    """600 data sets of 300 patients with 1 to 3 images, two groups: sensitivity of two models that share mistakes."""
    generator, hits = np.random.default_rng(11), {"change": 0, "gap": 0}
    truths = {("A", 0): 0.8, ("A", 1): 0.85, ("B", 0): 0.7, ("B", 1): 0.85}
    for _ in range(600):
        code = np.repeat(np.arange(300), generator.integers(1, 4, 300))
        group = np.where(code % 3 == 0, "B", "A")
        shared = np.sqrt(0.5) * generator.normal(size=300)[code] + np.sqrt(0.3) * generator.normal(
            size=len(code)
        )
        mixed = [shared + np.sqrt(0.2) * generator.normal(size=len(code)) for _ in (0, 1)]
        changes = {}
        for g in "AB":
            rows = group == g
            cells = [
                intervals.proportion(special.ndtr(x[rows]) < truths[g, m], code[rows])
                for m, x in enumerate(mixed)
            ]
            changes[g] = comparisons.gap(cells[1], cells[0])
        low, high = changes["B"].limits(0.95)
        hits["change"] += low <= 0.15 <= high
        _, low, high = comparisons.difference(changes["B"], changes["A"])
        hits["gap"] += low <= 0.10 <= high
    assert all(0.93 <= n / 600 <= 0.98 for n in hits.values()), hits
