"""Task kinds and the analyses of studies, found by name."""

import importlib
import pathlib

import pytest
from absl import logging

from equipoise import tasks
from equipoise.engine import config
from equipoise.engine.errors import UserError
from equipoise.launch import program
from tests import launching


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    return said


def test_every_kind_can_be_made_and_another_is_named():
    for place in tasks.KINDS.values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    with pytest.raises(UserError, match="Did you mean 'segmentation'"):
        tasks.make_task(config.replaced(config.Run(), **{"task.kind": "segmentatoin"}), None)


@pytest.mark.parametrize("cohort", ["harvard_fairseg/slo", "fundus_phantom/demo", "simba/near_4mm"])
@pytest.mark.parametrize("study", ["fairseg", "simba"])
def test_the_study_says_whose_analysis_speaks_on_any_cohort(study, cohort, warnings):
    assert tasks.find_analysis(study, cohort).__name__ == f"equipoise.tasks.{study}.analysis"
    assert not warnings


def test_a_run_without_a_study_falls_back_to_the_name_of_its_cohort_and_says_so(warnings):
    assert tasks.find_analysis("", "simba/near_4mm").__name__ == "equipoise.tasks.simba.analysis"
    assert len(warnings) == 1 and "names no study" in warnings[0] and "'simba'" in warnings[0]
    assert tasks.find_analysis("", "harvard_fairseg/slo") is None
    assert tasks.find_analysis("", "tiny") is None
    assert len(warnings) == 1


def test_a_package_of_ones_own_has_an_analysis_too(tmp_path, monkeypatch, warnings):
    package = tmp_path / "my_pkg" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "runs.py").write_text("")
    assert program.study_of(package / "runs.py") == ""
    (package / "analysis.py").write_text("sections = list")
    assert program.study_of(package / "runs.py") == "my_pkg.inner.analysis"
    assert tasks.find_analysis("my_pkg.inner.analysis") is None
    assert "my_pkg" in warnings[0]
    monkeypatch.syspath_prepend(tmp_path)
    assert tasks.find_analysis("my_pkg.inner.analysis").sections is list


def test_the_command_line_fills_the_study_and_the_fingerprint_does_not_see_it():
    for value, study in (
        ("simba:near", "simba"),
        ("equipoise.tasks.fairseg.runs:phantom", "fairseg"),
        (f"{launching.RUNS}:float32", ""),
    ):
        assert program.study_of(pathlib.Path(program.locate_config(value).partition(":")[0])) == study
    done = launching.equipoise("train", "--config=fairseg:phantom", "--print_config")
    assert '"study": "fairseg"' in done.stdout
    run = config.Run()
    assert config.fingerprint(run) == config.fingerprint(config.replaced(run, study="simba"))
