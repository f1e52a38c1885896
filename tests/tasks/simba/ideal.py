"""Prediction tables and report contexts of ideal classifiers, drawn from SimBA's generative model."""

import itertools
import pathlib

import numpy as np

from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.table.table import Schema, Table
from equipoise.engine.report.single.context import Context
from equipoise.tasks.simba import renderings
from tests import oracles

WITH, WITHOUT = "with", "without"
SHARES = {"bias": (0.7, 0.3), "intensity_bias": (0.8, 0.25)}
DESIGN = {
    "scenario": "multi", "prevalence": 0.5, "bias_in_disease": 0.7, "bias_in_healthy": 0.3, "intensity_in_disease": 0.8, "intensity_in_healthy": 0.25,
}  # fmt: skip
COHORT = "simba/multi_8mm_seed3"
FLIPS = [(), ("bias",), ("intensity_bias",), ("bias", "intensity_bias")]


def table(subjects, shares, uses, cohort="simba/near_4mm", prevalence=0.5):
    """Scores of the Bayes classifier that sees d and the biases of ``uses``, as a run would have stored them."""
    count = len(subjects)
    predictions = subjects.assign(
        scan_id=[f"scan-{i}" for i in range(count)], subject_id=[f"subject-{i}" for i in range(count)],
        cohort=cohort, split="test", score=oracles.disease_posterior(subjects, shares, prevalence, uses), threshold=0.5, threshold_split="fixed",
        checkpoint_step=600, checkpoint_fingerprint="0-600", config_fingerprint="0",
    )  # fmt: skip
    attributes = {a: ["without", "with", "unknown"] for a in shares} | {"disease_score": None}
    schema = Schema("classification", "disease", ("absent", "present"), "present", attributes)
    return Table(predictions, schema)


def scored(found, groups):
    """The real metric frame of a table."""
    return frame.evaluate(found, metrics=["sensitivity", "fpr", "accuracy"], groups=groups, resamples=100)


def rendered(n, uses, seed=0, shares=SHARES):
    """Flips -> table of the same subjects of ``multi`` with those biases flipped."""
    subjects = oracles.biased_subjects(np.random.default_rng(seed), n, shares)
    other = {WITH: WITHOUT, WITHOUT: WITH}
    return {
        flips: table(
            subjects.assign(**{a: subjects[a].map(other) for a in flips}), shares, uses, renderings.rendering(COHORT, flips)
        )
        for flips in FLIPS
    }  # fmt: skip


def context(tables, flips=(), design=DESIGN, groups=("bias", "intensity_bias")):
    """What a report of one rendering of ``multi`` is made of."""
    own = tables[flips]
    cohort = own.frame["cohort"].iloc[0]
    found = {(t.frame["cohort"].iloc[0], "test"): t.frame for t in tables.values()}
    return Context(
        pathlib.Path(), {}, cohort, "test", 600, own.schema, scored(own, list(groups)), found, metadata={"design": design}
    )  # fmt: skip


def cells(grid):
    """Label of a row -> texts of its other cells."""
    return {row[0].text: [cell.text for cell in row[1:]] for row in grid.rows}


def every_group(count):
    """All groups of ``count`` biases."""
    return list(itertools.product((WITH, WITHOUT), repeat=count))
