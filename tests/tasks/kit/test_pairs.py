import pandas as pd
import pytest

from equipoise.engine.errors import UserError
from equipoise.tasks.kit import pairs


def table(scores, **columns):
    frame = pd.DataFrame({"subject_id": [f"s{i}" for i in range(len(scores))], "score": scores})
    return frame.assign(cohort="tiny", target=[0, 1] * (len(scores) // 2), threshold=0.5, **columns)


def test_the_same_subjects_in_two_tables_without_any_attribute():
    pair = pairs.side_by_side(table([0.1, 0.9, 0.8, 0.2]), table([0.6, 0.9, 0.8, 0.7])[::-1])
    first, second = pairs.decisions(pair)
    assert first.tolist() == [False, True, True, False] and second.tolist() == [True] * 4
    effect = pairs.effect(first, second, (pair["target_a"] == 1).to_numpy())
    assert (effect.sensitivity.gained, effect.sensitivity.lost, effect.sensitivity.n) == (1, 0, 2)
    assert (effect.fpr.gained, effect.fpr.value) == (1, 0.5)
    assert [cell.text for cell in pairs.cells("sensitivity", effect.sensitivity)][:4] == [
        "sensitivity",
        "2",
        "0.500",
        "1.000",
    ]


def test_an_attribute_that_is_not_flipped_must_agree():
    own, same = table([0.1, 0.9], dose="low"), table([0.1, 0.9], dose="high")
    flipped = pairs.side_by_side(own, same, attributes=["dose"], flips=["dose"], levels=("low", "high"))
    assert len(flipped) == 2
    with pytest.raises(UserError, match="'dose' differs .* for 2 subjects"):
        pairs.side_by_side(own, same, attributes=["dose"])
    with pytest.raises(UserError, match="'dose' is not flipped"):
        pairs.side_by_side(own, own, attributes=["dose"], flips=["dose"], levels=("low", "high"))
    with pytest.raises(UserError, match="no column 'scanner'"):
        pairs.side_by_side(own, same, attributes=["scanner"])
