"""Attacks on a report that was given away: what stands in its files must not give a hidden cell back."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest

from equipoise.engine.metrics.decisions.policy import Rule
from equipoise.engine.metrics.frames import frame as metric_frame
from equipoise.engine.metrics.table import suppression
from equipoise.engine.metrics.table.table import Schema, Table, validate
from equipoise.engine.report.figures import curves
from equipoise.engine.report.single import audit, comparison, policy, sharing, spreads
from equipoise.engine.report.single import contents as content

MIN = 11
GROUPS = ("race", "sex", "race*sex")


def people(n=320, seed=0):
    """Patients of whom few are of the races Tiny and Small; two models that share mistakes."""
    generator = np.random.default_rng(seed)
    race = np.array(["Tiny"] * 9 + ["Small"] * 40 + ["Large"] * (n - 49))
    sex = np.resize(["F", "M"], n)
    target = np.resize([0, 1, 1, 0], n)
    score = np.clip(0.3 + 0.35 * target + generator.normal(0, 0.25, n), 0, 1).round(3)
    frame = pd.DataFrame({
        "scan_id": [f"i{i}" for i in range(n)], "subject_id": [f"p{i}" for i in range(n)], "cohort": "c", "split": "all",
        "target": target, "score": score, "other": np.clip(score + generator.normal(0, 0.1, n), 0, 1),
        "threshold": 0.5, "threshold_split": "fixed", "checkpoint_step": 0, "checkpoint_fingerprint": "-",
        "config_fingerprint": "-", "race": race, "sex": sex,
    })  # fmt: skip
    frame["died"] = (generator.random(n) < 0.4).astype(float)
    frame["dice"] = np.where(generator.random(n) < 0.1, np.nan, generator.beta(8, 2, n))
    return frame


def table(frame, kind="binary"):
    attributes = {"race": ["Tiny", "Small", "Large"], "sex": ["F", "M"]}
    if kind == "values":
        columns = ("died", "dice")
        schema = Schema("values", "l", (), None, attributes, columns, {c: (c,) for c in columns})
    else:
        models = {"old": ("score",), "new": ("other",)}
        schema = Schema("classification", "y", ("no", "yes"), "yes", attributes, ("score", "other"), models)
    return Table(validate(frame, schema, "t"), schema)


def shared(frame, folder, kind="binary"):
    """Every file of a shared report with all that it can hold, name -> content."""
    of = table(frame, kind)
    found = audit.score_table(
        of, groups=GROUPS, resamples=100, min_cell=MIN, reference={"race": "Large", "sex": "F"}
    )
    if kind == "binary":
        found = comparison.added(found, ("old", "new"))
        rule = Rule("sensitivity", True, None, 0.5, None, None, None, "policy.yaml:1")
        found = policy.judged(found, (rule,))
    content.write_report(found, folder)
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def moved(frame, number, sex):
    """Some people of the hidden race Tiny are now of the hidden race Small."""
    rows = frame.index[(frame["race"] == "Tiny") & (frame["sex"] == sex)][:number]
    return frame.assign(race=frame["race"].mask(frame.index.isin(rows), "Small"))


def exchanged(frame):
    """A positive of one hidden race for a negative of the other, of one sex: events change, sizes do not."""
    mine = (frame["race"] == "Tiny") & (frame["sex"] == "F") & (frame["target"] == 1)
    theirs = (frame["race"] == "Small") & (frame["sex"] == "F") & (frame["target"] == 0)
    race = frame["race"].copy()
    race[frame.index[mine][0]], race[frame.index[theirs][0]] = "Small", "Tiny"
    return frame.assign(race=race)


WORLDS = {
    "an event moved and a crossed cell empty": lambda frame: moved(exchanged(frame), 4, "M"),
    "one person moved": lambda frame: moved(frame, 1, "F"),
    "a crossed cell empty": lambda frame: moved(frame, 4, "M"),
    "an event moved": exchanged,
}
FIRST, *OTHERS = WORLDS


@pytest.fixture(scope="module", params=["binary", "values"])
def report(request, tmp_path_factory):
    return request.param, shared(people(), tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("world", [FIRST, *(pytest.param(w, marks=pytest.mark.slow) for w in OTHERS)])
def test_two_worlds_that_differ_in_hidden_cells_alone_give_the_same_files(report, world, tmp_path):
    kind, files = report
    changed = WORLDS[world](people())
    assert not changed.equals(people())
    other = shared(changed, tmp_path, kind)
    assert files.keys() == other.keys()
    assert not [name for name, content_ in files.items() if content_ != other[name]]


def test_a_hidden_crossed_cell_is_a_violation_and_never_nobody(report):
    kind, files = report
    text, found = files["report.html"].decode(), json.loads(files["metrics.json"])
    assert ">nobody" not in text and "suppressed" in text
    crossed = found["groups"]["race*sex"]
    assert crossed["Tiny*M"] == crossed["Tiny*F"] and all(c["n"] is None for c in crossed["Tiny*M"].values())
    if kind == "binary":
        kept = [v for v in found["policy"]["verdicts"] if v["levels"] == ["Tiny"]]
        assert kept and not any(v["is_met"] for v in kept) and kept[0]["reason"] == "suppressed"


# ---- an adversary with linear algebra: every number of the file is an equation of counts ----

METRICS = ("accuracy", "sensitivity", "fpr", "selection_rate", "ppv", "npv")
CELLS = list(itertools.product((0, 1), repeat=2))  # (truth, called)
OF = {  # metric -> (what its denominator counts, what its numerator counts), of (truth, called)
    "accuracy": (lambda t, c: True, lambda t, c: t == c),
    "sensitivity": (lambda t, c: t, lambda t, c: t and c),
    "fpr": (lambda t, c: not t, lambda t, c: not t and c),
    "selection_rate": (lambda t, c: True, lambda t, c: c),
    "ppv": (lambda t, c: c, lambda t, c: t and c),
    "npv": (lambda t, c: not c, lambda t, c: not t and not c),
}


def counts(members, what, parts):
    """The sum of some people's counts as a vector over (part, truth, called)."""
    return np.array([float(bool(members(part) and what(*cell))) for part in parts for cell in CELLS])


def of_level(attribute, level):
    """Whether a (race, sex) part is in a level."""
    return {
        "": lambda part: True, "race": lambda part: part[0] == level, "sex": lambda part: part[1] == level,
        "race*sex": lambda part: "*".join(part) == level,
    }[attribute]  # fmt: skip


def equations(found, parts):
    """What the numbers of a document say: vectors whose product with the unknown counts is known."""
    rows = []
    for attribute, level, cells in [("", "", found["overall"])] + [
        (a, v, cells) for a, levels in found["groups"].items() for v, cells in levels.items()
    ]:
        inside = of_level(attribute, level)
        for metric, cell in cells.items():
            below, above = OF[metric]
            if cell["n"] is not None or cell["low"] is not None:  # an interval's width gives n back
                rows.append(counts(inside, below, parts))
            if cell["events"] is not None or (cell["value"] is not None and cell["n"] is not None):
                rows.append(counts(inside, above, parts))
            elif cell["value"] is not None:
                value = cell["value"]
                rows.append(counts(inside, above, parts) - value * counts(inside, below, parts))
    return np.array(rows)


def solved(rows, wanted):
    """Whether the equations fix a sum of counts."""
    weights = np.linalg.lstsq(rows.T, wanted, rcond=None)[0]
    return np.abs(rows.T @ weights - wanted).max() < 1e-6


def small_sums(frame, parts):
    """(name, vector) of every small number of people, of events or of non-events of a cell or of a union inside an attribute."""
    size = {
        (part, truth): int(((frame["race"] == part[0]) & (frame["sex"] == part[1]) & (frame["target"] == truth)).sum())
        for part in parts for truth in (0, 1)
    }  # fmt: skip
    kinds = {"n": lambda t, c: True, "events": lambda t, c: t, "non-events": lambda t, c: not t}
    crossed = ["*".join(p) for p in parts]
    for attribute, levels in (
        ("race", ("Tiny", "Small", "Large")),
        ("sex", ("F", "M")),
        ("race*sex", crossed),
    ):
        for level, (kind, what) in itertools.product(levels, kinds.items()):
            inside = of_level(attribute, level)
            number = sum(n for (part, truth), n in size.items() if inside(part) and what(truth, 0))
            if 0 < number < MIN:
                yield (attribute, level, kind), counts(inside, what, parts)


def documents(frame):
    """(shared document, the same with the small cells alone left out) of one table."""
    of = table(frame)
    settings = {"groups": GROUPS, "metrics": METRICS, "resamples": 2, "models": ["old", "new"]}
    hidden = suppression.hidden_cells(of, GROUPS, MIN)
    frames = metric_frame.evaluate_models(of, hidden=hidden, **settings)
    whole = metric_frame.evaluate_models(of, **settings)
    small = {(a, v) for a, v in hidden if a and suppression.row_levels(of.frame, a).tolist().count(v) < MIN}
    return [
        metric_frame.to_json({m: sharing.suppress(f, of, cells, MIN) for m, f in one.items()})
        for one, cells in ((frames, hidden), (whole, small))
    ]


@pytest.mark.parametrize("seed", range(6))
def test_no_small_count_can_be_solved_for(seed):
    generator = np.random.default_rng(seed)
    frame = people(seed=seed)
    frame["race"] = generator.choice(["Tiny", "Small", "Large"], len(frame), p=[0.04, 0.16, 0.8])
    frame["sex"] = generator.choice(["F", "M"], len(frame), p=[0.9, 0.1] if seed % 2 else [0.5, 0.5])
    parts = list(itertools.product(("Tiny", "Small", "Large"), ("F", "M")))
    found, naive = documents(frame)
    wanted = dict(small_sums(frame, parts))
    assert wanted
    for model in found["models"]:  # what is called differs by model, people do not
        rows = equations(found["models"][model], parts)
        assert not [name for name, vector in wanted.items() if solved(rows, vector)]
        for attribute, scores in found["models"][model]["disparities"].items():
            blank = {v for v, c in found["groups"][attribute].items() if c["accuracy"]["n"] is None}
            assert not [k for k, d in scores.items() if blank & {*d["levels"]}]
            assert not blank or all(d["value"] is None for d in scores.values() if not d["levels"])
    assert any(solved(equations(naive, parts), vector) for vector in wanted.values())  # the attack works


def test_strata_of_a_control_are_shared_compared_and_judged_too(tmp_path):
    found = audit.score_table(
        table(people()),
        groups=("race",),
        control=("sex",),
        resamples=100,
        min_cell=MIN,
        reference={"race": "Large"},
    )
    found = comparison.added(found, ("old", "new"))
    assert found.frame.groups["race|sex"]["Tiny|F"]["accuracy"].n is None
    assert {c.attribute for c in found.comparison.changes} == {"", "race", "sex", "race|sex"}
    assert all(math.isnan(c.value) for c in found.comparison.changes if {"Tiny", "Tiny|F"} & {*c.levels})
    rule = Rule("difference:accuracy", False, None, -1.0, None, None, None, "policy.yaml:1")
    verdicts = policy.judged(found, (rule,)).verdicts
    assert {v.attribute for v in verdicts} == {"race", "race|sex"} and not any(v.is_met for v in verdicts)


def test_curves_of_a_shared_report_have_large_steps_of_both_classes():
    generator = np.random.default_rng(2)
    truth, score = generator.random(400) < 0.2, generator.random(400).round(2)
    score = np.clip(score + 0.3 * truth, 0, 1)
    group = curves.Group(truth, score, np.arange(400), 0.5, MIN)
    for most in (3, 10, 512):
        edges = group.edges(most)
        place = np.searchsorted(edges, score, side="right") - 1
        assert 1 < len(edges) <= most and edges[0] == score.min()
        assert min(np.bincount(place[rows], minlength=len(edges)).min() for rows in (truth, ~truth)) >= MIN
    assert len(curves.Group(truth[:20], score[:20], np.arange(20), 0.5, MIN).edges()) == 1


def test_percentiles_with_few_people_beyond_them_are_not_drawn():
    found = spreads._percentiles(np.arange(100.0), MIN)
    assert np.isnan(found[[0, 4]]).all() and found[2] == 49.5 and np.isfinite(found[[1, 3]]).all()
    assert np.isnan(spreads._percentiles(np.arange(21.0), MIN)).all()
    assert np.isfinite(spreads._percentiles(np.arange(3.0), 1)).all()


def test_zeros_ones_and_gaps_of_a_column_hide_that_column_alone():
    frame = people()
    frame["died"] = np.resize([1.0] * 5 + [0.0] * 315, len(frame))
    of = table(frame, "values")
    found = audit.score_table(of, groups=("sex",), resamples=100, min_cell=MIN).frame
    assert all(e.n is None for name, e in found.overall.items() if name.endswith(":died"))
    assert found.overall["mean:dice"].n is not None and found.groups["sex"]["F"]["mean:dice"].n is not None
