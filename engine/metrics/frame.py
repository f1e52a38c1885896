"""Any score by any group: values, intervals, gaps against a reference group, the worst group and the range."""

import dataclasses
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from engine.config import UserError, did_you_mean
from engine.metrics import classification, intervals
from engine.metrics.intervals import Estimate
from engine.metrics.table import UNKNOWN, Schema, Table

SCHEMA_VERSION = 1
SMALL = 11  # cells below this in images, events or non-events are flagged
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Disparity:
    """One comparison among the groups of an attribute.

    Attributes:
      value: the point estimate, in the unit of the score.
      low: limit of the 95 % interval.
      high: limit.
      p: two-sided; NaN where no test is made.
      p_adjusted: Holm over the comparisons of one score and attribute.
      test: its name, or None.
      null: the hypothesis in words, with the null band of a range.
      min_detectable: smallest true difference found with 80 % power at this n.
      levels: group minus reference, or the worst group.
      reason: why something is missing.
    """

    value: float
    low: float
    high: float
    p: float = float("nan")
    p_adjusted: float = float("nan")
    test: str | None = None
    null: str | None = None
    min_detectable: float = float("nan")
    levels: tuple[str, ...] = ()
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Frame:
    """Scores of one model on one table.

    Attributes:
      overall: metric -> estimate.
      groups: attribute -> level -> metric -> estimate.
      disparities: attribute -> score -> comparison. Scores are named ``difference:METRIC:LEVEL-REFERENCE``,
        ``worst_group:METRIC`` and ``max_min:METRIC``.
      references: attribute -> reference level.
      settings: seed, resamples, threshold and its split, and what was scored.
    """

    overall: dict[str, Estimate]
    groups: dict[str, dict[str, dict[str, Estimate]]]
    disparities: dict[str, dict[str, Disparity]]
    references: dict[str, str]
    settings: dict[str, Any]


def _split_name(name: str) -> tuple[str, str, str | None]:
    """``worst_group:sensitivity:sex`` -> (kind, metric, attribute); a plain metric has kind ``"overall"``."""
    kind, *rest = name.split(":")
    if kind != "worst_group":
        return "overall", name, None
    if len(rest) != 2:
        raise UserError(
            f"metric {name!r}: write worst_group:METRIC:ATTRIBUTE, such as worst_group:sensitivity:sex"
        )
    return kind, *rest


def higher_is_better(name: str) -> bool:
    """Direction of a metric that selects models: a name of the registry, ``worst_group:METRIC:ATTRIBUTE`` or ``loss``.

    Raises:
      UserError: for an unknown name.
    """
    return False if name == "loss" else classification.get(_split_name(name)[1]).higher_is_better


def _binary(frame: pd.DataFrame, schema: Schema) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth, score, threshold) of a binary table.

    Raises:
      UserError: for a task that has no single positive class.
    """
    if schema.positive is None:
        found = f"{len(schema.classes)} classes" if schema.classes else f"task {schema.task!r}"
        raise UserError(f"scores by group need a binary label, but {schema.label!r} has {found}")
    truth = frame["target"].to_numpy() == schema.classes.index(schema.positive)
    return truth, frame["score"].to_numpy(np.float64), frame["threshold"].to_numpy(np.float64)


def _levels(frame: pd.DataFrame, schema: Schema, attribute: str) -> list[str]:
    """Levels to show, in the schema's order; ``unknown`` last and only where someone is."""
    if attribute not in schema.attributes:
        raise UserError(
            f"no attribute {attribute!r}.{did_you_mean(attribute, schema.attributes)} There are: {', '.join(schema.attributes)}"
        )
    levels = schema.attributes[attribute]
    if levels is None:
        raise UserError(f"attribute {attribute!r} is a number and has no groups")
    known = [level for level in levels if level != UNKNOWN]
    return [*known, UNKNOWN] if (frame[attribute] == UNKNOWN).any() else known


def select_value(frame: pd.DataFrame, name: str, schema: Schema) -> tuple[float, bool]:
    """One number that model selection can rank by.

    Args:
      frame: prediction table, of the validation split.
      name: a metric (``auroc``), or ``worst_group:METRIC:ATTRIBUTE``: the worst of the groups in which it is defined,
        people of unknown group left out.
      schema: of the table.

    Returns:
      (value, whether higher is better); NaN where it is undefined.

    Raises:
      UserError: for an unknown metric or attribute, or a label that is not binary.
    """
    better = higher_is_better(name)
    kind, metric, attribute = _split_name(name)
    truth, score, threshold = _binary(frame, schema)
    if kind == "overall":
        return classification.compute(metric, truth, score, threshold), better
    of_row = frame[attribute].to_numpy() if attribute in frame else None
    values = []
    for level in _levels(frame, schema, attribute):
        rows = of_row == level
        if level != UNKNOWN:
            values.append(classification.compute(metric, truth[rows], score[rows], threshold[rows]))
    values = [v for v in values if not math.isnan(v)]
    return ((min if better else max)(values) if values else float("nan")), better


class _Rows:
    """A table's rows in an order of their own, with what all groups share."""

    def __init__(self, frame: pd.DataFrame, schema: Schema, resamples: int, seed: int):
        code, self.num_subjects = intervals.subject_codes(frame["subject_id"])
        order = np.lexsort(
            (frame["scan_id"].to_numpy(str), code)
        )  # so that row order changes no bit of the result
        self.frame, self.code = frame.iloc[order].reset_index(drop=True), code[order]
        self.truth, self.score, self.threshold = _binary(self.frame, schema)
        self.parts = classification.components(self.truth, self.score, self.threshold)
        self._resamples, self._seed = resamples, seed

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """[patients, 6] summed components of some rows."""
        return np.stack(
            [np.bincount(self.code[rows], p, self.num_subjects) for p in self.parts[rows].T], axis=1
        )

    def totals(self, sets: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[resamples, 6] of each set of rows, all from the same draws."""
        drawn = intervals.resample(
            np.concatenate([self.sums(s) for s in sets], axis=1), self._resamples, self._seed
        )
        return np.split(drawn, len(sets), axis=1)

    def estimates(self, rows: np.ndarray, totals: np.ndarray, metrics: Sequence[str]) -> dict[str, Estimate]:
        """Every metric of a set of rows."""
        return {name: _flag(self._estimate(name, rows, totals)) for name in metrics}

    def _estimate(self, name: str, rows: np.ndarray, totals: np.ndarray) -> Estimate:
        metric = classification.get(name)
        truth, code, parts = self.truth[rows], self.code[rows], self.parts[rows]
        if not metric.ratios:
            return intervals.area(truth, self.score[rows], code, self.num_subjects)
        if metric.is_proportion:
            return self._proportion(metric.ratios[0], metric, parts, code)
        if name == "balanced_accuracy":
            return intervals.average(*(self._proportion(r, metric, parts, code) for r in metric.ratios))
        patients = len(np.unique(code))
        return intervals.bootstrap(
            name, parts.sum(axis=0), totals, n=len(parts), n_subjects=patients, events=int(truth.sum())
        )

    def _proportion(
        self, ratio: tuple, metric: classification.Metric, parts: np.ndarray, code: np.ndarray
    ) -> Estimate:
        numerator, denominator = (
            parts[:, [classification.COMPONENTS.index(c) for c in names]].any(axis=1) for names in ratio
        )
        if not denominator.any():
            return intervals.undefined(metric.undefined)
        return intervals.proportion(numerator[denominator], code[denominator], self.num_subjects)


def _flag(estimate: Estimate) -> Estimate:
    """Marks a cell too small to lean on."""
    if estimate.reason or min(estimate.n, estimate.events, estimate.n - estimate.events) >= SMALL:
        return estimate
    return dataclasses.replace(
        estimate, reason=f"fewer than {SMALL} images, events or non-events: read with care"
    )


def _differences(metric: str, groups: Mapping[str, Estimate], reference: str) -> dict[str, Disparity]:
    found = {}
    for level, estimate in groups.items():
        if level == reference:
            continue
        value, low, high = intervals.difference(estimate, groups[reference])
        p, test = intervals.p_value(estimate, groups[reference])
        missing = next((e.reason for e in (estimate, groups[reference]) if math.isnan(e.value)), None)
        found[f"difference:{metric}:{level}-{reference}"] = Disparity(
            value, low, high, p, test=test, null=f"{metric} is equal in {level} and {reference}",
            min_detectable=intervals.detectable(estimate, groups[reference]), levels=(level, reference), reason=missing,
        )  # fmt: skip
    adjusted = intervals.holm([d.p for d in found.values()])
    return {
        k: dataclasses.replace(d, p_adjusted=a) for (k, d), a in zip(found.items(), adjusted, strict=True)
    }


def _extremes(
    metric: str, groups: Mapping[str, Estimate], totals: Mapping[str, np.ndarray]
) -> dict[str, Disparity]:
    """Worst group and range over the groups where the score exists; at least two are needed."""
    entry = classification.get(metric)
    known = {k: e for k, e in groups.items() if not math.isnan(e.value)}
    left_out = sorted(groups.keys() - known.keys())
    reason = f"undefined in {', '.join(left_out)}" if left_out else None
    if len(known) < 2:
        nothing = Disparity(float("nan"), float("nan"), float("nan"), reason=f"{reason}: nothing to compare")
        return {f"worst_group:{metric}": nothing, f"max_min:{metric}": nothing}
    worst = intervals.worst_group(list(known.values()), entry.higher_is_better)
    name = next(k for k, e in known.items() if e.value == worst[0])
    spread = intervals.max_min(list(known.values()))
    null, p, test = "all groups are equal", float("nan"), None
    if entry.ratios:
        replicates = np.stack([classification.from_sums(metric, totals[k]) for k in known])
        band, p = intervals.range_null([e.value for e in known.values()], replicates)
        test = "range of centred bootstrap replicates"
        null += f"; the range would then read up to {band:.3f} (95th percentile) by chance"
    return {
        f"worst_group:{metric}": Disparity(*worst, levels=(name,), reason=reason),
        f"max_min:{metric}": Disparity(*spread, p, p, test, null, reason=reason),
    }


def _versions() -> dict[str, str]:
    """Of what computed the numbers; a checkout that was never installed has none of its own."""
    found = {}
    for name in ("equipoise", "numpy", "scipy", "pandas"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _settings(rows: _Rows, schema: Schema, resamples: int, seed: int) -> dict[str, Any]:
    frame = rows.frame
    one = lambda column: sorted({str(v) for v in frame[column]})  # noqa: E731
    thresholds = sorted({float(t) for t in frame["threshold"]})
    return {
        "seed": seed,
        "resamples": resamples,
        "confidence": CONFIDENCE,
        "cohort": ", ".join(one("cohort")),
        "split": ", ".join(one("split")),
        "label": schema.label,
        "positive": schema.positive,
        "threshold": thresholds[0] if len(thresholds) == 1 else thresholds,
        "threshold_split": ", ".join(one("threshold_split")),
        "num_images": len(frame),
        "num_subjects": rows.num_subjects,
        "num_positive": int(rows.truth.sum()),
        "checkpoint_step": int(frame["checkpoint_step"].iloc[0]),
        "checkpoint_fingerprint": ", ".join(one("checkpoint_fingerprint")),
        "config_fingerprint": ", ".join(one("config_fingerprint")),
        "versions": _versions(),
    }


def evaluate(
    table: Table,
    metrics: Sequence[str] = tuple(classification.METRICS),
    references: Mapping[str, str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Frame:
    """Every metric overall and by every level of every attribute that has levels.

    Args:
      table: checked predictions of a binary task.
      metrics: names of the registry.
      references: attribute -> level that the others are compared with; by default the first level that has images.
      resamples: of the bootstrap, drawn once for all metrics and groups.
      seed: of the bootstrap.

    Returns:
      The frame. People of unknown group are shown and not compared.

    Raises:
      UserError: for an empty table, a label that is not binary, or an unknown metric or reference.
    """
    schema = table.schema
    if table.frame.empty:
        raise UserError("the prediction table has no row: nothing to report")
    rows = _Rows(table.frame, schema, resamples, seed)
    everyone = np.ones(len(rows.frame), bool)
    cells = {(a, level): (rows.frame[a] == level).to_numpy() for a, kinds in schema.attributes.items() if kinds is not None
             for level in _levels(rows.frame, schema, a)}  # fmt: skip
    totals = dict(zip([None, *cells], rows.totals([everyone, *cells.values()]), strict=True))
    overall = rows.estimates(everyone, totals[None], metrics)
    groups: dict[str, dict[str, dict[str, Estimate]]] = {}
    for (attribute, level), mask in cells.items():
        groups.setdefault(attribute, {})[level] = rows.estimates(mask, totals[attribute, level], metrics)
    disparities: dict[str, dict[str, Disparity]] = {}
    chosen: dict[str, str] = {}
    for attribute, levels in groups.items():
        compared = [level for level in levels if level != UNKNOWN]
        filled = [level for level in compared if cells[attribute, level].any()]
        if len(filled) < 2:
            disparities[attribute] = {}
            continue
        chosen[attribute] = (references or {}).get(attribute, filled[0])
        if chosen[attribute] not in compared:
            raise UserError(
                f"reference {chosen[attribute]!r} is no level of {attribute!r}: {', '.join(compared)}"
            )
        found: dict[str, Disparity] = {}
        for name in metrics:
            by_level = {level: levels[level][name] for level in compared}
            found |= _differences(name, by_level, chosen[attribute])
            found |= _extremes(name, by_level, {level: totals[attribute, level] for level in compared})
        disparities[attribute] = found
    return Frame(
        overall,
        groups,
        disparities,
        chosen,
        _settings(rows, schema, resamples, seed) | {"references": chosen},
    )


def _clean(value: Any) -> Any:
    """JSON has no NaN and no infinity: both become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _clean(v) for k, v in value.items()}
    return [_clean(v) for v in value] if isinstance(value, list | tuple) else value


def _cell(estimate: Estimate) -> dict[str, Any]:
    low, high = estimate.limits(CONFIDENCE)
    cell = {"value": estimate.value, "low": low, "high": high, "n": estimate.n, "n_subjects": estimate.n_subjects,
            "events": estimate.events, "method": estimate.method, "b_valid": estimate.b_valid}  # fmt: skip
    return cell | ({"reason": estimate.reason} if estimate.reason else {})


def _comparison(disparity: Disparity) -> dict[str, Any]:
    values = dataclasses.asdict(disparity)
    if values["reason"] is None:
        del values["reason"]
    return values


def to_json(frames: Mapping[str, Frame]) -> dict[str, Any]:
    """What ``metrics.json`` holds: the first model at the top, every model under ``models``; undefined is null.

    Args:
      frames: model name -> its frame.
    """
    models = {}
    for name, frame in frames.items():
        models[name] = {
            "overall": {k: _cell(e) for k, e in frame.overall.items()},
            "groups": {
                a: {lv: {k: _cell(e) for k, e in m.items()} for lv, m in g.items()}
                for a, g in frame.groups.items()
            },
            "disparities": {
                a: {k: _comparison(d) for k, d in g.items()} for a, g in frame.disparities.items()
            },
        }
    first = next(iter(frames))
    settings = frames[first].settings
    return _clean({"schema_version": SCHEMA_VERSION, **models[first], "models": models, "settings": settings})


def to_csv(document: Mapping[str, Any]) -> str:
    """The first model's numbers of a ``metrics.json`` as a flat table, one score a line."""
    rows = [{"part": "overall", "score": k, **cell} for k, cell in document["overall"].items()]
    for attribute, levels in document["groups"].items():
        for level, cells in levels.items():
            rows += [
                {"part": "group", "attribute": attribute, "level": level, "score": k, **cell}
                for k, cell in cells.items()
            ]
    for attribute, found in document["disparities"].items():
        for name, cell in found.items():
            rows.append(
                {
                    "part": "disparity",
                    "attribute": attribute,
                    "level": " - ".join(cell["levels"]),
                    "score": name,
                    **cell,
                }
            )
    columns = ["part", "attribute", "level", "score", "value", "low", "high", "n", "n_subjects", "events", "method", "b_valid",
               "p", "p_adjusted", "test", "null", "min_detectable", "reason"]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=columns).convert_dtypes().to_csv(index=False)
