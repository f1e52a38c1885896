import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.engine.metrics.table.suppression import EVERYONE, hidden_cells, row_levels
from equipoise.engine.metrics.table.table import Schema, Table


def table(truth=None, subject=None, **attributes):
    n = len(next(iter(attributes.values())))
    frame = pd.DataFrame({k: np.asarray(v, str) for k, v in attributes.items()})
    frame["subject_id"] = np.arange(n).astype(str) if subject is None else subject
    frame = frame.assign(target=np.arange(n) % 2 if truth is None else truth, score=0.3, threshold=0.5)
    return Table(
        frame, Schema("binary", "y", ("n", "p"), "p", {k: sorted({*v}) for k, v in attributes.items()})
    )


def repeated(**counts):
    return list(itertools.chain.from_iterable([k] * n for k, n in counts.items()))


def test_a_small_level_takes_the_next_smallest_with_it():
    hidden = hidden_cells(table(race=repeated(a=8, b=60, c=300)), ["race"], 11)
    assert hidden == {("race", "a"), ("race", "b")}


def test_two_small_levels_that_are_large_together_hide_each_other():
    assert hidden_cells(table(race=repeated(a=16, b=16, c=300)), ["race"], 11) == {
        ("race", "a"),
        ("race", "b"),
    }


def test_two_small_levels_that_are_small_together_take_a_third():
    hidden = hidden_cells(table(race=repeated(a=3, b=4, c=80, d=300)), ["race"], 11)
    assert hidden == {("race", "a"), ("race", "b"), ("race", "c")}


def test_events_and_non_events_count_too_and_patients_not_images():
    truth = np.array([1] * 5 + [0] * 95 + [1, 0] * 100)
    race = repeated(few_events=100, x=100, y=100)
    assert ("race", "few_events") in hidden_cells(table(truth, race=race), ["race"], 11)
    assert hidden_cells(table(race=race), ["race"], 11) == set()
    subject = np.array(
        [f"s{i % 7 if i < 100 else i}" for i in range(300)]
    )  # one hundred images of seven patients
    assert ("race", "few_events") in hidden_cells(table(None, subject, race=race), ["race"], 11)


def test_a_crossed_cell_cannot_be_calculated_from_its_margins():
    race = repeated(a=200, b=200, c=200)
    sex = ["F"] * 190 + ["M"] * 10 + ["F", "M"] * 200
    hidden = hidden_cells(table(np.arange(600) // 2 % 2, race=race, sex=sex), ["race", "sex", "race*sex"], 11)
    crossed = {level for a, level in hidden if a == "race*sex"}
    assert "a*M" in crossed and len(crossed) >= 2
    # either its row or its column could otherwise be subtracted
    assert ("race", "a") in hidden or "a*F" in crossed
    assert ("sex", "M") in hidden or crossed & {"b*M", "c*M"}


def test_a_table_that_is_too_small_hides_everyone():
    assert EVERYONE in hidden_cells(table(race=repeated(a=3, b=4)), ["race"], 11)


def test_levels_of_crossed_and_controlled_attributes():
    frame = pd.DataFrame({"a": ["x", "y"], "b": ["1", "2"], "c": ["p", "q"]})
    assert row_levels(frame, "a*b|c").tolist() == ["x*1|p", "y*2|q"]


def exposed(cells, hidden, smallest):
    """Slow twin: whether any sum of shown cells with weights -1, 0, 1 is a small non-empty count."""
    shown = [members for name, members in cells.items() if name not in hidden]
    for signs in itertools.product((-1, 0, 1), repeat=len(shown)):
        total = sum((s * m for s, m in zip(signs, shown, strict=True)), np.zeros(len(shown[0]), int))
        if total.any() and set(total) <= {0, 1} and 0 < total.sum() < smallest:
            return True
    return False


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=4, max_size=4))
def test_no_sum_of_shown_cells_is_small(counts):
    rows = list(
        itertools.chain.from_iterable(
            [cell] * n for cell, n in zip(("xF", "xM", "yF", "yM"), counts, strict=True)
        )
    )
    if not rows:
        return
    race, sex = [r[0] for r in rows], [r[1] for r in rows]
    values = table(race=race, sex=sex)
    values = Table(values.frame, Schema("regression", "y", (), None, values.schema.attributes))
    hidden = hidden_cells(values, ["race", "sex", "race*sex"], 11)
    assert {("race*sex", f"{r}*{s}") for r in set(race) for s in set(sex) if f"{r}{s}" not in rows} <= hidden
    cells = {EVERYONE: np.ones(len(rows), int)}
    for attribute in ("race", "sex", "race*sex"):
        of = row_levels(values.frame, attribute)
        cells |= {(attribute, level): (of == level).astype(int) for level in np.unique(of)}
    if hidden >= set(cells):
        return
    assert not exposed(cells, hidden, 11)


@pytest.mark.parametrize("smallest", [2, 11, 30])
def test_nothing_is_hidden_without_need(smallest):
    assert hidden_cells(table(race=["a", "a", "b", "b"] * 40), ["race"], smallest) == set()
