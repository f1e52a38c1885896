"""A methods paragraph to paste into a paper, and the settings with which a report can be made again."""

from equipoise.engine.metrics.frames import ranking
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.page.page import ReportTable, Section, text_cell
from equipoise.engine.report.page.words import number, short_title
from equipoise.engine.report.single import findings
from equipoise.engine.report.single.context import Context, named_class

_INTERVALS = {
    "Wilson": "Wilson limits at an effective sample size that allows for several images of a patient",
    "Obuchowski": "the clustered variance of Obuchowski (1997) on the logit scale with t quantiles",
    "MOVER": "the method of variance estimates recovery (Zou and Donner 2008)",
    "percentile": "percentiles of a bootstrap that resamples patients",
    "BCa": "bias-corrected and accelerated percentiles of a bootstrap that resamples patients",
}


def _methods_used(context: Context) -> str:
    """How the intervals of the scores were made: the scores of each method, and the method in words."""
    used: dict[str, list[str]] = {}
    for metric, estimate in context.frame.overall.items():
        for key, text in _INTERVALS.items():
            if key in estimate.method:
                used.setdefault(text, []).append(short_title(metric))
                break
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in used.items())


def _thresholds(context: Context) -> dict[str, float]:
    """Score column -> its threshold; empty for a task without thresholds."""
    if context.schema.kind not in ("binary", "multilabel"):
        return {}
    table = Table(context.table, context.schema)
    return {c: float(table.threshold(c)[0]) for columns in context.schema.models.values() for c in columns}


def _listed_thresholds(context: Context) -> str:
    """The threshold, ``0.300``, or several different ones, ``resnet 0.300, vit 0.412``."""
    thresholds = _thresholds(context)
    if len(set(thresholds.values())) == 1:
        return number(next(iter(thresholds.values())))
    return ", ".join(f"{column} {number(value)}" for column, value in thresholds.items())


def _threshold(context: Context) -> str:
    if not _thresholds(context):
        return ""
    split = context.frame.settings["threshold_split"]
    where = (
        "given, not chosen on the reported data"
        if split == "fixed"
        else f"chosen on the {split} data, not on the reported data"
    )
    return f" A score at or above the threshold ({_listed_thresholds(context)}) counted as positive; it was {where}."


def paragraph(context: Context) -> str:
    """The methods in the words of a paper; the paragraph says what was done, and nothing about the results."""
    settings, schema = context.frame.settings, context.schema
    simple = list(context.simple)
    references = ", ".join(f"“{v}” for {a}" for a, v in context.frame.references.items() if a in simple)
    groups = f"Results are given overall and by {', '.join(simple)}. " if simple else ""
    against = (
        f"Groups were compared with a reference group ({references}) "
        if references
        else "Groups were compared "
    )
    predicted = schema.label if schema.kind == "values" else f"predictions of {schema.label}"
    events = (
        f", {settings['num_positive']} with {named_class(context, schema.positive)}"
        if schema.kind == "binary"
        else ""
    )
    text = (
        f"We evaluated {predicted} in {len(context.table)} {context.unit} of {settings['num_subjects']} patients{events}.{_threshold(context)} {groups}"
        f"The patient was the unit of analysis. 95 % confidence intervals: {_methods_used(context)}. "
    )
    if simple:
        text += (
            f"{against}in {', '.join(short_title(m) for m in findings.compared(context))} and the other scores; differences have MOVER or "
            "bootstrap intervals, two-sided p values were adjusted by Holm's method within score and attribute, and intervals of worst groups and "
            "ranges use Bonferroni constructions. People whose group is unknown were reported but not compared. "
        )  # fmt: skip
    strata = sorted({a.partition("|")[2] for a in context.frame.groups if "|" in a})
    if strata:
        text += f"Groups were also compared within each level of {', '.join(strata)}. "
    version = settings["versions"].get("equipoise", "")
    if context.min_cell:
        text += f"Groups with fewer than {context.min_cell} patients, events or non-events were suppressed, with complementary suppression. "
    return (
        text + f"The bootstrap used {settings['resamples']} resamples (seed {settings['seed']}). Computed with Equipoise"
        + (f" {version}." if version and version[0].isdigit() else ".")
    )  # fmt: skip


def methods(context: Context) -> Section:
    """The section with the methods paragraph."""
    return Section("Methods, to paste into a paper", (paragraph(context),))


_HOW = {"validation": "chosen on the validation split", "fixed": "given"}


def _checkpoint(context: Context) -> str:
    """How the checkpoint compares with the others of the run by the run's own metric; empty where nothing was evaluated."""
    best = context.config.get("checkpoint", {}).get("best_metric", "")
    evaluated = [r for r in context.history if r.get("split") == "validation" and r.get(best) is not None]
    if not evaluated:
        return ""
    choose = max if ranking.higher_is_better(best) else min
    top = choose(r[best] for r in evaluated)
    values = [r[best] for r in evaluated if r["step"] == context.step]
    is_best = values and values[0] == top
    return f"best validation {best} ({number(top)})" if is_best else f"not the best by validation {best}"


def _threshold_row(context: Context) -> tuple[str, str, str]:
    """The row on the threshold: its name, its value and how it was chosen, and a note."""
    split = context.frame.settings["threshold_split"]
    how = _HOW.get(split, f"chosen on split “{split}”")
    rule = context.config.get("task", {}).get("threshold", "")
    note = "a score at or above it counts as positive; it is never chosen on the reported split"
    return "threshold", f"{_listed_thresholds(context)}, {how}", f"rule {rule}; {note}" if rule else note


def _scored(context: Context) -> ReportTable:
    """The table of what was scored, by which model, and how the threshold was chosen."""
    chosen, schema = context.frame.settings, context.schema
    size = f"{len(context.table)} {context.unit} of {chosen['num_subjects']} patients"
    question = schema.label if schema.positive is None else f"{schema.label}: {schema.positive}?"
    events = ""
    if schema.kind == "binary":
        events = f"{chosen['num_positive']} of {chosen['num_images']} {context.unit} are"
    elif schema.classes:
        events = f"{len(schema.classes)} {'labels' if schema.kind == 'multilabel' else 'classes'}: {', '.join(schema.classes[:12])}"
    what = "cohort and split" if context.is_run else "table and split"
    rows = [(what, f"{context.cohort}, {context.split}", size), ("question", question, events)]
    if context.is_run:
        source = f"trained on {context.config.get('data', {}).get('cohort', '')}"
        rows += [
            ("model", context.model_names[0], source),
            ("checkpoint", f"step {context.step}", _checkpoint(context)),
        ]
    elif schema.kind == "values":
        rows.append(("values", ", ".join(schema.models), "one for each case"))
    else:
        several = len(context.model_names) > 1
        note = f"shown in full: {context.model_names[0]}" if several else "scores as given"
        rows.append(("models" if several else "model", ", ".join(context.model_names), note))
    if schema.kind in ("binary", "multilabel"):
        rows.append(_threshold_row(context))
    drawn = f"bootstrap scores: {chosen['resamples']} resamples, seed {chosen['seed']}"
    rows.append(("intervals", "95 %, clustered by patient", drawn))
    return ReportTable(("", ""), [(text_cell(a), text_cell(b, c)) for a, b, c in rows])


def settings(context: Context) -> Section:
    """The section on settings: versions, fingerprints and the command that makes the report again."""
    chosen = context.frame.settings
    rows = []
    if context.is_run:
        rows += [
            ("configuration", chosen["config_fingerprint"]),
            ("checkpoint", chosen["checkpoint_fingerprint"]),
        ]
    rows += list(chosen["versions"].items())
    built = context.cohort_report.get("built")
    if isinstance(built, dict):
        rows += [(f"cohort built with {k}", v) for k, v in built.items() if isinstance(v, str | int | float)]
    if context.cohort_report.get("version"):
        rows.append(("cohort version", context.cohort_report["version"]))
    versions = ReportTable(("version", ""), [(text_cell(a), text_cell(b)) for a, b in rows])
    return Section(
        "Settings, versions and fingerprints",
        (),
        tables=(_scored(context), versions),
        command=context.made_by or None,
    )
