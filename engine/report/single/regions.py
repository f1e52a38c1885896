"""The regions of a cohort's label map into which the mean saliency maps fall, group by group."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.engine.explain import regions
from equipoise.engine.explain.regions import LabelMap
from equipoise.engine.report.figures.style import (
    COLOURS,
    INK,
    LINE,
    WIDTH,
    file_name,
    finish,
    label,
    name_rows,
    style,
)
from equipoise.engine.report.page import files
from equipoise.engine.report.page.page import Cell, Figure, ReportTable, Section, pointer, text_cell
from equipoise.engine.report.page.words import number, sentence
from equipoise.engine.report.single import saliency
from equipoise.engine.report.single.context import Context
from equipoise.engine.report.single.saliency import MeanMap

CSV = "region_scores.csv"
_TITLE = "Which regions the model looks at"
_LEADING = 8  # regions of each group on the page
_MOST_GROUPS = 6  # most groups of a class on the page; the files hold all
_MARKED = (
    (COLOURS[1], "D", "orange diamond"), (COLOURS[0], "s", "blue square"), (COLOURS[2], "^", "green triangle"), (COLOURS[3], "P", "pink plus")
)  # fmt: skip
_OTHER = (COLOURS[6], "o", "grey circle")


def _scored(context: Context) -> tuple[LabelMap | None, dict[MeanMap, pd.DataFrame]]:
    """The cohort's label map, and the scores of every mean map that has its grid."""
    atlas = regions.read(context.metadata)
    if atlas is None:
        return None, {}
    atlas = dataclasses.replace(atlas, labels=saliency.as_seen(context, atlas.labels))
    return atlas, {
        m: regions.score(m.values, atlas.labels, atlas.names, context.region_cut)
        for m in saliency.mean_maps(context)
        if m.values.shape == atlas.labels.shape
    }


def _words(atlas: LabelMap, region: int) -> str:
    """The name of a region, with what it is marked as: ``right insula (disease region)``."""
    kinds = [f"{kind} region" for kind, marked in atlas.marked.items() if marked == region]
    return atlas.title(region) + (f" ({', '.join(kinds)})" if kinds else "")


def _leading(scores: pd.DataFrame, atlas: LabelMap, count: int = _LEADING) -> list[int]:
    """The regions with the best ranks, and after them those that the cohort marks."""
    ranked = scores["rank"].dropna().sort_values(kind="stable").index
    marked = [r for r in ranked if r in atlas.marked.values()]
    return list(dict.fromkeys([*ranked[:count], *marked]))


def section(context: Context) -> Section | None:
    """The section on regions, which points out those that the cohort marks; None without a label map or saliency maps."""
    atlas, scored = _scored(context)
    if atlas is None or not saliency.mean_maps(context):
        return None
    if not scored:
        text = "The grid of the cohort's label map differs from that of the saliency maps, so its regions have no scores."
        return Section(_TITLE, (text,))
    text = (
        "The mean map of each group is scaled to the range from 0 to 1 and cut: voxels below "
        f"{number(context.region_cut, 2)} drop out. The score of a region is the share of its voxels that survive × their mean saliency, which is "
        "scaled so that the least and the most salient region have 0 and 1 (Stanley et al. 2022, doi 10.1117/1.JMI.9.6.061102). "
        "The cut is a choice; --region_cut sets another.",
        _sentence(scored, atlas),
    )  # fmt: skip
    notes = (
        "All people share the cohort's one label map; each person's own anatomy differs from it. A region next to one that matters ranks high as "
        "well, because convolutions blur and because a change of shape in a region moves its neighbours. Regions of few voxels reach extreme "
        "scores. A low rank does not show that a region is not used: a model may rely on features that its gradients hardly show.",
    )  # fmt: skip
    ranked = {m: scores for m, scores in scored.items() if scores["rank"].notna().any()}
    targets: dict[str, dict[MeanMap, pd.DataFrame]] = {}
    for mean_map, scores in ranked.items():
        targets.setdefault(mean_map.target, {})[mean_map] = scores
    targets = {target: dict(itertools.islice(maps.items(), _MOST_GROUPS)) for target, maps in targets.items()}
    shown = {m: scores for maps in targets.values() for m, scores in maps.items()}
    left = len(ranked) - len(shown)
    more = f" {left} more groups are in {CSV}." if left else ""
    drawn = [_figure(maps, atlas, more) for maps in targets.values()]
    return Section(_TITLE, text, drawn, (_table(shown, atlas),) if shown else (), notes)


def _span(values: Sequence[float], scale: float = 1.0) -> str:
    """The span of some numbers: ``1`` or ``1 to 4``."""
    ends = dict.fromkeys(number(scale * v, 0) for v in (min(values), max(values)))
    return " to ".join(ends)


def _sentence(scored: Mapping[MeanMap, pd.DataFrame], atlas: LabelMap) -> str:
    """A sentence on the rank and the surviving share of the marked regions, over all groups."""
    parts = []
    for kind, region in atlas.marked.items():
        rows = [s.loc[region] for s in scored.values() if region in s.index]
        known = [r for r in rows if np.isfinite(r["rank"])]
        name = f"the {kind} region ({atlas.title(region)})"
        if not known:
            parts.append(
                f"{name} has no score: {rows[0]['reason'] if rows else 'it is not in the label map'}"
            )
            continue
        if not any(r["share"] for r in known):
            parts.append(f"in no group does a voxel of {name} survive, so it shares the last rank")
            continue
        ranked = _span([s["rank"].count() for s in scored.values()])
        where = f"over {len(known)} groups" if len(known) > 1 else "in the one group"
        parts.append(
            f"{name} has rank {_span([r['rank'] for r in known])} of {ranked} {where}, and "
            f"{_span([r['share'] for r in known], 100)} % of its voxels survive"
        )
    return f"{sentence('; '.join(parts))}." if parts else "The cohort marks no region."


def _table(scored: Mapping[MeanMap, pd.DataFrame], atlas: LabelMap) -> ReportTable:
    """A table of the weighted scores of the leading regions of any group, best first; rank, share and mean stand below."""
    leading = {r for scores in scored.values() for r in _leading(scores, atlas)}
    everything = pd.concat([s["weighted"] for s in scored.values()], axis=1).mean(axis=1)
    rows = []
    for region in (
        everything[everything.index.isin(leading)].sort_values(ascending=False, kind="stable").index
    ):
        cells = []
        for mean_map, scores in scored.items():
            row = scores.loc[region]
            note = row["reason"] or (
                f"rank {number(row['rank'], 0)}; {number(100 * row['share'], 0)} %; {number(row['mean'], 2)}"
            )
            key = pointer("region_scores", "groups", mean_map.name, "regions", str(region), "weighted")
            cells.append(Cell(number(row["weighted"]), key, note))
        voxels = int(next(iter(scored.values())).loc[region, "voxels"])
        rows.append((text_cell(_words(atlas, region)), Cell(str(voxels)), *cells))
    header = ("region", "voxels", *(m.title for m in scored))
    caption = (
        f"Weighted scores (0 to 1) of the regions among the first {_LEADING} of any group. Below each score: rank; share of the voxels that survive; "
        f"their mean saliency. {CSV} holds all regions"
    )  # fmt: skip
    return ReportTable(header, rows, caption)


def _figure(scored: Mapping[MeanMap, pd.DataFrame], atlas: LabelMap, more: str) -> Figure:
    """Draws the leading regions of every group of one class, ranked from the top."""
    first = next(iter(scored))
    panels = {m: _leading(s, atlas) for m, s in scored.items()}
    styles = {region: _MARKED[i % len(_MARKED)] for i, region in enumerate(atlas.marked.values())}
    heights = [len(places) + 1.2 for places in panels.values()]
    with style():
        canvas = Canvas(figsize=(1.2 * WIDTH, 0.21 * sum(heights) + 0.7), layout="constrained")
        axes = canvas.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for panel, (m, places) in zip(axes, panels.items(), strict=True):
            _panel(panel, m, scored[m].loc[places], atlas, styles)
        axes[-1].set_xlabel("weighted score")
        canvas.suptitle(label(f"{first.label} {first.target}", 50), fontweight="bold", fontsize=10.5)
        leading = "; ".join(
            f"{m.title}: {', '.join(_words(atlas, r) for r in places[:3])}" for m, places in panels.items()
        )
        marked = ", ".join(
            f"{styles[r][2]}: {kind} region ({atlas.title(r)})" for kind, r in atlas.marked.items()
        )
        caption = (
            f"The {_LEADING} regions with the highest weighted scores by group" + (f", and the marked regions. {sentence(marked)}." if marked else ".") + more
        )  # fmt: skip
        return finish(
            canvas, f"region_scores_{file_name(first.target)}", f"Leading regions of the mean saliency maps. {leading}.", caption
        )  # fmt: skip


def _panel(
    axes: Axes,
    group: MeanMap,
    scores: pd.DataFrame,
    atlas: LabelMap,
    styles: Mapping[int, tuple[str, str, str]],
) -> None:
    names, texts = [], []
    for place, (region, row) in enumerate(scores.iterrows()):
        colour, marker, _ = styles.get(region, _OTHER)
        axes.plot([0, row["weighted"]], [place, place], color=colour if region in styles else LINE, lw=1.6)
        axes.plot(
            row["weighted"], place, marker, color=colour, ms=7 if region in styles else 5, clip_on=False
        )
        rank = (
            number(row["rank"], 0) if row["share"] else "–"
        )  # a region of which nothing survives shares its rank with all such regions
        names.append(label(f"{rank}  {_words(atlas, region)}", 46))
        texts.append(f"{number(row['weighted'], 2)}")
    name_rows(axes, range(len(scores)), names, texts)
    for text, region in zip(axes.get_yticklabels(), scores.index, strict=True):
        if region in styles:
            text.set(color=styles[region][0], fontweight="bold")
    axes.set(xlim=(0, 1), ylim=(len(scores) - 0.4, -0.6), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set_xticklabels(["0", ".25", ".5", ".75", "1"])
    axes.set_title(label(group.group, 36), loc="left", fontsize=10, color=INK)
    axes.grid(axis="x", color=LINE, lw=0.7)
    axes.set_axisbelow(True)


def to_json(context: Context) -> dict[str, Any] | None:
    """Makes the part ``region_scores`` of ``metrics.json``; None where no region has scores."""
    atlas, scored = _scored(context)
    if atlas is None or not scored:
        return None
    kinds = {region: kind for kind, region in atlas.marked.items()}
    groups = {}
    for mean_map, scores in scored.items():
        rows = scores.astype(object).where(scores.notna() & (scores != ""), None).to_dict("index")
        by_region = {
            str(r): {"name": atlas.title(r), "marked": kinds.get(r), **row} for r, row in rows.items()
        }
        groups[mean_map.name] = {
            "target": mean_map.target, "attribute": mean_map.attribute, "level": mean_map.level, "n": mean_map.n, "regions": by_region,
        }  # fmt: skip
    return {"cut": context.region_cut, "groups": groups}


def to_csv(document: Mapping[str, Any]) -> str:
    """The result of :func:`to_json` as a tidy table: a line for each group and region; safe to open in a spreadsheet."""
    rows = [
        {**{k: group[k] for k in ("target", "attribute", "level", "n")}, "cut": document["cut"], "label": int(region), **row}
        for group in document["groups"].values()
        for region, row in group["regions"].items()
    ]  # fmt: skip
    return files.safe_csv(pd.DataFrame(rows))
