import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.engine.metrics.formulas import fairness, registry
from tests import oracles
from tests.engine.metrics.formulas.test_fairness import CELLS, rows_of, values_of


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None, max_examples=60)
def test_inequality_person_by_person(rows):
    truth, called = (np.array(x) for x in zip(*rows, strict=True))
    columns = {"truth": truth, "called": called, "score": called.astype(float)}
    ours = [registry.compute(name, columns) for name in ("generalized_entropy", "theil_index")]
    if (truth & ~called).all():
        assert np.isnan(ours).all()
    else:
        assert ours == pytest.approx(oracles.inequality(truth, called), abs=1e-12)


def test_inequality_splits_into_within_and_between_groups():
    truth, called, group = rows_of(CELLS)
    groups, overall, n = values_of(truth, called, group)
    between = fairness.SCORES["generalized_entropy_between_groups"].compute(groups, overall, n)
    benefit = 1 + called.astype(float) - truth
    within = sum(
        n[g]
        / len(truth)
        * (benefit[group == g].mean() / benefit.mean()) ** 2
        * oracles.inequality(truth[group == g], called[group == g])[0]
        for g in CELLS
    )
    assert between + within == pytest.approx(oracles.inequality(truth, called)[0])
    same = np.array([benefit[group == g].mean() for g in group])
    assert between == pytest.approx(((same / same.mean()) ** 2 - 1).mean() / 2)
