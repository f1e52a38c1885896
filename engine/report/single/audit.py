"""From a prediction table to the files of its report."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.frames import frame as metric_frame
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.table import groupings, suppression, thresholds
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.page.page import Context
from equipoise.engine.report.single import contents as content
from equipoise.engine.report.single import sharing

VALUES = "values"


def merged(frames: Mapping[str, Frame]) -> Frame:
    """The frames of several values of each case as one, whose scores are ``mean:dice_cup``, ``mean:hd95_cup``."""

    def renamed(parts: Mapping[str, Mapping[str, Any]], rename: Callable[[str, str], str]) -> dict[str, Any]:
        every = {(name, value): one for value, found in parts.items() for name, one in found.items()}
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
    """Groups that can be compared within the levels of the control."""
    return [g for g in groups if not set(g.split(groupings.JOIN)) & set(control)]


def _frames(table: Table, groups: Sequence[str], control: Sequence[str], **settings) -> dict[str, Frame]:
    """Every model's scores by group and, beside them, by group within the levels of the control."""
    frames = metric_frame.evaluate_models(table, groups=groups, **settings)
    if not control:
        return frames
    within = metric_frame.evaluate_models(table, groups=_inner(groups, control), control=control, **settings)
    return {
        model: dataclasses.replace(
            found, groups=found.groups | within[model].groups, disparities=found.disparities | within[model].disparities
        )
        for model, found in frames.items()
    }  # fmt: skip


def _of_column(table: Table, shown: Sequence[str], min_cell: int, model: str) -> set[suppression.Cell]:
    """Cells that the zeros, ones and gaps of a column of values hide in that column."""
    is_values = table.schema.kind == "values"
    return suppression.hidden_cells(table, shown, min_cell, model) if is_values else set()


def context(
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
    """Scores every model of a table and gathers what the page shows.

    Args:
      table: checked, with its thresholds; one split.
      groups: attributes, and intersections such as ``race*sex``.
      control: attributes within whose levels groups are compared as well.
      reference: attribute -> the level that the others are compared with.
      resamples: of the bootstrap.
      seed: of the bootstrap.
      min_cell: fewest patients of a shown cell; None shows everything.
      made_by: command to show.

    Returns:
      What a table alone tells; the report of a run adds what the run knows.

    Raises:
      UserError: when the thresholds were chosen on the rows that are reported, or when a report that may be shared could show
        nothing.
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
                f"nothing of this table can be given away: it has fewer than {min_cell} patients, or too few with or without an "
                "event, or its groups would reveal so few: share larger groups, or none of them"
            )
        frames = {}
        for models in [[m] for m in table.models] if table.schema.kind == "values" else [list(table.models)]:
            unseen = hidden | _of_column(table, shown, min_cell, models[0])
            found = _frames(table, tuple(groups), tuple(control), models=models, hidden=unseen, **settings)
            frames |= {model: sharing.suppress(one, table, unseen, min_cell) for model, one in found.items()}
    if table.schema.kind == "values":
        frames = {VALUES: merged(frames)}
    where, split = (table.frame[c].iloc[0] for c in ("cohort", "split"))
    return Context(
        pathlib.Path(), {}, where, split, 0, table.schema, next(iter(frames.values())), {(where, split): table.frame}, models=frames,
        notes=table.notes, hidden=hidden, min_cell=min_cell, made_by=made_by,
    )  # fmt: skip


def write(table: Table, output: pathlib.Path, **choices) -> list[pathlib.Path]:
    """Writes the report of a table; ``choices`` are those of :func:`context`.

    Returns:
      The files written.
    """
    return content.write(context(table, **choices), output)
