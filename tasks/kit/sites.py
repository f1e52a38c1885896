"""How errors differ between the sites of a cohort, or the levels of any other attribute, and how much of that chance explains.

The misclassification rate of a site with a single test scan is 0 or 1, so that the range over all sites is 1 whatever the model
does. Every spread is therefore also given for sites with enough scans, and beside it stands what chance alone gives: the same
errors, dealt at random to the same scans.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import chance, comparisons, intervals, seeds
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.vocabulary import UNKNOWN

SITE = "site"
MIN_SCANS = (1, 5, 10, 20)  # fewest test scans of a site, for each line of the table of spreads
LEADING = 10  # the line that the top of the page shows
DRAWS = 10_000


@dataclasses.dataclass(frozen=True)
class Measure:
    """One measure of how rates differ, with the values that chance gives.

    Attributes:
      value: of the measure; NaN for fewer than two sites.
      low: lower limit of the 95 % interval.
      high: upper limit.
      null_mean: the mean of the measure by chance, when every scan is equally likely to be in error.
      null_low: one deal in twenty gives less.
      null_high: one deal in twenty gives more.
      p: share of deals that give at least ``value``. Null: errors fall on scans regardless of their site. Test: permutation.
    """

    value: float
    low: float
    high: float
    null_mean: float
    null_low: float
    null_high: float
    p: float


@dataclasses.dataclass(frozen=True)
class SiteSpread:
    """How the misclassification rates e of K sites differ. For several runs, a site's rate is its mean over the runs.

    Attributes:
      min_scans: fewest test scans of a site that counts.
      num_sites: K.
      num_scans: test scans of these sites.
      lowest: min e.
      highest: max e.
      max_min: max e − min e; limits by MOVER of all pairs (:func:`equipoise.engine.metrics.estimates.comparisons.max_min`).
      sd: √(Σ (e − ē)² / K), ē = Σ e / K: every site counts the same (:func:`equipoise.engine.metrics.estimates.comparisons.sd`).
    """

    min_scans: int
    num_sites: int
    num_scans: int
    lowest: float
    highest: float
    max_min: Measure
    sd: Measure


def errors(table: Table, attribute: str = SITE) -> dict[str, Estimate]:
    """The misclassification rate of every site with a test scan, in the schema's order, with Wilson limits.

    Args:
      table: predictions of a binary task.
      attribute: whose levels are the sites.
    """
    columns = table.columns()
    wrong = columns["called"] != columns["truth"]
    patient = intervals.subject_codes(table.frame["subject_id"])[0]
    rates = {}
    for level in groupings.levels_of(table.frame, table.schema, attribute):
        rows = (table.frame[attribute] == level).to_numpy()
        if level != UNKNOWN and rows.any():
            rates[level] = intervals.proportion(wrong[rows], patient[rows])
    return rates


def spread(
    errors: Mapping[str, Estimate], min_scans: int = 1, *, draws: int = DRAWS, seed: int = 0
) -> SiteSpread:
    """How rates differ among sites, with the values that chance alone gives.

    Chance deals the errors of the counted sites to their scans: the number in error at each site is multivariate
    hypergeometric.

    Args:
      errors: site -> its rate, from :func:`errors`.
      min_scans: fewest scans of a site that counts.
      draws: the number of deals.
      seed: of the deals.

    Raises:
      UserError: for patients with several scans, whose errors cannot be dealt one by one.
    """
    several = sum(e.n - e.n_subjects for e in errors.values())
    if several:
        raise UserError(
            f"column 'subject_id' repeats in {several} rows within sites: the spread over sites needs one image per subject; keep one of each"
        )
    counted = [e for e in errors.values() if e.n >= min_scans]
    scans = np.array([e.n for e in counted], np.int64)
    if len(counted) < 2:
        rate = counted[0].value if counted else float("nan")
        return _no_spread(min_scans, len(counted), int(scans.sum()), rate)
    wrong = np.array([e.events for e in counted])
    rates = wrong / scans
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(scans, wrong.sum(), draws) / scans
    measures = (
        measured(float(np.ptp(rates)), comparisons.max_min(counted)[1:], np.ptp(dealt, axis=1)),
        measured(float(rates.std()), comparisons.sd(counted)[1:], dealt.std(axis=1)),
    )
    return SiteSpread(
        min_scans, len(counted), int(scans.sum()), float(rates.min()), float(rates.max()), *measures
    )


def _no_spread(min_scans: int, num_sites: int, num_scans: int, rate: float) -> SiteSpread:
    """The spread of fewer than two sites, which has no value."""
    nothing = Measure(*[float("nan")] * 7)
    return SiteSpread(min_scans, num_sites, num_scans, rate, rate, nothing, nothing)


def measured(value: float, limits: tuple[float, float], drawn: Float[np.ndarray, " draws"]) -> Measure:
    """A measure beside the values that deals of the errors gave."""
    as_far = int((drawn >= value - 1e-12).sum())  # equal up to rounding
    return Measure(value, *limits, *chance.band(drawn), (1 + as_far) / (1 + len(drawn)))


def overall(table: Table, attribute: str = SITE) -> dict[str, dict[str, Estimate]]:
    """Accuracy and AUROC of everyone, with limits for new patients and for new sites.

    Limits for new sites take the site as the cluster, since patients of one site may resemble each other and be served alike.

    Args:
      table: predictions of a binary task.
      attribute: whose levels are the sites; images of unknown site are one cluster.

    Returns:
      "accuracy" and "auroc" -> "patient" and "site", the cluster -> estimate; the value is the same.
    """
    columns = table.columns()
    right = columns["called"] == columns["truth"]
    clusters = {"patient": table.frame["subject_id"], "site": table.frame[attribute]}
    codes = {unit: intervals.subject_codes(names)[0] for unit, names in clusters.items()}
    return {
        "accuracy": {unit: intervals.proportion(right, code) for unit, code in codes.items()},
        "auroc": {
            unit: intervals.area(columns["truth"], columns["score"], code) for unit, code in codes.items()
        },
    }


def spread_over_runs(
    site: Shaped[np.ndarray, " n"],
    wrong: Sequence[Float[np.ndarray, " n"]],
    errors: Sequence[Mapping[str, Estimate]],
    min_scans: int = LEADING,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> SiteSpread:
    """How errors differ among sites over several runs of one kind, with the values that chance alone gives; the SD has no limits.

    Every site's rate is its mean over the runs; limits of the range by :func:`equipoise.engine.metrics.estimates.seeds.largest_difference`. Chance
    deals whole patients, each with its errors under every seed, to the places at the sites.

    Args:
      site: of each patient.
      wrong: for each run, 1 where the patient is misclassified, else 0.
      errors: for each run, the rates of its sites, from :func:`errors`.
      min_scans: fewest test scans of a site that counts.
      draws: the number of deals.
      seed: of the deals.
    """
    names, code, scans = np.unique(site, return_inverse=True, return_counts=True)
    kept = [k for k, name in enumerate(names) if scans[k] >= min_scans and name != UNKNOWN]
    rows = np.isin(code, kept)
    place = np.searchsorted(kept, code[rows])
    member = np.eye(len(kept))[place] / np.bincount(place)[place][:, None]
    mean_wrong = np.mean([run[rows] for run in wrong], axis=0)
    rates = mean_wrong @ member
    counted = min_scans, len(kept), int(rows.sum())
    if len(kept) < 2:
        return _no_spread(*counted, float(rates[0]) if kept else float("nan"))
    generator = np.random.default_rng(seed)
    dealt = np.stack([generator.permutation(mean_wrong) for _ in range(draws)]) @ member
    levels = [[run[names[k]] for run in errors] for k in kept]
    limits = (
        seeds.largest_difference(levels) if len(wrong) > 1 else comparisons.max_min([e for (e,) in levels])
    )
    return SiteSpread(
        *counted, float(rates.min()), float(rates.max()),
        measured(float(np.ptp(rates)), (limits[1], min(limits[2], 1.0)), np.ptp(dealt, axis=1)),
        measured(float(rates.std()), (np.nan, np.nan), dealt.std(axis=1)),
    )  # fmt: skip
