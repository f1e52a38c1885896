"""Errors by site: values counted by hand, and chance by enumeration."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates.intervals import wilson_limits
from equipoise.engine.metrics.table.table import Schema, Table
from equipoise.tasks.kit import sites

COHORT = "simba/sites_8mm"
SMALL = {"a": (4, 1), "b": (2, 2), "c": (1, 0)}  # site -> test scans, errors


def table(counts, cohort=COHORT, levels=(), flip=()):
    """Predictions of which the first scans of each site are wrong; classes take turns.

    flip: numbers of the images whose call is turned round.
    """
    site = np.repeat(list(counts), [n for n, _ in counts.values()])
    wrong = np.concatenate([np.arange(n) < k for n, k in counts.values()])
    target = np.arange(len(site)) % 2
    called = (target ^ wrong) ^ np.isin(np.arange(len(site)), flip)
    predictions = pd.DataFrame({
        "scan_id": [f"scan-{i}" for i in range(len(site))], "subject_id": [f"subject-{i}" for i in range(len(site))], "cohort": cohort,
        "split": "test", "target": target, "score": np.where(called, 0.9, 0.1), "threshold": 0.5, "threshold_split": "fixed",
        "checkpoint_step": 100, "checkpoint_fingerprint": "0-100", "config_fingerprint": "0", "site": site,
    })  # fmt: skip
    attributes = {"site": [*(levels or sorted(counts)), "unknown"]}
    return Table(
        predictions, Schema("classification", "disease", ("absent", "present"), "present", attributes)
    )


def test_rates_and_spreads_equal_those_counted_by_hand():
    found = sites.errors(table(SMALL, levels=("a", "b", "c", "nobody")))
    assert {k: (e.value, e.n, e.events) for k, e in found.items()} == {
        "a": (0.25, 4, 1), "b": (1.0, 2, 2), "c": (0.0, 1, 0),
    }  # fmt: skip
    every, two = sites.spread(found), sites.spread(found, 2)
    assert (every.num_sites, every.num_scans, every.lowest, every.highest) == (3, 7, 0.0, 1.0)
    assert every.max_min.value == 1
    # Mean 5/12, deviations −2/12, 7/12 and −5/12.
    assert every.sd.value == pytest.approx(np.sqrt((4 + 49 + 25) / 144 / 3))
    assert (two.num_sites, two.num_scans) == (2, 6)
    assert two.max_min.value == 0.75 and two.sd.value == 0.375


def test_chance_equals_its_enumeration():
    """Three errors dealt to four and two scans: 0, 1, 2 at b with chances 0.2, 0.6, 0.2; the ranges are 0.75, 0 and 0.75."""
    found = sites.spread(sites.errors(table(SMALL)), 2)
    assert found.max_min.null_mean == pytest.approx(0.3, abs=0.015)
    assert found.max_min.p == pytest.approx(0.4, abs=0.02)
    assert (found.max_min.null_low, found.max_min.null_high) == (0, 0.75)
    assert found.sd.null_mean == pytest.approx(0.15, abs=0.0075)
    assert found == sites.spread(sites.errors(table(SMALL)), 2)
    assert found.sd.p != sites.spread(sites.errors(table(SMALL)), 2, seed=1).sd.p


def test_sites_that_differ_are_told_from_sites_that_do_not():
    """Forty sites of ten scans: errors that fall on half of the sites alone, and the same number shared out."""
    apart = {f"s{i:02d}": (10, 4 if i % 2 else 0) for i in range(40)}
    alike = {f"s{i:02d}": (10, 2) for i in range(40)}
    differ, same = (sites.spread(sites.errors(table(counts))) for counts in (apart, alike))
    assert differ.sd.value == pytest.approx(0.2) and differ.sd.p < 0.001
    assert differ.sd.value > differ.sd.null_high
    assert same.sd.value == 0 and same.sd.p == 1 and same.max_min.p == 1


def test_one_site_has_no_spread_and_several_scans_of_a_patient_are_refused():
    alone = sites.spread(sites.errors(table(SMALL)), 3)
    assert alone.num_sites == 1 and np.isnan(alone.max_min.value) and np.isnan(alone.sd.p)
    assert sites.spread(sites.errors(table(SMALL)), 9).num_sites == 0
    several = table(SMALL)
    several.frame.loc[1, "subject_id"] = "subject-0"
    with pytest.raises(UserError, match="'subject_id' repeats in 1 rows within sites"):
        sites.spread(sites.errors(several))


def test_limits_for_new_sites_count_sites_not_patients():
    """Ten sites, half of them all wrong: one site is worth one scan, so that limits are Wilson's of 5 in 10."""
    counts = {f"s{i}": (10, 10 * (i % 2)) for i in range(10)}
    found = sites.overall(table(counts))
    assert found["accuracy"]["site"].limits(0.95) == pytest.approx(wilson_limits(0.5, 10))
    assert found["accuracy"]["patient"].limits(0.95) == pytest.approx(wilson_limits(0.5, 100), abs=0.005)
    assert found["accuracy"]["site"].value == found["accuracy"]["patient"].value == 0.5
    low, high = (np.array([found["auroc"][unit].limits(0.95) for unit in ("patient", "site")])).T
    assert low[1] < low[0] < 0.5 < high[0] < high[1]


def test_limits_for_sites_of_one_patient_are_those_for_patients():
    single = {f"s{i:02d}": (1, int(i % 5 == 0)) for i in range(40)}
    for metric in sites.overall(table(single)).values():
        assert metric["site"].limits(0.95) == pytest.approx(metric["patient"].limits(0.95))


def test_any_attribute_may_be_the_site():
    by_site = table(SMALL)
    schema = dataclasses.replace(by_site.schema, attributes={"clinic": by_site.schema.attributes["site"]})
    by_clinic = Table(by_site.frame.rename(columns={"site": "clinic"}), schema)
    values = lambda rates: {k: (e.value, e.n, e.events) for k, e in rates.items()}  # noqa: E731
    assert values(sites.errors(by_clinic, "clinic")) == values(sites.errors(by_site))
    assert sites.overall(by_clinic, "clinic")["accuracy"]["site"].value == pytest.approx(4 / 7)


def test_one_run_spreads_as_its_table_does():
    own = table({f"s{i:02d}": (10, 4 if i % 2 else 0) for i in range(40)})
    columns = own.columns()
    wrong = (columns["called"] != columns["truth"]).astype(float)
    alone, single = (
        sites.spread(sites.errors(own)),
        sites.spread_over_runs(own.frame["site"].to_numpy(), [wrong], [sites.errors(own)]),
    )
    assert (single.lowest, single.highest, single.num_sites) == (alone.lowest, alone.highest, 40)
    assert single.max_min.value == alone.max_min.value and single.max_min.low == alone.max_min.low
    assert np.isnan(
        sites.spread_over_runs(own.frame["site"].to_numpy(), [wrong], [sites.errors(own)], 11).sd.value
    )
