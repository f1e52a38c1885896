"""Suppression: which cells a shared report must hide, so that no small group of people can be read off or calculated from the others.

A cell is small if it has fewer than ``min_cell`` patients, or fewer with an image of one of the classes. In a column of zeros and ones
the two values count as classes, and in every column of values the missing value does. A cell without anyone is hidden too,
so that it looks like any other hidden cell.

Hiding the small cells is not enough, because the total minus the shown levels gives a hidden one back. A cell, or the union of the hidden
cells of an attribute, is exposed if some sum and difference of shown cells equals it. The smallest shown cell that takes part in
this sum is then hidden too, until nothing small is exposed. Cells are vectors over the finest parts that the groupings cut the people
into, so that this is linear algebra and exact for any set of overlapping groupings.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from equipoise.engine.metrics.formulas import segmentation
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.table import Table

Cell = tuple[str, str]
EVERYONE: Cell = ("", "")
_FIT_ERROR = 1e-7  # residuals and weights of a least-squares fit that are smaller count as 0


def row_levels(frame: pd.DataFrame, attribute: str) -> np.ndarray:
    """Returns the level of each row [n] in an attribute, an intersection (``race*sex``) or a stratum (``race|site``)."""
    if attribute in frame:
        return frame[attribute].to_numpy(str)
    first, *rest = re.split(r"([*|])", attribute)
    label = frame[first].astype(str)
    for sign, name in zip(rest[::2], rest[1::2], strict=True):
        label = label + sign + frame[name].astype(str)
    return label.to_numpy(str)


def every_level(table: Table, attribute: str) -> list[str]:
    """Returns all levels that a grouping could have, in order, with and without rows."""
    frame, schema = table.frame, table.schema
    if attribute in frame:
        return groupings.levels_of(frame, schema, attribute)
    first, *rest = re.split(r"([*|])", attribute)
    combined = groupings.levels_of(frame, schema, first)
    for sign, name in zip(rest[::2], rest[1::2], strict=True):
        levels = groupings.levels_of(frame, schema, name)
        combined = [f"{a}{sign}{b}" for a, b in itertools.product(combined, levels)]
    return combined


def _classes(table: Table, model: str | None) -> Iterator[Bool[np.ndarray, " n"]]:
    """Yields whether each row [n] belongs to a class, for each class that counts as events or non-events."""
    columns, kind = table.columns(model), table.schema.kind
    if kind == "multiclass":
        yield from (columns["truth"] == k for k in range(len(table.schema.classes)))
    elif kind in ("binary", "multilabel"):
        for truth in columns["truth"].reshape(len(table.frame), -1).T:
            yield from (truth, ~truth)
    elif kind == "values" and model is not None:
        value = columns["value"]
        yield np.isfinite(value)
        if segmentation.is_share(value):
            yield from (value == 1, value == 0)


class _Partition:
    """The cells of all groupings, as sets of the finest parts that the groupings cut the people into.

    Attributes:
      names: (attribute, level) of each cell; everyone comes last.
      attribute: [cells] number of each cell's attribute.
      of: [cells, parts] whether each part belongs to each cell.
      size: [cells] number of rows of each cell.
    """

    def __init__(self, table: Table, attributes: Sequence[str], min_cell: int, model: str | None):
        self._min = min_cell
        factors = [pd.factorize(row_levels(table.frame, a), sort=True) for a in attributes]
        codes = np.stack([np.zeros(len(table.frame), int), *(code for code, _ in factors)], axis=1)
        parts, self._part = np.unique(codes, axis=0, return_inverse=True)
        everyone, *columns = parts.T
        self.names = [
            (a, str(level)) for a, (_, levels) in zip(attributes, factors, strict=True) for level in levels
        ]
        self.names.append(EVERYONE)
        self.attribute = np.repeat(range(len(factors) + 1), [*(len(levels) for _, levels in factors), 1])
        members = [column == np.arange(column.max() + 1)[:, None] for column in (*columns, everyone)]
        self.of = np.concatenate(members)  # [cells, parts]
        self.size = self.of @ np.bincount(self._part, minlength=len(parts))
        patient = pd.factorize(table.frame["subject_id"])[0]
        self._patients = [patient, *(np.where(rows, patient, -1) for rows in _classes(table, model))]
        self._missing = np.full(len(patient), -1)  # patients who lack a value; it is no secret if nobody does
        if table.schema.kind == "values" and model is not None:
            self._missing = np.where(np.isfinite(table.columns(model)["value"]), -1, patient)
        self._in_part = np.stack([self._count(p) for p in self._patients])  # [kinds, parts]

    def _count(self, patient: Int[np.ndarray, " n"]) -> Int[np.ndarray, " parts"]:
        """Counts the patients of one kind in each part."""
        pairs = np.unique(np.stack([self._part, patient], axis=1)[patient >= 0], axis=0)
        return np.bincount(pairs[:, 0], minlength=self.of.shape[1])

    def is_small(self, members: Bool[np.ndarray, " parts"]) -> bool:
        """Returns whether a union of parts has patients, but too few of some kind."""
        if not members.any():
            return False
        missing = self._missing[members[self._part]]
        if 0 < len(np.unique(missing[missing >= 0])) < self._min:
            return True
        unsure = self._in_part[:, members].max(axis=1) < self._min  # otherwise one part alone is large enough
        if not unsure.any():
            return False
        rows = members[self._part]
        kinds = (p for p, is_unsure in zip(self._patients, unsure, strict=True) if is_unsure)
        return any(len(np.unique(p[rows & (p >= 0)])) < self._min for p in kinds)

    def protected(
        self, hidden: Bool[np.ndarray, " cells"]
    ) -> Iterator[tuple[int, Bool[np.ndarray, " parts"]]]:
        """Yields (attribute, parts) of what must stay unknown: small hidden cells, and their small unions inside a shown cell."""
        seen = set()
        for number in np.unique(self.attribute[:-1]):
            of_attribute = self.of[hidden & (self.attribute == number)]
            unions = (of_attribute.any(axis=0) & shown for shown in self.of[~hidden] if len(of_attribute))
            for members in [*of_attribute, *unions]:
                key = members.tobytes()
                if key not in seen and members.any():
                    seen.add(key)
                    if self.is_small(members):
                        yield int(number), members


def _exposing(
    shown: Float[np.ndarray, "parts shown"], wanted: Float[np.ndarray, "parts k"]
) -> list[Int[np.ndarray, " used"]]:
    """Returns for each wanted vector the numbers of the shown ones that sum to it with some weights; empty where none do."""
    weights = np.linalg.lstsq(shown, wanted, rcond=None)[0]
    is_exact = np.abs(shown @ weights - wanted).max(axis=0) < _FIT_ERROR
    return [
        np.flatnonzero(np.abs(w) > _FIT_ERROR) if exact else np.array([], int)
        for w, exact in zip(weights.T, is_exact, strict=True)
    ]


def hidden_cells(
    table: Table, attributes: Sequence[str], min_cell: int, model: str | None = None
) -> set[Cell]:
    """The cells that a shared report must not show.

    Args:
      table: the table that is reported.
      attributes: all groupings whose cells would be shown, including intersections and strata.
      min_cell: fewest patients, patients with an event and patients without one that a shown cell may have.
      model: column of values whose own zeros, ones and missing values count; by default only patients count in a table of values.

    Returns:
      (attribute, level) of each hidden cell, including levels without anyone. If the whole table is too small, these are all cells and
      ``EVERYONE``.
    """
    cells = _Partition(table, attributes, min_cell, model)
    hidden = np.array([cells.is_small(members) for members in cells.of])
    while not hidden.all():
        protected = list(cells.protected(hidden))
        if not protected:
            break
        shown = np.flatnonzero(~hidden)
        wanted = np.stack([members for _, members in protected], axis=1).astype(np.float64)
        exposing = _exposing(cells.of[shown].T.astype(np.float64), wanted)
        extra = set()
        for (number, _), used in zip(protected, exposing, strict=True):
            if len(used):
                candidates = shown[used]
                order = lambda i, number=number: (  # noqa: E731
                    i == len(hidden) - 1,
                    cells.attribute[i] != number,
                    cells.size[i],
                    i,
                )
                extra.add(min(candidates, key=order))
        if not extra:
            break
        hidden[list(extra)] = True
    if hidden[-1]:  # everyone is hidden, and any shown cell would be a part of everyone
        hidden[:] = True
    empty = {(a, level) for a in attributes for level in every_level(table, a)} - {*cells.names}
    return empty | {cells.names[i] for i in np.flatnonzero(hidden)}
