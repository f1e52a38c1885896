"""A prediction table, scored and audited: what a report shows of it."""

import dataclasses
import functools
import operator
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.comparing import paired
from equipoise.engine.metrics.decisions.policy import Rule
from equipoise.engine.metrics.frames import frame as metric_frame
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.table import groupings, suppression, thresholds
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.single import adjusted, comparison, policy, sharing
from equipoise.engine.report.single.adjusted import Adjustment
from equipoise.engine.report.single.context import Context
from equipoise.engine.vocabulary import UNKNOWN

VALUES = "values"
_MOST, _FEWEST, _MANY = 2000, 200, 100_000  # resamples; rows from which there are fewer
_MOST_ADJUSTED = 500  # resamples of adjusted gaps


def merge_values(frames: Mapping[str, Frame]) -> Frame:
    """Merges the frames of several columns of values into one, whose scores are ``mean:dice_cup``, ``mean:hd95_cup``.

    Args:
      frames: column -> its scores.
    """

    def renamed(parts: Mapping[str, Mapping[str, Any]], rename: Callable[[str, str], str]) -> dict[str, Any]:
        every = {(name, value): score for value, scores in parts.items() for name, score in scores.items()}
        order = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in every))}
        return {rename(*key): every[key] for key in sorted(every, key=lambda key: order[key[0]])}

    def of_score(name: str, value: str) -> str:
        return f"{name}:{value}"

    def of_comparison(name: str, value: str) -> str:
        kind, colon, rest = name.partition(":")
        metric = rest.partition(":")[0]
        return f"{kind}{colon}{metric}:{value}{rest[len(metric) :]}"

    first = next(iter(frames.values()))
    return dataclasses.replace(
        first,
        overall=renamed({v: f.overall for v, f in frames.items()}, of_score),
        groups={
            a: {level: renamed({v: f.groups[a][level] for v, f in frames.items()}, of_score) for level in levels}
            for a, levels in first.groups.items()
        },
        disparities={
            a: renamed({v: f.disparities[a] for v, f in frames.items()}, of_comparison) for a in first.disparities
        },
    )  # fmt: skip


def _inner(groups: Sequence[str], control: Sequence[str]) -> list[str]:
    """The groups that can be compared within the levels of the control attributes."""
    return [g for g in groups if not set(g.split(groupings.JOIN)) & set(control)]


def _frames(table: Table, groups: Sequence[str], control: Sequence[str], **settings) -> dict[str, Frame]:
    """The scores of every model by group and, with a control, by group within its levels."""
    frames = metric_frame.evaluate_models(table, groups=groups, **settings)
    if not control:
        return frames
    within = metric_frame.evaluate_models(table, groups=_inner(groups, control), control=control, **settings)
    return {
        model: dataclasses.replace(
            frame, groups=frame.groups | within[model].groups, disparities=frame.disparities | within[model].disparities
        )
        for model, frame in frames.items()
    }  # fmt: skip


def _hidden_in_column(table: Table, shown: Sequence[str], min_cell: int, model: str) -> set[suppression.Cell]:
    """The cells that a column of values hides because of its zeros, ones and gaps; empty for other tasks."""
    is_values = table.schema.kind == "values"
    return suppression.hidden_cells(table, shown, min_cell, model) if is_values else set()


def score_table(
    table: Table,
    *,
    groups: Sequence[str],
    control: Sequence[str] = (),
    reference: Mapping[str, str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    min_cell: int | None = None,
    made_by: str = "",
) -> Context:
    """Scores every model of a table.

    Args:
      table: checked predictions of one split, with their thresholds.
      groups: attributes, and intersections such as ``race*sex``, whose groups are compared.
      control: attributes within whose levels groups are compared as well.
      reference: attribute -> the level that the others are compared with.
      resamples: resamples of the bootstrap.
      seed: seed of the bootstrap.
      min_cell: fewest patients, events and non-events of a shown cell, in a report that may be shared; None shows everything.
      made_by: command that the page shows.

    Returns:
      What the table alone tells; :func:`~equipoise.engine.report.single.evaluation.audit_run` adds what a run knows.

    Raises:
      UserError: when the thresholds were chosen on the reported rows, or when a report that may be shared could show nothing.
    """
    if table.schema.kind in ("binary", "multilabel"):
        for chosen, split in set(zip(table.frame["threshold_split"], table.frame["split"], strict=True)):
            thresholds.require_other(chosen, split, "the rule stored in the table")
    settings = {"reference": dict(reference or {}), "resamples": resamples, "seed": seed}
    hidden: frozenset = frozenset()
    if min_cell is None:
        frames = _frames(table, tuple(groups), tuple(control), **settings)
    else:
        strata = groupings.JOIN.join(control)
        within = [strata, *(f"{g}{groupings.GIVEN}{strata}" for g in _inner(groups, control))]
        shown = [*groups, *(within if control else ())]
        hidden = frozenset(suppression.hidden_cells(table, shown, min_cell))
        if suppression.EVERYONE in hidden:
            raise UserError(
                f"nothing of this table can be given away: it has fewer than {min_cell} patients, or too few of them with or without an "
                "event, or its groups would reveal that few; share larger groups, or no groups"
            )
        frames = {}
        for models in [[m] for m in table.models] if table.schema.kind == "values" else [list(table.models)]:
            unseen = hidden | _hidden_in_column(table, shown, min_cell, models[0])
            scored = _frames(table, tuple(groups), tuple(control), models=models, hidden=unseen, **settings)
            frames |= {m: sharing.suppress(frame, table, unseen, min_cell) for m, frame in scored.items()}
    if table.schema.kind == "values":
        frames = {VALUES: merge_values(frames)}
    cohort, split = (table.frame[c].iloc[0] for c in ("cohort", "split"))
    return Context(
        pathlib.Path(), {}, cohort, split, 0, table.schema, next(iter(frames.values())), {(cohort, split): table.frame}, models=frames,
        notes=table.notes, hidden=hidden, min_cell=min_cell, made_by=made_by,
    )  # fmt: skip


def choose_references(
    table: Table, groups: Sequence[str], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Finds the level that the other levels of each attribute are compared with.

    Args:
      table: the predictions.
      groups: attributes, and intersections such as ``race*sex``, whose groups are compared.
      given: attribute or intersection -> the level that was asked for.

    Returns:
      Attribute or intersection -> its reference level: the one given, else the largest known one; of an intersection the levels
      of its attributes crossed, where someone is in that cell.

    Raises:
      UserError: for an attribute or a level that the table lacks.
    """
    references = dict(given or {})
    for name, level in references.items():
        levels = table.schema.attributes.get(name)
        if levels is None:
            known = table.schema.attributes
            raise UserError(
                f"--reference={name}:{level}: {name!r} is not a group.{did_you_mean(name, known)}"
            )
        if level not in levels:
            raise UserError(
                f"--reference={name}:{level}: no such level.{did_you_mean(level, levels)} There are: {', '.join(levels[:20])}"
            )
    for name, levels in table.schema.attributes.items():
        if levels is None:  # a number, for which gaps are adjusted
            continue
        sizes = table.frame.loc[table.frame[name] != UNKNOWN, name].value_counts(sort=False)
        if len(sizes):
            references.setdefault(name, max(sorted(sizes.index), key=lambda level, n=sizes: n[level]))
    for group in groups:
        parts = group.split("*")
        if group not in references and all(name in references for name in parts):
            is_there = functools.reduce(
                operator.and_, (table.frame[name] == references[name] for name in parts)
            )
            if is_there.any():
                references[group] = "*".join(references[name] for name in parts)
    return references


def audit_table(
    table: Table,
    *,
    groups: Sequence[str],
    control: Sequence[str] = (),
    reference: Mapping[str, str] | None = None,
    compare: Sequence[str] = (),
    adjust: Adjustment | None = None,
    rules: Sequence[Rule] | None = None,
    resamples: int | None = None,
    seed: int = 0,
    min_cell: int | None = None,
    made_by: str = "",
) -> Context:
    """Audits a table of predictions: scores by group, gaps between groups, and whatever else is asked for.

    Args:
      table: checked predictions of one split, with their thresholds.
      groups: attributes, and intersections such as ``race*sex``, whose groups are compared.
      control: attributes within whose levels groups are compared as well.
      reference: attribute -> the level that the others are compared with; by default the largest.
      compare: names of two of the table's models, the first compared with the second.
      adjust: confounders, for adjusted gaps beside the raw ones.
      rules: bounds of a policy (:func:`equipoise.engine.metrics.decisions.policy.read`), for verdicts.
      resamples: resamples of the bootstrap; by default 2000, and fewer for a table with more than 100,000 rows.
      seed: seed of the bootstrap.
      min_cell: fewest patients, events and non-events of a shown cell, in a report that may be shared; None shows everything.
      made_by: command that the page shows.

    Returns:
      What the page shows; :func:`equipoise.engine.report.write_report` writes it.

    Raises:
      UserError: for choices that do not fit the table or each other.
    """
    if adjust and min_cell is not None:
        raise UserError(
            "--adjust cannot be combined with --share: an adjusted gap contains the weight of every person"
        )
    if control and not _inner(groups, control):
        raise UserError(
            f"--control={','.join(control)}: no group is left to compare within its levels; name another group with --group"
        )
    models = paired.names(table, compare) if compare else None
    references = choose_references(table, groups, reference)
    resamples = resamples or max(_FEWEST, min(_MOST, _MOST * _MANY // len(table.frame)))
    context = score_table(
        table, groups=groups, control=control, reference=references, resamples=resamples, seed=seed, min_cell=min_cell,
        made_by=made_by,
    )  # fmt: skip
    if models:
        context = comparison.added(context, models)
    if adjust:
        context = adjusted.added(context, adjust, resamples=min(resamples, _MOST_ADJUSTED), seed=seed)
    return context if rules is None else policy.judged(context, rules)
