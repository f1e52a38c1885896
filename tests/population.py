"""A population with known true values, from which the simulation of intervals draws its tables."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from equipoise.engine.metrics.table.table import Schema, Table

SHARES = np.array([0.40, 0.25, 0.15, 0.10, 0.06, 0.04])
LEVELS = [f"{share:.0%}" for share in SHARES]
WORSE = 3  # the group of 10 %
SICK = 1 / 3  # share of the patients who are sick
VISIBLE = 0.9  # share of a sick patient's images that show it
LEAN = 0.5  # share of the variance of scores that the images of a patient have in common
METRICS = ("auroc", "sensitivity", "specificity", "balanced_accuracy", "brier", "f1", "calibration_slope")
_RISE = np.sqrt(2) * stats.norm.ppf(0.85)  # distance from absent to present images at an AUROC of .85
SCHEMA = Schema("classification", "disease", ("absent", "present"), "present", {"group": LEVELS})


@dataclasses.dataclass(frozen=True)
class SimulatedPopulation:
    """A population of six groups with binormal scores, given by the AUROC and the sensitivity of each group.

    The scores are N(shift_g, 1) in absent images and N(shift_g + rise_g, 1) in present ones. All true values are closed forms, or
    Gauss-Hermite sums of 200 nodes.

    Attributes:
      area: [6] AUROC of each group.
      sensitivity: [6] sensitivity of each group, at one threshold for all.
    """

    area: tuple[float, ...]
    sensitivity: tuple[float, ...]

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean scores ([6] of absent images, [6] of present images)."""
        present = self.cut + stats.norm.ppf(self.sensitivity)
        return present - np.sqrt(2) * stats.norm.ppf(self.area), present

    cut = _RISE - stats.norm.ppf(0.85)  # so that absent images of an equal group have mean 0
    prevalence = SICK * VISIBLE

    def logit(self, x: np.ndarray) -> np.ndarray:
        """Returns the logit of the probability in the table, which is calibrated where AUROC and sensitivity are .85."""
        return _RISE * x - _RISE**2 / 2 + special.logit(self.prevalence)

    def draw(self, rng: np.random.Generator, patients: int) -> Table:
        """Draws a table with about 2.5 images per patient."""
        code = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
        group = rng.choice(len(SHARES), patients, p=SHARES)[code]
        truth = (rng.random(patients) < SICK)[code] & (rng.random(len(code)) < VISIBLE)
        noise = np.sqrt(LEAN) * rng.normal(size=patients)[code] + np.sqrt(1 - LEAN) * rng.normal(
            size=len(code)
        )
        absent, present = self.means
        score = special.expit(self.logit(np.where(truth, present[group], absent[group]) + noise))
        frame = pd.DataFrame({"target": truth.astype(int), "score": score, "group": np.array(LEVELS)[group]})
        frame = frame.assign(
            subject_id=code.astype(str), scan_id=np.arange(len(code)).astype(str), threshold=special.expit(self.logit(self.cut))
        )  # fmt: skip
        return Table(frame, SCHEMA)

    def values(self, metric: str) -> tuple[float, np.ndarray]:
        """Returns the true value of a metric (for everyone, [6] for each group)."""
        return self._value(metric, SHARES), np.array(
            [self._value(metric, row) for row in np.eye(len(SHARES))]
        )

    def area_across(self, up: np.ndarray, down: np.ndarray) -> float:
        """Returns P(a present image scores above an absent one) for [6] shares of groups ``up`` and ``down`` they come from."""
        absent, present = self.means
        return float(up @ stats.norm.cdf((present[:, None] - absent) / np.sqrt(2)) @ down)

    def _value(self, metric: str, shares: np.ndarray) -> float:
        absent, present = self.means
        sensitivity, fpr = (float(shares @ stats.norm.sf(self.cut - mean)) for mean in (present, absent))
        if metric == "auroc":
            return self.area_across(shares, shares)
        if metric in ("sensitivity", "specificity", "balanced_accuracy"):
            both = {"sensitivity": sensitivity, "specificity": 1 - fpr}
            return both.get(metric, (sensitivity + 1 - fpr) / 2)
        if metric == "f1":
            tp, fp = self.prevalence * sensitivity, (1 - self.prevalence) * fpr
            return 2 * tp / (tp + fp + self.prevalence)
        nodes, weights = special.roots_hermitenorm(200)
        logit = self.logit(nodes + np.stack([absent, present])[..., None])  # [2, 6, nodes]
        weight = (
            np.array([1 - self.prevalence, self.prevalence])[:, None, None]
            * shares[:, None]
            * weights
            / weights.sum()
        )
        truth = np.array([0, 1])[:, None, None]
        if metric == "brier":
            return float((weight * (special.expit(logit) - truth) ** 2).sum())

        def score_equations(line: np.ndarray) -> list[float]:
            error = weight * (special.expit(line[0] + line[1] * logit) - truth)
            return [error.sum(), (error * logit).sum()]

        return float(optimize.root(score_equations, [0.0, 1.0], tol=1e-12).x[1])


def population(scenario: str) -> SimulatedPopulation:
    """Returns the population of equal groups at .85, or with one worse group at .73."""
    values = [0.85] * len(SHARES)
    if scenario == "one_worse":
        values[WORSE] = 0.73
    return SimulatedPopulation(tuple(values), tuple(values))


# Functions of everyone's value and the groups' values ([6] or [6, b]) that the library refuses to bootstrap.
EXTREMES: Mapping[str, Callable] = {
    "worst_group": lambda overall, groups: groups.min(axis=0),
    "max_min": lambda overall, groups: np.ptp(groups, axis=0),
    "min_over_max": lambda overall, groups: groups.min(axis=0) / groups.max(axis=0),
    "sd": lambda overall, groups: groups.std(axis=0),
    "equity_scaled_sum": lambda overall, groups: overall / (1 + abs(overall - groups).sum(axis=0)),
    "equity_scaled_sd": lambda overall, groups: overall / (1 + groups.std(axis=0)),
}
EXTREME_OF = ("auroc", "sensitivity")
PAIRS = {"25 %": 1, "4 %": 5}  # compared with the group of 40 %
GAPS = ("auroc", "sensitivity", "brier", "f1", "calibration_slope")
SCENARIOS = ("equal", "one_worse")


@functools.cache
def truths(scenario: str) -> dict[str, float]:
    """Returns quantity -> its true value."""
    people = population(scenario)
    values = {metric: people.values(metric) for metric in METRICS}
    true_values = {metric: overall for metric, (overall, _) in values.items()}
    true_values["sensitivity of 4 %"] = values["sensitivity"][1][5]
    for metric in GAPS:
        for name, other in PAIRS.items():
            true_values[f"{metric}, {name} − 40 %"] = values[metric][1][other] - values[metric][1][0]
    for name, other in PAIRS.items():
        true_values[f"sensitivity, {name} ÷ 40 %"] = (
            values["sensitivity"][1][other] / values["sensitivity"][1][0]
        )
        up, down = np.eye(len(SHARES))[other], np.eye(len(SHARES))[0]
        true_values[f"xAUC, {name} − 40 %"] = people.area_across(up, down) - people.area_across(down, up)
    true_values["sensitivity, 4 % − the rest"] = (
        values["sensitivity"][1][5] - values["sensitivity"][1][:5] @ SHARES[:5] / SHARES[:5].sum()
    )
    for metric in EXTREME_OF:
        true_values |= {f"{kind}:{metric}": float(of(*values[metric])) for kind, of in EXTREMES.items()}
    true_values["worst_group:brier"] = values["brier"][1].max()
    true_values["max_min:brier"] = np.ptp(values["brier"][1])
    return true_values
