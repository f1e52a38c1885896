"""The sites of the scenario ``sites``: 83 hospitals with 1 to 190 training scans, most of them with one class only.

Every seed meets exactly the counts of the multi-site Parkinson cohort whose sheet github.com/RaissaSouza/fedTM publishes:
1,817 scans of 867 diseased and 950 healthy people, of whom 1,062 are men; 1,410 scans to train on and 407 to test on; 1 to
190 training scans in a site, fewer than 5 in 30 sites and exactly 1 in 12 of them; only one class in 54 sites; 23 types of
scanners of 3 vendors. Of the sites with both classes, 7 have at least 40 training scans, 10 at least 30 and 21 at least 20;
these hold 615, 717 and 968 scans.

The sheet leaves the rest open. We chose: The largest site has both classes (with one class, the sites between 5 and 19 scans
could not be filled). Sites with one class and 20 scans or more are healthy; smaller ones have either class with equal chance.
The test scans of a site have the classes of the site, and are in proportion to its training scans. The share of the diseased
in sites with both classes is logistic-normal with the SD ``class_spread``. Men are equally frequent in each class and site.
A site has one scanner, every scanner has at least one site, and vendors alternate along the scanners.

The original has no validation split. Here it is taken from the training scans of sites with 20 training scans or more, in
proportion to site and class, and leaves at least one scan of each class in each site. Smaller sites keep all their scans, so
that the statements above about classes and about sites with fewer than 20 scans hold for the training split itself.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, special

from equipoise.data_builders.base import splits

NUM_SCANS, NUM_DISEASED, NUM_MALE = 1817, 867, 1062
NUM_TRAIN, NUM_TEST = 1410, 407
SITES = tuple(f"site_{i:02d}" for i in range(1, 84))  # the site with most training scans first
SCANNERS = tuple(f"scanner_{i:02d}" for i in range(1, 24))  # likewise
VENDORS = ("vendor_a", "vendor_b", "vendor_c")
SEXES = ("F", "M")
LEVELS = {"site": SITES, "scanner": SCANNERS, "vendor": VENDORS, "sex": SEXES}
GIVES_VALIDATION = 20  # a site with at least so many training scans gives some of them to validation


class _Band(NamedTuple):
    """Sites of similar size.

    Attributes:
      sites: number of sites.
      mixed: number of those that have both classes.
      fewest: training scans of the smallest site.
      most: training scans of the largest site.
      scans: training scans of all sites of the band.
    """

    sites: int
    mixed: int
    fewest: int
    most: int
    scans: int


_BANDS = (
    _Band(1, 1, 190, 190, 190),
    _Band(6, 6, 40, 189, 425),
    _Band(3, 3, 30, 39, 102),
    _Band(11, 11, 20, 29, 251),
    _Band(3, 0, 20, 60, 120),
    _Band(29, 8, 5, 19, 256),
    _Band(18, 0, 2, 4, 54),
    _Band(12, 0, 1, 1, 12),
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """One person of the design.

    Attributes:
      levels: "site", "scanner", "vendor" and "sex" -> level, of :data:`LEVELS`.
      has_disease: whether the person has the disease.
      split: train, validation or test.
    """

    levels: dict[str, str]
    has_disease: bool
    split: str


def scanned(scanner: str) -> dict[str, str]:
    """Returns the levels "scanner" and "vendor" of a person who was scanned by this scanner."""
    return {"scanner": scanner, "vendor": VENDORS[SCANNERS.index(scanner) % len(VENDORS)]}


def place(
    generator: np.random.Generator, seed: int, validation_share: float, class_spread: float
) -> list[Placement]:
    """Draws the design: 1,817 people, site by site.

    Args:
      generator: of sizes, classes and scanners.
      seed: of the balanced assignment of sex; the validation split is assigned with the next seed.
      validation_share: share of the 1,410 training scans that become validation scans.
      class_spread: SD of the log odds of disease between the sites with both classes.
    """
    sizes, mixed = _sizes(generator)
    tests = _rounded(sizes * (NUM_TEST / NUM_TRAIN), NUM_TEST, generator)
    diseased = _diseased(sizes, tests, mixed, class_spread, generator)
    scanners = _scanners(sizes, generator)
    site, has_disease, split = [], [], []
    for name, counts, sick in (("train", sizes, diseased[0]), ("test", tests, diseased[1])):
        site += [np.repeat(np.arange(len(SITES)), counts)]
        has_disease += [np.arange(count) < some for count, some in zip(counts, sick, strict=True)]
        split += [name] * counts.sum()
    site, has_disease = np.concatenate(site), np.concatenate(has_disease)
    strata = {str(i): f"{has_disease[i]}_{split[i]}_{site[i]:02d}" for i in range(NUM_SCANS)}
    male = NUM_MALE / NUM_SCANS
    sex = splits.assign(strata, dict(zip(SEXES, (1 - male, male), strict=True)), seed=seed)
    split = _with_validation(site, has_disease, np.array(split, object), sizes, validation_share, seed + 1)
    return [
        Placement(_levels(site[i], scanners, sex[str(i)]), bool(has_disease[i]), str(split[i]))
        for i in np.argsort(site, kind="stable")
    ]


def _levels(site: int, scanners: Int[np.ndarray, " sites"], sex: str) -> dict[str, str]:
    return {"site": SITES[site], **scanned(SCANNERS[scanners[site]]), "sex": sex}


def _sizes(generator: np.random.Generator) -> tuple[Int[np.ndarray, " sites"], Bool[np.ndarray, " sites"]]:
    """Draws the number of training scans of every site, and whether it has both classes, the largest site first."""
    sizes, mixed = [], []
    for band in _BANDS:
        scans, weight = np.full(band.sites, band.fewest), generator.exponential(size=band.sites)
        for _ in range(band.scans - band.sites * band.fewest):
            chance = weight * (scans < band.most)
            scans[generator.choice(band.sites, p=chance / chance.sum())] += 1
        sizes.append(scans)
        mixed.append(generator.permutation(band.sites) < band.mixed)
    sizes, mixed = np.concatenate(sizes), np.concatenate(mixed)
    order = np.argsort(-sizes, kind="stable")
    return sizes[order], mixed[order]


def _rounded(
    values: Float[np.ndarray, " n"], total: int, generator: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Rounds values up or down to whole numbers with the given sum, by systematic sampling along a random order."""
    order = generator.permutation(len(values))
    ends = np.cumsum(values[order])
    ends[-1] = total  # which it is already, except for rounding errors
    rounded = np.empty(len(values), np.int64)
    rounded[order] = np.diff(np.floor(ends + generator.random()), prepend=0)
    return rounded


def _diseased(
    sizes: Int[np.ndarray, " sites"], tests: Int[np.ndarray, " sites"], mixed: Bool[np.ndarray, " sites"], spread: float,
    generator: np.random.Generator,
) -> Int[np.ndarray, "2 sites"]:  # fmt: skip
    """Draws the number of diseased among the training and the test scans of every site; their sum is that of the original."""
    all_sick = ~mixed & (generator.random(len(sizes)) < 0.5) & (sizes < GIVES_VALIDATION)
    odds = spread * generator.normal(size=len(sizes))[mixed]
    num_in_mixed = NUM_DISEASED - int((sizes + tests)[all_sick].sum())

    def expected(shift: float) -> Float[np.ndarray, "2 mixed"]:
        """Computes expected numbers, with at least one training scan of each class."""
        share = special.expit(odds + shift)
        return np.stack([1 + (sizes[mixed] - 2) * share, tests[mixed] * share])

    shift = optimize.brentq(lambda x: expected(x).sum() - num_in_mixed, -30, 30, xtol=1e-12)
    diseased = np.stack([sizes, tests]) * all_sick
    diseased[:, mixed] = _rounded(expected(shift).ravel(), num_in_mixed, generator).reshape(2, -1)
    return diseased


def _scanners(sizes: Int[np.ndarray, " sites"], generator: np.random.Generator) -> Int[np.ndarray, " sites"]:
    """Draws the scanner of every site; scanner 0 has most training scans."""
    kinds = len(SCANNERS)
    drawn = np.concatenate([np.arange(kinds), generator.integers(kinds, size=len(sizes) - kinds)])
    drawn = generator.permutation(drawn)
    order = np.argsort(-np.bincount(drawn, sizes), kind="stable")
    return np.argsort(order)[drawn]


def _with_validation(
    site: Int[np.ndarray, " n"],
    has_disease: Bool[np.ndarray, " n"],
    split: np.ndarray,
    sizes: Int[np.ndarray, " sites"],
    share: float,
    seed: int,
) -> np.ndarray:
    """Returns the splits after some training scans of larger sites became validation scans."""
    may_move = (split == "train") & (sizes[site] >= GIVES_VALIDATION)
    _, first = np.unique(np.stack([site, has_disease, may_move]), axis=1, return_index=True)
    may_move[first] = False  # one scan of each class stays
    movable = np.flatnonzero(may_move)
    part = round(NUM_TRAIN * share) / len(movable)
    strata = {str(i): f"{has_disease[i]}_{site[i]:02d}" for i in movable}
    assigned = splits.assign(strata, {"train": 1 - part, "validation": part}, seed=seed)
    new_split = split.copy()
    new_split[movable] = [assigned[str(i)] for i in movable]
    return new_split
