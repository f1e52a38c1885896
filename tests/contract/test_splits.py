"""Invariant: subjects never straddle splits; splits are balanced, and the same wherever they are made."""

import collections

import pytest

from equipoise.data_builders.base import splits
from equipoise.engine import data
from equipoise.engine.errors import UserError

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


def strata(n=1000):
    return {f"s{i}": f"cell{i % 7}" for i in range(n)}


def test_a_prepared_cohort_has_no_subject_in_two_splits(tiny_data_dir):
    members = {s: set(data.open_split("tiny", s, tiny_data_dir).columns["subject_id"]) for s in FRACTIONS}
    assert sum(map(len, members.values())) == len(set.union(*members.values())) == 90
    splits.check_disjoint(members)


def test_subjects_with_two_scans_stay_together(tiny_data_dir):
    scans = [data.open_split("tiny", s, tiny_data_dir).columns.assign(split=s) for s in FRACTIONS]
    pairs = collections.Counter(
        len(c[c["subject_id"] == f"subject-{i:03d}"]) for c in scans for i in range(10)
    )
    assert set(pairs) == {0, 2}


def test_the_order_of_subjects_does_not_matter():
    forward = splits.assign(strata(), FRACTIONS)
    backward = splits.assign(dict(reversed(strata().items())), FRACTIONS)
    assert forward == backward
    assert splits.assign(strata(), FRACTIONS, seed=1) != forward


def test_totals_and_cells_are_balanced_to_rounding():
    assigned = splits.assign(strata(), FRACTIONS)
    assert collections.Counter(assigned.values()) == {"train": 700, "validation": 100, "test": 200}
    for cell in range(7):
        members = [assigned[s] for s, c in strata().items() if c == f"cell{cell}"]
        for name, share in FRACTIONS.items():
            assert abs(members.count(name) - share * len(members)) < 2


@pytest.mark.parametrize("cells", [1, 30, 333])
def test_small_cells_do_not_all_round_the_same_way(cells):
    assigned = splits.assign({f"s{i}": f"{i % cells}" for i in range(999)}, FRACTIONS)
    counts = collections.Counter(assigned.values())
    assert len(assigned) == 999
    assert abs(counts["validation"] - 99.9) < 2 and abs(counts["test"] - 199.8) < 2


def test_a_newcomer_moves_few_others():
    before = splits.assign({f"s{i}": "all" for i in range(1000)}, FRACTIONS)
    after = splits.assign({f"s{i}": "all" for i in range(1001)}, FRACTIONS)
    assert sum(before[s] != after[s] for s in before) <= 3


def test_straddling_and_bad_fractions_are_errors_that_name_nobody():
    with pytest.raises(UserError, match=r"1 subject\(s\) are in both 'test' and 'train'") as error:
        splits.check_disjoint({"train": ["jane", "joe"], "test": ["jane"]})
    assert "jane" not in str(error.value)
    with pytest.raises(UserError, match="sum to 1"):
        splits.assign(strata(), {"train": 0.7, "test": 0.2})
