"""Errors by site in a report: what SimBA's section says of them."""

import pathlib

from equipoise.engine.metrics.frames import frame
from equipoise.engine.report.single.context import Context
from equipoise.tasks.simba import analysis
from tests.tasks.kit.test_sites import COHORT, table
from tests.tasks.simba import ideal


def context(counts, *, train=None, flip=(), **settings):
    own = table(counts)
    tables = {(COHORT, "test"): own.frame}
    if flip:
        name = f"{COHORT}_counterfactual"
        tables[name, "test"] = table(counts, name, flip=flip).frame
    found = frame.evaluate(own, metrics=["accuracy", "auroc"], groups=["site"], resamples=50)
    report = {"counts": {"train": {"attributes": {"site": train}}}} if train else {}
    return Context(
        pathlib.Path(), {}, COHORT, "test", 100, own.schema, found, tables, cohort_report=report, **settings
    )


LARGE = {"a": (12, 6), "b": (10, 1), "c": (1, 1), "d": (6, 1)}


def test_the_section_sets_errors_beside_sizes_and_chance():
    found = context(LARGE, train={"a": 40, "b": 30, "c": 1, "d": 20})
    (section,) = analysis.sections(found)
    everyone, spread, every = section.tables
    assert ideal.cells(everyone)["accuracy"][0] == f"{20 / 29:.3f}"
    assert ideal.cells(spread)["5 test scans"][:3] == ["3", "28", "0.400"]
    assert ideal.cells(spread)["20 test scans"] == ["0", "0", *["–"] * 6]
    assert ideal.cells(every) == {
        "a": ["40", "12", "6", "0.500"], "b": ["30", "10", "1", "0.100"], "c": ["1", "1", "1", "1.000"], "d": ["20", "6", "1", "0.167"],
    }  # fmt: skip
    assert (
        "In the 2 sites with at least 10 test scans the misclassification rate runs from 0.100 to 0.500"
        in section.headline
    )
    assert "a 0.50 of 12" in section.figures[0].alt
    assert [k.text for k in section.key_numbers] == ["0.400"]


def test_without_counts_of_training_scans_there_is_no_figure():
    (section,) = analysis.sections(context(LARGE))
    assert not section.figures and ideal.cells(section.tables[2])["a"][0] == "–"


def test_a_shared_report_shows_no_small_or_hidden_site():
    train = {"a": 40, "b": 30, "c": 1, "d": 4}
    shared = context(LARGE, train=train, min_cell=5, hidden=frozenset({("site", "b")}))
    (section,) = analysis.sections(shared)
    assert ideal.cells(section.tables[2]) == {"a": ["40", "12", "6", "0.500"], "d": ["–", "6", "1", "0.167"]}
    assert [row[0].text for row in section.tables[1].rows] == [
        "5 test scans",
        "10 test scans",
        "20 test scans",
    ]
    assert "d 0.17" not in section.figures[0].alt and "c" not in ideal.cells(section.tables[2])
    (nothing,) = analysis.sections(context(LARGE, min_cell=20))
    assert nothing.text == ("No site has enough test scans to be shown.",)


def test_the_same_subjects_as_one_scanner_shows_them():
    """Calls of images 13 (diseased) and 14 (healthy), both right at b, are turned round."""
    (section,) = analysis.sections(context(LARGE, flip=(13, 14)))
    found = ideal.cells(section.tables[3])
    assert found["sensitivity, diseased subjects"][4:] == ["0", "1"]
    assert found["false-positive rate, healthy subjects"][4:] == ["1", "0"]
    assert found["false-positive rate, healthy subjects"][0] == "15"


def test_a_cohort_with_settings_finds_its_own_counterfactual():
    """Another length in millimetres stands in the name too."""
    name = "simba/sites_8mm_disease_mm3"
    own, other = (table(LARGE, n) for n in (name, name.replace("8mm", "8mm_counterfactual")))
    tables = {(t.frame["cohort"].iloc[0], "test"): t.frame for t in (own, other)}
    found = frame.evaluate(own, metrics=["accuracy", "auroc"], groups=["site"], resamples=50)
    of = lambda cohort: Context(pathlib.Path(), {}, cohort, "test", 100, own.schema, found, tables)  # noqa: E731
    assert len(analysis.sections(of(name))[0].tables) == 4
    assert len(analysis.sections(of(name.replace("8mm", "8mm_counterfactual")))[0].tables) == 3
