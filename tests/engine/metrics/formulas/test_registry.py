import dataclasses
import math

import numpy as np
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.formulas.metric import TASKS

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
