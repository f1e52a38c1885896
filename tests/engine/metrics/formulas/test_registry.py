import dataclasses
import math

import numpy as np
import pytest

from equipoise.engine import metrics
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.formulas.metric import TASKS, Metric

BINARY = {
    "truth": np.array([1, 0, 1, 0], bool),
    "score": np.array([0.8, 0.3, 0.4, 0.6]),
    "called": np.array([1, 0, 0, 1], bool),
}
CLASSES = ("cat", "dog", "emu")
EVERY = {name: registry.get(name, CLASSES) for task in TASKS for name in registry.names(task, CLASSES)}


@pytest.mark.parametrize("name", EVERY)
def test_every_entry_says_all_of_itself(name):
    metric = EVERY[name]
    assert metric.name == name
    assert all((metric.title, metric.formula, metric.undefined, metric.reference, metric.tasks))
    assert metric.low < metric.high and set(metric.tasks) <= set(TASKS)
    assert (metric.kind in ("area", "weighted")) == (metric.of_sums is None) == (metric.components == ())
    assert any(character.isdigit() for character in metric.reference), "a reference has a year"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_metrics_and_each_is_for_it(task):
    found = registry.names(task, CLASSES)
    assert found and len(set(found)) == len(found)
    assert all(task in EVERY[name].tasks for name in found)


@pytest.mark.parametrize("name", [n for n, m in EVERY.items() if "binary" in m.tasks])
def test_every_binary_value_lies_in_its_range(name, rng):
    truth = rng.random(200) < 0.4
    score = np.clip(0.3 * truth + 0.6 * rng.random(200), 0, 1)
    value = registry.compute(name, {"truth": truth, "score": score, "called": score >= 0.5})
    assert EVERY[name].low <= value <= EVERY[name].high


@pytest.mark.parametrize("name", [n for n, m in EVERY.items() if "binary" in m.tasks])
def test_no_image_has_no_value(name):
    assert math.isnan(registry.compute(name, {k: v[:0] for k, v in BINARY.items()}))
    assert math.isnan(registry.compute(name, BINARY, np.zeros(4)))


def test_entries_asked_for_by_name_alone_are_not_listed():
    assert "underdiagnosis_rate" not in registry.names("binary")
    assert registry.compute("underdiagnosis_rate", BINARY) == registry.compute("fnr", BINARY) == 0.5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aurocc", "Did you mean 'auroc'"),
        ("sensitivity_at_specifcity_0.9", "Did you mean 'sensitivity_at_specificity_0.90'"),
        ("sensitivity_at_specificity", "Did you mean"),
        ("aurocc:macro", "Did you mean 'auroc'"),
        ("auroc:dgo", "Did you mean 'dog'"),
        ("auroc:7", "There are: macro, micro, cat, dog, emu"),
        ("subset_accuracy:dog", "not of one class"),
    ],
)
def test_unknown_names_get_the_closest_known_one(name, words):
    with pytest.raises(UserError, match=words):
        registry.get(name, CLASSES)


def test_a_table_of_another_task_is_refused():
    with pytest.raises(UserError, match="auroc is for binary tables, and this one is multiclass"):
        registry.compute(
            "auroc", {"truth": np.zeros(2, int), "scores": np.ones((2, 3)) / 3, "called": np.zeros(2, int)}
        )
    with pytest.raises(UserError, match="for multilabel tables, and this one is binary"):
        registry.compute("hamming_loss", BINARY)


def test_the_task_is_read_from_the_columns():
    several = {"truth": np.zeros((2, 3), bool), "scores": np.zeros((2, 3)), "called": np.zeros((2, 3), bool)}
    assert registry.task_of(BINARY) == "binary"
    assert registry.task_of(several) == "multilabel"
    assert registry.task_of(several | {"truth": np.zeros(2, int)}) == "multiclass"
    assert registry.task_of({"truth": np.zeros(2), "score": np.zeros(2)}) == "regression"
    assert registry.task_of({"value": np.zeros(2)}) == "values"


def test_members_of_a_family_are_made_once():
    assert registry.get("sensitivity_at_specificity_0.8") is registry.get("sensitivity_at_specificity_0.8")
    assert registry.get("ppv_at_prevalence_0.02").title.endswith("0.02")


def test_an_entry_that_contradicts_itself_is_refused():
    whole = registry.get("auroc")
    for change in (
        {"low": 1, "high": 1},
        {"tasks": ("bniary",)},
        {"weighted": None},
        {"of_sums": lambda s: s["tp"]},
    ):
        with pytest.raises(ValueError, match="auroc"):
            dataclasses.replace(whole, **change)


def test_a_metric_that_needs_its_rows_and_has_a_closed_interval_is_one_entry(monkeypatch, rng):
    """Nothing else in the library is told of it: not its interval, nor its bins, nor its short name."""
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))
    auroc = registry.get("auroc")
    registry.register(
        Metric(
            "concordance", "concordance of scores and classes", "P(score of a positive > score of a negative)", True, 0, 1,
            "one of the classes has no image", "Harrell, JAMA 1982;247:2543", ("binary",), kind="weighted", weighted=auroc.weighted,
            prepare=auroc.prepare, estimate=lambda entry, columns, code: intervals.area(columns["truth"], columns["score"], code),
            may_bin=True, short="C",
        )
    )  # fmt: skip
    truth, sex = rng.random(300) < 0.4, np.array(["F", "M"])[rng.integers(0, 2, 300)]
    score = np.clip(0.3 * truth + 0.6 * rng.random(300), 0, 1)
    names = ("auroc", "concordance")
    frame = metrics.frame(truth, score, groups={"sex": sex}, metrics=names, resamples=40)
    for cells in (frame.overall, *frame.groups["sex"].values()):
        first, second = (cells[name] for name in names)
        assert (first.value, first.method, first.limits(0.95)) == (
            second.value,
            second.method,
            second.limits(0.95),
        )
    gaps = frame.disparities["sex"]
    assert gaps["difference:concordance:M-F"].p == gaps["difference:auroc:M-F"].p < 1
    scores = np.stack([1 - score, score], axis=1)
    parts = [f"{name}:{part}" for part in ("dog", "macro") for name in names]
    frame = metrics.frame(
        np.where(truth, "dog", "cat"), scores, groups={"sex": sex}, classes=("cat", "dog"), metrics=parts, resamples=40
    )  # fmt: skip
    for part, is_closed in (("dog", True), ("macro", False)):
        first, second = (frame.overall[f"{name}:{part}"] for name in names)
        assert first.value == pytest.approx(second.value)
        assert (second.b_valid is None) == is_closed and first.method == second.method


def test_entries_say_what_others_need_of_them():
    auroc, one, mean = (registry.get(name, CLASSES) for name in ("auroc", "auroc:dog", "auroc:macro"))
    assert (auroc.kind, one.kind, mean.kind) == ("area", "area", "weighted")
    assert (auroc.is_closed, one.is_closed, mean.is_closed) == (True, True, False)
    closed = {name for name, metric in EVERY.items() if metric.is_closed and "binary" in metric.tasks}
    assert closed == {
        "auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "fpr", "fnr", "ppv", "npv", "selection_rate"
    }  # fmt: skip
    binned = {name for name, metric in EVERY.items() if metric.may_bin}
    assert binned == {
        "auprc", "calibration_intercept", "calibration_slope", "sensitivity_at_specificity_0.90", "specificity_at_sensitivity_0.90"
    }  # fmt: skip
    truth = np.array([True, False, True])
    rows, quantile = registry.get("sensitivity_at_specificity_0.8").focus(truth)
    assert rows.tolist() == [False, True, False] and quantile == 0.8
