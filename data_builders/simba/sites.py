"""Who is scanned where in the scenario ``sites``: 83 hospitals with 1 to 190 training scans, most of them of one class.

Met exactly, by every seed, are the counts of the multi-site Parkinson cohort whose sheet github.com/RaissaSouza/fedTM
publishes: 1,817 scans of 867 diseased and 950 healthy people, 1,062 of them men; 1,410 to train on and 407 to test;
training scans of a site from 1 to 190, 30 sites below 5 and 12 of exactly 1; one class only in 54 sites; 23 scanner types
of 3 vendors; and of the sites of both classes 7, 10 and 21 with at least 40, 30 and 20 training scans, which are 615, 717
and 968 scans.

The sheet leaves the rest open, and these are choices. The largest site has both classes (were it of one, the sites between
5 and 19 could not be filled). One-class sites of 20 scans or more are healthy, the others either with equal chance; a site's
test scans have its classes. Test scans are shared out in proportion to training scans. The share of the diseased in sites of
both classes is logistic-normal with the SD ``class_spread``. Men are as frequent in each class and site. A site has one
scanner, every scanner at least one site, and vendors take turns along the scanners.

The original has no validation split. Here it is taken from the training scans of the sites that have 20 or more of them, in
proportion to site and class, and leaves each site somebody of each class: smaller sites stay whole, so that what is said
above of sites below 20 and of classes holds for the training split itself.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, special

from equipoise.data_builders.base import splits

NUM_SCANS, NUM_DISEASED, NUM_MALE = 1817, 867, 1062
NUM_TRAIN, NUM_TEST = 1410, 407
SITES = tuple(f"site_{i:02d}" for i in range(1, 84))  # by falling number of training scans
SCANNERS = tuple(f"scanner_{i:02d}" for i in range(1, 24))  # likewise
VENDORS = ("vendor_a", "vendor_b", "vendor_c")
SEXES = ("F", "M")
LEVELS = {"site": SITES, "scanner": SCANNERS, "vendor": VENDORS, "sex": SEXES}
GIVES_VALIDATION = 20  # training scans from which on a site gives some of them to validation


class _Band(NamedTuple):
    """Sites of similar size: how many, of them of both classes; fewest and most training scans of one; scans of all."""

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
      has_disease: class.
      split: train, validation or test.
    """

    levels: dict[str, str]
    has_disease: bool
    split: str


def scanned(scanner: str) -> dict[str, str]:
    """The levels of whoever was scanned by it: "scanner" and "vendor"."""
    return {"scanner": scanner, "vendor": VENDORS[SCANNERS.index(scanner) % len(VENDORS)]}


def place(
    generator: np.random.Generator, seed: int, validation_share: float, class_spread: float
) -> list[Placement]:
    """Draws the design: 1,817 people, site by site.

    Args:
      generator: of sizes, classes and scanners.
      seed: of the assignments that are balanced: sex, and with the next seed who is in the validation split.
      validation_share: of the 1,410 training scans.
      class_spread: SD of the log odds of disease between the sites of both classes.
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
    """(training scans, whether it has both classes) of every site, largest first."""
    sizes, mixed = [], []
    for band in _BANDS:
        found, weight = np.full(band.sites, band.fewest), generator.exponential(size=band.sites)
        for _ in range(band.scans - band.sites * band.fewest):
            chance = weight * (found < band.most)
            found[generator.choice(band.sites, p=chance / chance.sum())] += 1
        sizes.append(found)
        mixed.append(generator.permutation(band.sites) < band.mixed)
    sizes, mixed = np.concatenate(sizes), np.concatenate(mixed)
    order = np.argsort(-sizes, kind="stable")
    return sizes[order], mixed[order]


def _rounded(
    values: Float[np.ndarray, " n"], total: int, generator: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Whole numbers, each next to its value, with the given sum: systematic sampling along a random order."""
    order = generator.permutation(len(values))
    ends = np.cumsum(values[order])
    ends[-1] = total  # but for rounding it is
    found = np.empty(len(values), np.int64)
    found[order] = np.diff(np.floor(ends + generator.random()), prepend=0)
    return found


def _diseased(
    sizes: Int[np.ndarray, " sites"], tests: Int[np.ndarray, " sites"], mixed: Bool[np.ndarray, " sites"], spread: float,
    generator: np.random.Generator,
) -> Int[np.ndarray, "2 sites"]:  # fmt: skip
    """The diseased among the training and among the test scans of every site, as many in all as the original has."""
    all_sick = ~mixed & (generator.random(len(sizes)) < 0.5) & (sizes < GIVES_VALIDATION)
    odds = spread * generator.normal(size=len(sizes))[mixed]
    wanted = NUM_DISEASED - int((sizes + tests)[all_sick].sum())

    def expected(shift: float) -> Float[np.ndarray, "2 mixed"]:
        """At least one of each class among the training scans."""
        share = special.expit(odds + shift)
        return np.stack([1 + (sizes[mixed] - 2) * share, tests[mixed] * share])

    shift = optimize.brentq(lambda x: expected(x).sum() - wanted, -30, 30, xtol=1e-12)
    found = np.stack([sizes, tests]) * all_sick
    found[:, mixed] = _rounded(expected(shift).ravel(), wanted, generator).reshape(2, -1)
    return found


def _scanners(sizes: Int[np.ndarray, " sites"], generator: np.random.Generator) -> Int[np.ndarray, " sites"]:
    """Scanner of every site; the first is that with most training scans."""
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
    """The splits once some of the training scans of larger sites are validation scans."""
    asked = (split == "train") & (sizes[site] >= GIVES_VALIDATION)
    _, first = np.unique(np.stack([site, has_disease, asked]), axis=1, return_index=True)
    asked[first] = False  # somebody of each class stays
    asked = np.flatnonzero(asked)
    part = round(NUM_TRAIN * share) / len(asked)
    strata = {str(i): f"{has_disease[i]}_{site[i]:02d}" for i in asked}
    chosen = splits.assign(strata, {"train": 1 - part, "validation": part}, seed=seed)
    found = split.copy()
    found[asked] = [chosen[str(i)] for i in asked]
    return found
