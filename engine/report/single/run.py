"""What a run of the engine adds to a report: the prepared cohort and the training curves."""

import collections

from equipoise.engine.report.figures import composition
from equipoise.engine.report.figures import training as training_curves
from equipoise.engine.report.page.page import Cell, ReportTable, Section, text_cell
from equipoise.engine.report.single.context import Context


def _reason(reason: str) -> str:
    """A reason for a skipped scan; one that holds digits or a path, and so could name a person or a place, is replaced."""
    safe = not any(c.isdigit() or c in "/\\" for c in reason)
    return reason if safe else "another reason (see the report beside the cohort)"


def cohort(context: Context) -> Section:
    """The section on the prepared cohort: who is in each split, and who was left out."""
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
    for split, counted in counts.items():
        for name, levels in {**counted.get("labels", {}), **counted.get("attributes", {})}.items():
            if isinstance(levels, dict) and levels and all(isinstance(n, int) for n in levels.values()):
                order = [*known.get(name, ()), *levels]  # so that a level has one colour throughout
                variables[name][split] = {
                    level: levels[level] for level in dict.fromkeys(order) if level in levels
                }
    drawn = (composition.draw(variables),) if variables else ()
    skipped = collections.Counter(_reason(s["reason"]) for s in report.get("skipped", ()))
    total = report.get("skipped_total", sum(skipped.values()))
    if not report:
        text = "There is no cohort report beside the prepared cohort, so this page cannot show its composition or the scans that were skipped."
    elif total:
        text = (
            f"{total} scans could not be used and are in no split: "
            + "; ".join(f"{n} × {why}" for why, n in skipped.most_common())
            + "."
        )
    else:
        text = "No scan was skipped. Every scan of the source is in a split, and every image of the reported split was scored."
    return Section("Cohort", (text,), drawn, (sizes,) if counts else ())


def training(context: Context) -> Section:
    """The section on training: loss and validation scores by step."""
    if not context.history:
        return Section("Training", ("The run's metrics.jsonl has no rows, so there is no curve to show.",))
    best = context.config.get("checkpoint", {}).get("best_metric", "auroc")
    mask_metrics = [
        name for row in context.history for name in row if name == "dice" or name.startswith("dice_")
    ]
    metrics = list(dict.fromkeys([*([best] if best != "loss" else []), "accuracy", *mask_metrics]))
    return Section("Training", (), (training_curves.draw(context.history, context.step, metrics),))
