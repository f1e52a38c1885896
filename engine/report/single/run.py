"""What a run of the engine adds to a report: the prepared cohort, training curves, saliency."""

import collections

from equipoise.engine.report.figures import composition
from equipoise.engine.report.figures import training as training_curves
from equipoise.engine.report.page.page import Cell, ReportTable, Section, text_cell
from equipoise.engine.report.single.context import Context


def _reason(reason: str) -> str:
    """A reason without anything that could name a person or a place: digits and paths are dropped with their text."""
    safe = not any(c.isdigit() or c in "/\\" for c in reason)
    return reason if safe else "another reason (kept beside the cohort)"


def cohort(context: Context) -> Section:
    """Who is in each split, and who was left out."""
    report = context.cohort_report
    counts = report.get("counts", {})
    sizes = ReportTable(
        ("split", "patients", "images"),
        [(text_cell(s), Cell(str(c["subjects"])), Cell(str(c["scans"]))) for s, c in counts.items()],
    )
    variables: dict[str, dict[str, dict[str, int]]] = collections.defaultdict(dict)
    known = {context.schema.label: context.schema.classes} | {
        k: v for k, v in context.schema.attributes.items() if v
    }
    for split, found in counts.items():
        for name, levels in {**found.get("labels", {}), **found.get("attributes", {})}.items():
            if isinstance(levels, dict) and levels and all(isinstance(n, int) for n in levels.values()):
                order = [*known.get(name, ()), *levels]  # so that a level has one colour throughout
                variables[name][split] = {
                    level: levels[level] for level in dict.fromkeys(order) if level in levels
                }
    drawn = (composition.draw(variables),) if variables else ()
    skipped = collections.Counter(_reason(s["reason"]) for s in report.get("skipped", ()))
    total = report.get("skipped_total", sum(skipped.values()))
    if not report:
        text = "No cohort report was found beside the prepared cohort, so that its composition and what was skipped cannot be shown."
    elif total:
        text = (
            f"{total} scans could not be used and are in no split: "
            + "; ".join(f"{n} × {why}" for why, n in skipped.most_common())
            + "."
        )
    else:
        text = "No scan was skipped: every scan of the source is in a split, and every image of the reported split is scored."
    return Section("Cohort", (text,), drawn, (sizes,) if counts else ())


def training(context: Context) -> Section:
    """Loss and validation score by step."""
    if not context.history:
        return Section(
            "Training", ("The run's metrics.jsonl holds no row, so that there is no curve to show.",)
        )
    best = context.config.get("checkpoint", {}).get("best_metric", "auroc")
    of_masks = [name for row in context.history for name in row if name == "dice" or name.startswith("dice_")]
    metrics = list(dict.fromkeys([*([best] if best != "loss" else []), "accuracy", *of_masks]))
    return Section("Training", (), (training_curves.draw(context.history, context.step, metrics),))
