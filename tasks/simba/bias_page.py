"""The page of the study: what the bias does by scenario and by method, and whether the model uses what its features encode.

:mod:`equipoise.tasks.simba.bias_outcomes` defines change, shift and gap.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.lines
import numpy as np
from matplotlib.figure import Figure as Canvas
from scipy import stats

from equipoise.engine.report.figures import dots
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page import Cell, Figure, ReportTable, Section, number, text_cell
from equipoise.tasks.kit import pages
from equipoise.tasks.simba import bias_outcomes as outcomes
from equipoise.tasks.simba import schedule_outcomes as schedules
from equipoise.tasks.simba import schedule_page as across_sites
from equipoise.tasks.simba import theory
from equipoise.tasks.simba.bias_outcomes import ERM, SCORES, Outcome, Outcomes, against, over

_TITLES = {
    "accuracy": "accuracy",
    "change_tpr": "change in TPR",
    "change_fpr": "change in FPR",
    "shift": "shift",
    "gap_tpr": "gap in TPR",
    "gap_fpr": "gap in FPR",
}
_FLOOR = "no bias in training"
_CAPTION = "Mean over seeds, 95 % interval over seeds and subjects (of one seed: over subjects)"


def _of_bias(runs: Sequence[Outcome]) -> str:
    """The bias for a label, such as ``, intensity``; empty where a cohort has only one."""
    return (
        {"bias": ", morphology", "intensity_bias": ", intensity"}[runs[0].bias]
        if runs[0].tested == "multi"
        else ""
    )


def _name(runs: Sequence[Outcome]) -> str:
    """The scenarios of a row, for a label."""
    first = runs[0]
    where = "" if first.trained == first.tested else f" on {first.tested}"
    return f"{first.trained}{where}{_of_bias(runs)}"


def _panels(rows: Mapping[str, Sequence[Outcome]], names: Iterable[str]) -> list[tuple[str, list[dots.Row]]]:
    """A panel of a figure for each score, with its name."""
    panels = []
    for score_name in names:
        drawn = [(label, over(runs, score_name)) for label, runs in rows.items()]
        panels.append((_TITLES[score_name], [dots.row(label, mean, True) for label, mean in drawn if mean]))
    return [p for p in panels if p[1]]


def scenarios(study: Outcomes) -> Section:
    """A section on every scenario, trained without mitigation and scored on its own cohort; the model trained without bias, on all cohorts, is the floor."""
    chosen = {k: runs for k, runs in study.rows().items() if k[1] == ERM}
    rows = []
    for runs in chosen.values():
        first = runs[0]
        what = (
            text_cell(first.trained),
            text_cell(first.tested + _of_bias(runs)),
            Cell(str(len(runs))),
        )
        rows.append(
            (*what, dots.cell(over(runs, "accuracy"), False), *(dots.cell(over(runs, s)) for s in SCORES[1:]))
        )
    shares = {"bias": study.runs[0].shares}
    ideal, fair = theory.expect(shares), theory.expect(shares, uses=())
    limits = [("limit, disease alone", "any", fair), ("limit, disease and bias", "one bias", ideal)]
    two = {o.bias: o.shares for o in study.runs if o.tested == "multi"}
    if len(two) > 1:
        limits.append(("limit, disease and biases", "multi", theory.expect(two)))
    for name, where, limit in limits:
        gaps = [limit.gap("sensitivity", "bias"), limit.gap("fpr", "bias")]
        cells = (Cell(number(c, 3, True)) for c in (*gaps, sum(gaps) / 2, *gaps))
        rows.append((text_cell(name), text_cell(where), Cell(""), Cell(number(limit.accuracy)), *cells))
    header = ("trained on", "tested on", "seeds", *(_TITLES[s] for s in SCORES))
    named = {_name(runs): runs for runs in chosen.values()}
    limit = number(ideal.gap("sensitivity", "bias"), 3, True)
    key = "Large: mean over seeds with its 95 % interval over seeds and subjects; small: each seed."
    drawn = [
        dots.draw(
            _panels(named, ("change_tpr", "change_fpr")), "changes", "Changes of both rates by scenario with 95 % intervals.",
            f"Change of a rate when the bias is rendered into the same subjects. {key} A perfect user of one bias would show {limit}.",
            "with bias − without bias", zero=True,
        ),
        dots.draw(
            _panels(named, ("gap_tpr", "gap_fpr")), "gaps", "Gaps between groups by scenario with 95 % intervals.",
            f"Gap between different subjects, the group with the bias minus the group without. {key} A perfect user would show {limit} here too.",
            "with bias − without bias", zero=True,
        ),
    ]  # fmt: skip
    text = (
        "Every subject of the test split is rendered twice, with the bias and without. Nothing else differs, so that only the bias can change a "
        "decision. The model trained on “none” never saw the bias go together with the disease. What it shows on the other cohorts is the floor: "
        "the bias lies beside the region of the disease. Limits: closed form for the shares of the first row.",
    )  # fmt: skip
    return Section(
        "What the bias does", text, drawn, (ReportTable(header, rows, _CAPTION),), _stronger(chosen)
    )


def _stronger(chosen: Mapping[tuple[str, str, str, str], Sequence[Outcome]]) -> tuple[str, ...]:
    """Says which of two biases in one cohort moves decisions more, and how surely; empty where no cohort has two."""
    two = {k[3]: runs for k, runs in chosen.items() if k[0] == k[2] == "multi"}
    apart = against(two["intensity_bias"], two["bias"], "shift") if len(two) == 2 else None
    if apart is None:
        return ()
    return (
        f"Under “multi” intensity moves decisions by {pages.points(apart.estimate)} more than morphology, paired by seed and subject.",
    )


def methods(study: Outcomes) -> Section | None:
    """A section on mitigation methods beside training as usual, on the same cohort; None where only one method was trained."""
    rows = study.rows()
    trained = {k[0] for k in rows if k[1] != ERM}
    if not trained:
        return None
    chosen = {}
    for (before, method, tested, _), runs in rows.items():
        if tested in trained and (before == tested or (before, method) == ("none", ERM)):
            scenario = f"{tested}: " if len(trained) > 1 else ""
            chosen[scenario + (method.replace("_", " ") if before == tested else _FLOOR) + _of_bias(runs)] = (
                runs
            )
    base = {
        (o[0].tested, o[0].bias): o
        for o in chosen.values()
        if (o[0].method, o[0].trained) == (ERM, o[0].tested)
    }
    floor = {(o[0].tested, o[0].bias): o for o in chosen.values() if o[0].trained != o[0].tested}
    lines, shifts = [], {}
    for name, runs in chosen.items():
        usual = base.get((runs[0].tested, runs[0].bias))
        least = floor.get((runs[0].tested, runs[0].bias))
        apart = [
            against(runs, other, of) if other and runs is not other else None
            for of, other in (("accuracy", usual), ("shift", usual), ("shift", least))
        ]
        means = {s: over(runs, s) for s in SCORES}
        if runs[0].trained == runs[0].tested and means["shift"]:
            shifts[name] = abs(means["shift"].estimate.value)
        cells = [
            dots.cell(means[s], s != "accuracy")
            for s in ("accuracy", "change_tpr", "change_fpr", "gap_tpr", "gap_fpr", "shift")
        ]
        lines.append((text_cell(name), Cell(str(len(runs))), *cells, *(dots.cell(a) for a in apart)))
    header = (
        "method", "seeds", "accuracy", "change in TPR", "change in FPR", "gap in TPR", "gap in FPR", "shift",
        "accuracy − ERM", "shift − ERM", f"shift − {_FLOOR}",
    )  # fmt: skip
    drawn = dots.draw(
        _panels(chosen, ("shift", "gap_tpr", "gap_fpr")), "methods",
        "Shift and gaps of each method with 95 % intervals.",
        "Each method trained where the bias goes with the disease. Shift: how much rendering the bias moves the decision about the same subjects; "
        "0 is a model that does not use it. Large: mean over seeds with its 95 % interval; small: each seed.",
        "with bias − without bias", zero=True,
    )  # fmt: skip
    text = (
        "Differences from ERM (training as usual) are paired by seed and by subject. A method that has a model for each group "
        f"must know the group: when the bias is flipped, another model decides. “{_FLOOR}” is the model of the scenario “none” on the same images.",
    )  # fmt: skip
    return Section(
        "What mitigation does",
        text,
        (drawn,),
        (ReportTable(header, lines, _CAPTION),),
        headline=_least(chosen, shifts),
    )


def _least(chosen: Mapping[str, Sequence[Outcome]], shifts: Mapping[str, float]) -> str | None:
    """Says which method the bias moves least, and how surely; None where no method has a shift."""
    if not shifts:
        return None
    best, *others = sorted(shifts, key=lambda name: shifts[name])
    shift = over(chosen[best], "shift")
    text = f"The method that the bias moves least is {best}, by {pages.points(shift.estimate)}."
    apart = against(chosen[best], chosen[others[0]], "shift") if others else None
    if apart is None:
        return text
    return f"{text} The next is {others[0]}; the difference is {pages.points(apart.estimate)}."


def _last_block(outcome: Outcome) -> str:
    """The last block that was probed."""
    return list(outcome.encoded)[-1]


def _scatter(points: Sequence[Outcome]) -> Figure:
    """A figure of how well the last block tells the bias against how much the bias moves decisions, run by run."""
    kinds = list(dict.fromkeys(o.tested + _of_bias([o]) for o in points))
    with figures.style():
        canvas = Canvas(figsize=(figures.WIDTH, 3.8), layout="constrained")
        axes = canvas.subplots()
        axes.axhline(0, color=figures.LINE, lw=1)
        for point in points:
            place = kinds.index(point.tested + _of_bias([point]))
            colour = figures.COLOURS[place % len(figures.COLOURS)]
            filled = point.trained == point.tested
            axes.plot(
                point.encoded[_last_block(point)][point.bias], 100 * point.scores["shift"].value,
                figures.MARKERS[place % len(figures.MARKERS)], color=colour, mfc=colour if filled else "none", ms=6,
            )  # fmt: skip
        handles = [
            matplotlib.lines.Line2D(
                [], [], ls="", marker=figures.MARKERS[i % len(figures.MARKERS)], color=figures.COLOURS[i % len(figures.COLOURS)], label=figures.label(kind)
            )
            for i, kind in enumerate(kinds)
        ]  # fmt: skip
        canvas.legend(handles=handles, loc="outside upper center", ncols=min(len(kinds), 3))
        axes.set_xlabel("accuracy of the bias probe, last block")
        axes.set_ylabel("shift in decisions, points")
        axes.grid(color=figures.LINE, lw=0.5)
        axes.set_axisbelow(True)
        return figures.finish(
            canvas, "encoding_and_use", "Accuracy of the bias probe against the shift in decisions, run by run.",
            "One point for each run and bias. Further right: the bias can be read better from the last block. Further up: the bias moves decisions more. "
            "Filled: trained where the bias goes with the disease; open: trained without it (“none”). A model at the lower right knows the bias and "
            "does not use it.",
        )  # fmt: skip


def encoding(study: Outcomes) -> Section | None:
    """A section on probes by block and scenario, and on whether what they find is used; None where there are no probes."""
    rows = {k: runs for k, runs in study.rows().items() if all(o.encoded for o in runs)}
    points = [
        o
        for runs in rows.values()
        for o in runs
        if "shift" in o.scores and o.bias in o.encoded[_last_block(o)]
    ]
    if not points:
        return None
    lines = []
    for runs in rows.values():
        first = runs[0]
        for block in first.encoded:
            accuracies = [
                pages.mean_and_sd([o.encoded[block].get(label, np.nan) for o in runs])
                for label in ("disease", first.bias)
            ]
            lines.append(
                (text_cell(first.trained), text_cell(first.method.replace("_", " ")), text_cell(first.tested + _of_bias(runs)), text_cell(block), *accuracies)
            )  # fmt: skip
    header = ("trained on", "method", "tested on", "block", "disease told", "bias told")
    x = [o.encoded[_last_block(o)][o.bias] for o in points]
    y = [o.scores["shift"].value for o in points]
    seen = [i for i, o in enumerate(points) if o.trained == o.tested]
    text = [
        "Probes are cross-validated by subject. What a probe tells is in the features, whether the model uses it or not.",
    ]
    for which, kept in (
        ("all runs", range(len(points))),
        ("the runs trained on the biased cohorts alone", seen),
    ):
        if len(set(np.take(x, kept))) > 2:
            rho = stats.spearmanr(np.take(x, kept), np.take(y, kept)).statistic
            text.append(
                f"Spearman's rank correlation of encoding and use over {which} ({len(kept)} points): {number(rho, 2, True)}."
            )
    grid = ReportTable(header, lines, "Accuracy of the probes, mean and ± SD between seeds", True)
    return Section("Is what is encoded also used?", text, (_scatter(points),), (grid,))


def write(folder: pathlib.Path, data_dir: pathlib.Path) -> list[pathlib.Path]:
    """Writes ``folder/report``: ``report.html``, ``outcomes.csv`` and ``figures/``.

    Args:
      folder: the study's folder.
      data_dir: where its cohorts are prepared.

    Returns:
      The files written.
    """
    study = outcomes.gather(folder)
    apart = schedules.gather(folder, data_dir)
    shown = [
        scenarios(study),
        methods(study),
        encoding(study),
        across_sites.section(apart) if apart else None,
    ]
    sections = [section for section in shown if section]
    sections += pages.left_out([*study.left_out, *(apart.left_out if apart else ())])
    keys = []
    for (trained, method, tested, _), runs in study.rows().items():
        shift = over(runs, "shift")
        if method == ERM and trained == tested and shift:
            keys.append(pages.key_number(f"shift under “{_name(runs)}”", shift.estimate, is_signed=True))
    title = "SimBA: a planted bias, whom it harms, and what helps"
    return pages.write(folder, title, sections, keys, {"outcomes.csv": outcomes.to_csv(study)})
