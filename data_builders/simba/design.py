"""The subjects of a SimBA cohort: their class, their groups of bias or their site, their scores, and their split.

Every draw depends only on the seed and the shares, so that scenarios, resolutions and effect sizes share all draws.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from equipoise.data_builders.base import splits
from equipoise.data_builders.simba import sites as simba_sites
from equipoise.data_builders.simba.config import BIAS, INTENSITY_BIAS, SimbaConfig
from equipoise.engine.rng import generator

FRACTIONS = {"train": 0.5, "validation": 0.2, "test": 0.3}
SCORE_LIMIT = 3.5  # limit of subject amplitudes, in standard deviations


@dataclasses.dataclass(frozen=True)
class Subject:
    """One drawn subject.

    Attributes:
      number: from 0.
      has_disease: whether the subject has the disease.
      groups: attribute ("bias", "intensity_bias") -> whether the design puts the subject into that group of bias.
      disease_score: d, N(1, 1) with the disease and N(-1, 1) without.
      bias_score: b, N(2, 1); drawn for everyone, and used where a bias of morphology is rendered.
      subject_score: s, N(0, 1) within ±3.5; drawn for everyone, and used where all modes of a subject share one amplitude.
      split: train, validation or test.
      levels: in ``sites``: "site", "scanner", "vendor" and "sex" -> level.
    """

    number: int
    has_disease: bool
    groups: Mapping[str, bool]
    disease_score: float
    bias_score: float
    subject_score: float
    split: str
    levels: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _tenths(scores: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Returns the tenth, from 0 to 9, in which each score lies."""
    return np.floor((stats.rankdata(scores, "ordinal") - 1) * 10 / len(scores)).astype(int)


def design_subjects(config: SimbaConfig) -> list[Subject]:
    """Draws the subjects: site by site in ``sites`` (:mod:`equipoise.data_builders.simba.sites`), else group by group."""
    return _subjects_of_sites(config) if config.has_sites else _subjects_of_groups(config)


@dataclasses.dataclass(frozen=True)
class _Scores:
    """The scores of all subjects, as in :class:`Subject`."""

    disease: Float[np.ndarray, " n"]
    bias: Float[np.ndarray, " n"]
    subject: Float[np.ndarray, " n"]


def _scores(seed: int, diseased: Bool[np.ndarray, " n"]) -> _Scores:
    count = len(diseased)
    low, high = stats.norm.cdf([-SCORE_LIMIT, SCORE_LIMIT])
    return _Scores(
        np.where(diseased, 1.0, -1.0) + generator(seed, "disease").normal(size=count),
        2.0 + generator(seed, "bias").normal(size=count),
        stats.norm.ppf(generator(seed, "subject").uniform(low, high, count)),
    )


def _subjects_of_sites(config: SimbaConfig) -> list[Subject]:
    """Draws all 1,817 subjects, or a sample of them that is balanced by split and class and changes nobody."""
    people = simba_sites.place(
        generator(config.seed, "sites"), config.seed, config.validation_share, config.class_spread
    )
    scores = _scores(config.seed, np.array([p.has_disease for p in people]))
    share = config.subjects / len(people)
    strata = {str(i): f"{p.split}_{p.has_disease}" for i, p in enumerate(people)}
    kept = splits.assign(strata, {"in": share, "out": 1 - share}, seed=config.seed + 2)
    return [
        Subject(
            i,
            p.has_disease,
            {},
            float(scores.disease[i]),
            float(scores.bias[i]),
            float(scores.subject[i]),
            p.split,
            p.levels,
        )
        for i, p in enumerate(people)
        if kept[str(i)] == "in"
    ]


def _subjects_of_groups(config: SimbaConfig) -> list[Subject]:
    """Draws subjects whose groups and splits are balanced within classes and within tenths of the scores.

    The two biases are independent given the class: with shares of 0.7 and 0.3 the four groups (both, either, none) hold
    0.29, 0.21, 0.21 and 0.29 of the subjects, of whom 0.845, 0.5, 0.5 and 0.155 are diseased, as in Stanley et al.,
    eBioMedicine 2025;111:105501. They discard subjects of the class that is too frequent in a group. Here groups are
    assigned within classes, so that the shares hold without discarding anybody. The second bias is assigned within splits,
    so that it does not change the groups of the first.
    """
    count = config.subjects
    diseased = np.arange(count) < round(count * config.prevalence)
    scores = _scores(config.seed, diseased)

    tenth = np.empty(count, int)
    for group in (diseased, ~diseased):
        tenth[group] = _tenths(scores.disease[group])
    bins = [f"{t}" for t in tenth]
    if config.variability == "shared_scalar":
        bins = [f"{a}_{b}" for a, b in zip(bins, _tenths(scores.subject), strict=True)]

    names = [str(i) for i in range(count)]
    biased = _assign_groups(
        diseased, bins, config.bias_in_disease, config.bias_in_healthy, seed=config.seed + 1
    )
    strata = {name: f"{diseased[i]}_{biased[i]}_{bins[i]}" for i, name in enumerate(names)}
    split = splits.assign(strata, FRACTIONS, seed=config.seed)
    cells = [f"{split[name]}_{strata[name]}" for name in names]
    second = _assign_groups(
        diseased, cells, config.intensity_in_disease, config.intensity_in_healthy, seed=config.seed + 2
    )
    return [
        Subject(
            i,
            bool(diseased[i]),
            {BIAS: biased[i] == "with", INTENSITY_BIAS: second[i] == "with"},
            float(scores.disease[i]),
            float(scores.bias[i]),
            float(scores.subject[i]),
            split[name],
        )
        for i, name in enumerate(names)
    ]


def _assign_groups(
    diseased: Bool[np.ndarray, " n"], cells: list[str], in_disease: float, in_healthy: float, seed: int
) -> list[str]:
    """Assigns "with" or "without" to every subject, so that every cell has the share of each class as nearly as possible."""
    assigned: dict[str, str] = {}
    for group, share in ((diseased, in_disease), (~diseased, in_healthy)):
        strata = {str(i): cells[i] for i in np.flatnonzero(group)}
        assigned |= splits.assign(strata, {"with": share, "without": 1 - share}, seed=seed)
    return [assigned[str(i)] for i in range(len(cells))]
