import importlib
import pkgutil
import re
import sys

import numpy as np
import pytest

from equipoise import data_builders
from equipoise.data_builders import Cohort, Schema
from equipoise.data_builders.base import catalogue
from equipoise.data_builders.harvard.family import Harvard
from equipoise.engine.errors import UserError


class OtherVisits(Cohort):
    """A cohort of visits.

    What else there is to say of it.
    """

    def schema(self):
        return Schema((2, 2, 1), np.uint8, labels={"disease": ("absent", "present")}, attributes={})


def test_the_catalogue_lists_every_cohort_of_the_package():
    """Also those whose name begins with another's; helper modules are not cohorts and do no harm."""
    modules = [m.name for m in pkgutil.walk_packages(data_builders.__path__, "equipoise.data_builders.")]
    classes = {
        f"{cls.__module__}:{cls.__name__}"
        for module in map(importlib.import_module, modules)
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Cohort) and cls.__module__ == module.__name__
    }
    families = {f"{cls.__module__}:{cls.__name__}" for cls in (Cohort, Harvard)}
    assert classes - families == set(catalogue.COHORTS.values())
    assert {c.name for c in catalogue.list_cohorts()} == set(catalogue.COHORTS)


def test_a_cohort_may_be_called_like_another_with_more_behind(tmp_path, monkeypatch):
    longer = f"{OtherVisits.__module__}:OtherVisits"
    monkeypatch.setitem(catalogue.COHORTS, "simba_visits", longer)
    assert isinstance(catalogue.find_builder("simba_visits", data_dir=tmp_path), OtherVisits)
    assert {"simba", "simba_visits"} <= {c.name for c in catalogue.list_cohorts()}
    with pytest.raises(UserError, match=r"no cohort 'simba_visit'. Did you mean 'simba_visits'"):
        catalogue.find_builder("simba_visit", data_dir=tmp_path)


def test_a_module_that_is_no_cohort_stands_beside_the_cohorts_and_is_not_listed(tmp_path, monkeypatch):
    (tmp_path / "stray_helper.py").write_text("ANSWER = 42\n")
    monkeypatch.setattr(data_builders, "__path__", [*data_builders.__path__, str(tmp_path)])
    assert importlib.import_module("equipoise.data_builders.stray_helper").ANSWER == 42
    monkeypatch.delitem(sys.modules, "equipoise.data_builders.stray_helper")
    monkeypatch.delattr(data_builders, "stray_helper")
    assert {c.name for c in catalogue.list_cohorts()} == set(catalogue.COHORTS)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("import a_package_that_is_not_there", "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
        ("raise ValueError('two\\n  lines')", "ValueError: two lines"),
        ("", "AttributeError: .* has no attribute 'Broken'"),
    ],
)  # fmt: skip
def test_a_cohort_that_cannot_be_imported_is_listed_with_the_reason(tmp_path, monkeypatch, content, problem):
    (tmp_path / "broken_cohort.py").write_text(content + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(catalogue.COHORTS, "broken", "broken_cohort:Broken")
    entries = {e.name: e for e in catalogue.list_cohorts()}
    monkeypatch.delitem(sys.modules, "broken_cohort", raising=False)
    assert set(entries) == set(catalogue.COHORTS)
    assert re.fullmatch(problem, entries["broken"].problem)
    assert not any(e.problem for name, e in entries.items() if name != "broken")


def test_a_listed_cohort_whose_packages_are_missing_is_an_error_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(catalogue.COHORTS, "broken", "a_package_that_is_not_there:Broken")
    with pytest.raises(UserError, match="cohort 'broken' cannot be imported: No module named"):
        catalogue.find_builder("broken", data_dir=tmp_path)


def test_the_description_is_the_first_line_of_the_docstring(monkeypatch):
    monkeypatch.setitem(catalogue.COHORTS, "other_visits", f"{OtherVisits.__module__}:OtherVisits")
    entries = {e.name: e for e in catalogue.list_cohorts()}
    assert (
        entries["other_visits"].description == "A cohort of visits." and entries["other_visits"].configs == ()
    )
