import dataclasses
import pathlib

import numpy as np
import pandas as pd
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.decisions import selection
from equipoise.engine.metrics.decisions.selection import Candidate, select
from equipoise.engine.metrics.frames import ranking
from equipoise.engine.metrics.table.table import Schema, Table, read_table, validate, write_table

SCHEMA = Schema("classification", "disease", ("absent", "present"), "present", {"sex": ["F", "M", "unknown"]})


def table(right, split="validation"):
    """{(sex, images): images called right} of positives, so that sensitivities are read off."""
    rows = [
        {"sex": sex, "score": 0.9 if i < correct else 0.1}
        for (sex, n), correct in right.items()
        for i in range(n)
    ]
    values = pd.DataFrame(rows).assign(
        scan_id=[f"s{i}" for i in range(len(rows))], subject_id=[f"p{i}" for i in range(len(rows))], cohort="x", split=split,
        target=1, threshold=0.5, threshold_split="fixed", checkpoint_step=1, checkpoint_fingerprint="f", config_fingerprint="g",
    )  # fmt: skip
    return Table(validate(values, SCHEMA, "t"), SCHEMA)


def candidates(cells, split="validation"):
    return [
        Candidate(name, table({("F", 40): f, ("M", 10): m, ("unknown", 2): 0}, split), split)
        for name, (f, m) in cells.items()
    ]


# Sensitivities: a .95/.6, b .8/.8, c .9/.7, d .85/.6 (beaten by c), e as b.
CELLS = {"a": (38, 6), "b": (32, 8), "c": (36, 7), "d": (34, 6), "e": (32, 8)}


def test_every_rule_by_hand():
    selected = select(candidates(CELLS), "sensitivity", "sex", {"F": 1.0, "M": 0.7})
    assert selected.scores.loc["a"].tolist() == pytest.approx(
        [44 / 52, 0.95, 0.6, 0.6, 0.35, np.hypot(0.05, 0.1)]
    )
    assert list(selected.scores) == ["overall", "sex=F", "sex=M", "worst_group", "gap", "dto"]
    assert selected.choices["overall"].names == ("a",)
    assert selected.choices["worst_group"].names == ("b",)  # of equals the first
    assert selected.choices["pareto_worst_group"].names == ("a", "c", "b", "e")
    assert selected.choices["pareto_gap"].names == ("a", "c", "b", "e")
    assert selected.choices["dto"].names == ("c",)
    assert "utopia point (F 1, M 0.7)" in selected.choices["dto"].rule
    assert "sensitivity" in selected.choices["overall"].rule and "sex" in selected.choices["worst_group"].rule
    with pytest.raises(UserError, match="chosen on 'validation'"):
        selected.require_other("validation")
    selected.require_other("test")


def test_less_may_be_better_and_the_utopia_point_is_explicit():
    given = candidates(CELLS)
    selected = select(given, "fnr", "sex")
    assert selected.choices["overall"].names == ("a",) and selected.choices["worst_group"].names == ("b",)
    assert selected.scores.loc["a", "worst_group"] == pytest.approx(0.4)
    assert "dto" not in selected.choices and "dto" not in selected.scores
    with pytest.raises(UserError, match="no value for M"):
        select(given, "fnr", "sex", {"F": 0.0})


def test_the_worst_group_is_that_of_training():
    for one in candidates(CELLS):
        value, better = ranking.select_value(one.table.frame, "worst_group:sensitivity:sex", SCHEMA)
        selected = select([one], "sensitivity", "sex").scores
        assert better and value == selected["worst_group"].iloc[0]


def test_an_undefined_candidate_is_never_chosen():
    none = Candidate("z", table({("F", 40): 1, ("M", 10): 1, ("unknown", 2): 0}), "validation")
    none.table.frame["target"] = 0  # no positive: no sensitivity
    selected = select([none, *candidates(CELLS)], "sensitivity", "sex")
    assert np.isnan(selected.scores.loc["z", "overall"]) and np.isnan(selected.scores.loc["z", "gap"])
    assert selected.choices["overall"].names == ("a",) and "z" not in selected.choices["pareto_gap"].names
    alone = select([none], "sensitivity", "sex")
    assert alone.choices["overall"].names == () and alone.choices["pareto_worst_group"].names == ()


def test_fronts_hold_whoever_no_other_beats(rng):
    overall, worst = (pd.Series(rng.integers(0, 8, 40) / 8.0, [f"m{i}" for i in range(40)]) for _ in range(2))
    beaten = {
        i for i in overall.index for j in overall.index
        if overall[j] >= overall[i] and worst[j] >= worst[i] and (overall[j], worst[j]) != (overall[i], worst[i])
    }  # fmt: skip
    assert set(selection._on_front(overall, worst)) == set(overall.index) - beaten


def test_models_of_one_table():
    whole = table({("F", 4): 2, ("M", 4): 4})
    whole.frame["other"] = whole.frame["score"].iloc[::-1].to_numpy()
    schema = dataclasses.replace(
        SCHEMA, scores=("score", "other"), models={"one": ("score",), "two": ("other",)}
    )
    given = selection.models(Table(whole.frame, schema), "validation")
    assert select(given, "sensitivity", "sex").scores["sex=F"].to_dict() == {"one": 0.5, "two": 1.0}


def test_runs_are_read_from_their_folders(tiny_run):
    settings, workdir = tiny_run
    given = selection.checkpoints([workdir])
    kept = sorted(pathlib.Path(workdir / "validation").glob("*.parquet"))
    assert [one.name for one in given] == [f"{workdir.name}/{path.stem}" for path in kept]
    selected = select(given, "auroc", "sex")
    assert selected.split == settings.data.validation_split
    for one, path in zip(given, kept, strict=True):
        own = read_table(path)
        assert selected.scores.loc[one.name, "overall"] == pytest.approx(
            ranking.select_value(own.frame, "auroc", own.schema)[0], nan_ok=True
        )
    smuggled = read_table(kept[0])
    write_table(kept[0], smuggled.frame.assign(split="test"), smuggled.schema)
    with pytest.raises(UserError, match="rows of test, but the selection is made on"):
        select(selection.checkpoints([workdir]), "auroc", "sex")


def test_what_is_refused(tmp_path):
    given = candidates(CELLS)
    with pytest.raises(UserError, match="a has predictions of 'test'"):
        select(candidates(CELLS, "test"), "sensitivity", "sex")
    with pytest.raises(UserError, match="no candidate"):
        select([], "sensitivity", "sex")
    with pytest.raises(UserError, match="two candidates are named 'a'"):
        select([given[0], given[0]], "sensitivity", "sex")
    fewer = Candidate("f", table({("F", 4): 4}), "validation")
    with pytest.raises(UserError, match="f and a have predictions of different images"):
        select([*given, fewer], "sensitivity", "sex")
    with pytest.raises(UserError, match="holds no run"):
        selection.checkpoints([tmp_path])
