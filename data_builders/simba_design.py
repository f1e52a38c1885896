"""The subjects of a SimBA cohort: who is diseased, who carries which bias, how much of it, and in which split.

Every draw is a function of the seed and the shares alone. Scenarios, resolutions and effect sizes share them all.
"""

import dataclasses
import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from data_builders import splits
from data_builders.simba_config import BIAS, INTENSITY_BIAS, SimbaConfig

FRACTIONS = {"train": 0.5, "validation": 0.2, "test": 0.3}
SCORE_LIMIT = 3.5  # where subject amplitudes are cut, in standard deviations


@dataclasses.dataclass(frozen=True)
class Subject:
    """One drawn subject.

    Attributes:
      number: from 0.
      has_disease: its class.
      groups: attribute ("bias", "intensity_bias") -> whether the design puts it in that group of bias.
      disease_score: d, N(1, 1) with the disease and N(-1, 1) without.
      bias_score: b, N(2, 1), drawn for everyone, used where a morphological bias is rendered.
      subject_score: s, N(0, 1) within ±3.5, drawn for everyone, used where subjects share one scalar.
      split: train, validation or test.
    """

    number: int
    has_disease: bool
    groups: Mapping[str, bool]
    disease_score: float
    bias_score: float
    subject_score: float
    split: str


def _generator(seed: int, stream: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, zlib.crc32(stream.encode())], np.uint64)))


def _tenths(scores: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Which tenth of the scores each is in, from 0."""
    return np.floor((stats.rankdata(scores, "ordinal") - 1) * 10 / len(scores)).astype(int)


def design_subjects(config: SimbaConfig) -> list[Subject]:
    """Draws the subjects, every group and split balanced within classes and within tenths of the scores.

    The two biases are independent given the class: with shares of 0.7 and 0.3 the four groups (both, either, none) hold
    0.29, 0.21, 0.21 and 0.29 of the subjects, 0.845, 0.5, 0.5 and 0.155 of them diseased, as in Stanley et al.,
    eBioMedicine 2025;111:105501. They get there by discarding the class that is too frequent in a group; assigned
    within classes, as here, the shares hold and nobody is discarded. The second bias is assigned within splits, so that
    it moves nobody of the first.
    """
    count = config.subjects
    diseased = np.arange(count) < round(count * config.prevalence)
    disease_score = np.where(diseased, 1.0, -1.0) + _generator(config.seed, "disease").normal(size=count)
    bias_score = 2.0 + _generator(config.seed, "bias").normal(size=count)
    low, high = stats.norm.cdf([-SCORE_LIMIT, SCORE_LIMIT])
    subject_score = stats.norm.ppf(_generator(config.seed, "subject").uniform(low, high, count))

    tenth = np.empty(count, int)
    for group in (diseased, ~diseased):
        tenth[group] = _tenths(disease_score[group])
    bins = [f"{t}" for t in tenth]
    if config.variability == "shared_scalar":
        bins = [f"{a}_{b}" for a, b in zip(bins, _tenths(subject_score), strict=True)]

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
            float(disease_score[i]),
            float(bias_score[i]),
            float(subject_score[i]),
            split[name],
        )
        for i, name in enumerate(names)
    ]


def _assign_groups(
    diseased: Bool[np.ndarray, " n"], cells: list[str], in_disease: float, in_healthy: float, seed: int
) -> list[str]:
    """Says "with" or "without" for every subject, the share of each class met as nearly as can be in every cell."""
    assigned: dict[str, str] = {}
    for group, share in ((diseased, in_disease), (~diseased, in_healthy)):
        strata = {str(i): cells[i] for i in np.flatnonzero(group)}
        assigned |= splits.assign(strata, {"with": share, "without": 1 - share}, seed=seed)
    return [assigned[str(i)] for i in range(len(cells))]
