"""Whether intervals hold the truth as often as they say; the tables that this prints are in ``engine/metrics/README.md``."""

import numpy as np
import pytest

from equipoise.engine.metrics.formulas import registry
from tests import population, simulation


@pytest.mark.slow
def test_intervals_and_tests_hold_what_they_promise():
    results = [simulation.simulate(name, n, 2000) for n in (500, 1500) for name in population.SCENARIOS]
    powers = {(m, n): simulation.power(m, n) for n in (500, 1500) for m in population.EXTREME_OF}
    assert not simulation.failures(results, powers)


def test_true_values_are_those_of_a_large_table(rng):
    people = population.population("one_worse")
    table = people.draw(rng, 150_000)
    columns = table.columns()
    group = table.frame["group"].to_numpy()
    for metric in population.METRICS:
        overall, groups = people.values(metric)
        worst = group == population.LEVELS[population.WORSE]
        tolerance = 0.02 if metric == "calibration_slope" else 0.005
        assert registry.compute(metric, columns) == pytest.approx(overall, abs=tolerance), metric
        own = {name: column[worst] for name, column in columns.items()}
        value = groups[population.WORSE]
        assert registry.compute(metric, own) == pytest.approx(value, abs=4 * tolerance), metric
    assert people.values("auroc")[1] == pytest.approx(people.area) and people.area[3] == 0.73


def test_a_simulation_counts_what_holds_and_what_misses():
    """Limits by hand: a true sensitivity of .85 lies within two intervals of four, above one and below one."""
    limits = {
        "sensitivity": [[0.8, 0.7, 0.9], [0.8, 0.84, 0.86], [0.9, 0.86, 1], [0.5, 0.4, 0.6], [np.nan] * 3]
    }
    p = {"Holm, auroc: 10 %": [0.01, 0.2, 0.2, 0.2], "Holm, auroc: others": [0.2, 0.2, np.nan, 0.04]}
    limits, p = ({k: np.array(v) for k, v in found.items()} for found in (limits, p))
    result = simulation.Result("equal", 500, limits, p)
    assert result.coverage("sensitivity") == (0.5, 0.25, 0.25, 4)
    assert result.rejected() == {"Holm, auroc": 0.5}
    assert simulation.Result("one_worse", 500, limits, p).rejected() == {"Holm, auroc": 0.25}
    assert len(simulation.failures([result], {("auroc", 500): (0.1, 0.7)})) == 3


def test_a_stopped_simulation_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(simulation, "REPLICATES", 100)
    whole = simulation.simulate("equal", 120, 3)
    first = simulation.simulate("equal", 120, 3, tmp_path)
    monkeypatch.setattr(simulation, "_chunk", None)  # nothing is drawn again
    again = simulation.simulate("equal", 120, 3, tmp_path)
    for one in (first, again):
        assert one.datasets == 3
        for name, values in whole.limits.items():
            np.testing.assert_array_equal(one.limits[name], values, err_msg=name)
