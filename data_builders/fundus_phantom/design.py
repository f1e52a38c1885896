"""The subjects of the fundus phantom: their attributes, the size of their cup, and their split.

Groups get their shares to the nearest person. Only race is related to how an eye looks; any difference between groups of
another attribute is chance.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from equipoise.data_builders.base import splits
from equipoise.data_builders.fundus_phantom.config import FundusConfig
from equipoise.data_builders.harvard.family import ATTRIBUTES
from equipoise.engine import rng

FRACTIONS = {"train": 0.6, "validation": 0.1, "test": 0.3}
CUP_RANGE = (0.2, 0.85)
_AGE_MEAN, _AGE_SD, _AGE_RANGE = 60.0, 16.0, (18.0, 95.0)
# Shares among the known values, about as in Harvard-FairSeg.
_SHARES = {
    "gender": (0.585, 0.415),
    "ethnicity": (0.96, 0.04),
    "language": (0.97, 0.015, 0.015),
    "marital_status": (0.59, 0.28, 0.07, 0.05, 0.01),
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One drawn subject.

    Attributes:
      number: from 0; it selects the random draws of this subject.
      group: the race, whose difficulty the eye has.
      recorded: attribute -> level, or None where it is not recorded.
      age: years.
      cup: vertical cup-to-disc ratio; 0 without a cup.
      split: train, validation or test.
    """

    number: int
    group: str
    recorded: Mapping[str, str | None]
    age: float
    cup: float
    split: str


def design_subjects(config: FundusConfig) -> list[Subject]:
    """Draws the subjects; settings of how eyes look do not change them, except for the size of the cup."""
    names = [str(i) for i in range(config.subjects)]

    def allot(strata: Sequence[str], shares: Mapping[str, float], stream: int) -> list[str]:
        # Streams are 2^32 apart, so that no two seeds share one.
        given = splits.assign(dict(zip(names, strata, strict=True)), shares, (stream << 32) + config.seed)
        return [given[name] for name in names]

    race = allot([""] * len(names), config.shares, 1)
    levels = {"race": race}
    for stream, (attribute, shares) in enumerate(_SHARES.items(), start=2):
        total = sum(shares)
        words = dict(zip(ATTRIBUTES[attribute].levels, (share / total for share in shares), strict=True))
        levels[attribute] = allot(race, words, stream)
    is_known = {"known": 1 - config.unknown_share, "unknown": config.unknown_share}
    known = {name: allot(race, is_known, 10 + i) for i, name in enumerate(levels)}
    cups = allot(race, {"cup": 1 - config.no_cup_share, "none": config.no_cup_share}, 20)
    split = allot(
        ["/".join(cell) for cell in zip(race, known["race"], levels["gender"], cups, strict=True)],
        FRACTIONS,
        0,
    )

    draws = np.array(
        [rng.generator(config.seed, "fundus/subject", i).normal(size=2) for i in range(config.subjects)]
    )
    age = np.clip(_AGE_MEAN + _AGE_SD * draws[:, 0], *_AGE_RANGE)
    mean = np.array([config.difficulty(group)["cup"] for group in race])
    ratio = np.clip(mean + config.cup_sd * draws[:, 1], *CUP_RANGE)
    return [
        Subject(
            number=i,
            group=race[i],
            recorded={k: values[i] if known[k][i] == "known" else None for k, values in levels.items()},
            age=float(np.round(age[i], 1)),
            cup=float(ratio[i]) if cups[i] == "cup" else 0.0,
            split=split[i],
        )
        for i in range(len(names))
    ]
